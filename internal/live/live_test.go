package live

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

var (
	src4, dst4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2")
	src6, dst6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:1::2")
)

func TestFrameComesBack(t *testing.T) {
	t.Parallel()
	want := probe.Segment{SrcPort: 1234, DstPort: 80, Seq: 1 << 31, Ack: 7, Flags: probe.SYN | probe.ACK, Window: 5}
	for _, pair := range [][2]netip.Addr{{src4, dst4}, {src6, dst6}} {
		b := frame(make(net.HardwareAddr, 6), make(net.HardwareAddr, 6), pair[0], pair[1], want)
		src, dst, got, err := parseFrame(b)
		if err != nil || got != want || src != netip.AddrPortFrom(pair[0], 1234) || dst != netip.AddrPortFrom(pair[1], 80) {
			t.Errorf("%v to %v, %+v, %v", src, dst, got, err)
		}
		for n := range b {
			if _, _, _, err := parseFrame(b[:n]); err == nil {
				t.Errorf("%d of %d bytes are taken for a segment", n, len(b))
			}
		}
		if pair[0].Is4() && checksum(b[etherHeader:etherHeader+ipv4Header]) != 0 {
			t.Error("wrong header checksum")
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, pair := range [][2]netip.Addr{{src4, dst4}, {src6, dst6}} {
		f.Add(frame(make(net.HardwareAddr, 6), make(net.HardwareAddr, 6), pair[0], pair[1], probe.Segment{Flags: probe.SYN}))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		src, dst, _, err := parseFrame(b)
		if err == nil && src.Addr().Is4() != dst.Addr().Is4() {
			t.Errorf("%v to %v", src, dst)
		}
		var a answers
		a.add(b, dst, map[netip.AddrPort]*forged{dst: {source: dst}})
	})
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	service := netip.AddrPortFrom(dst4, 80)
	client := netip.AddrPortFrom(src4, 1234)
	for _, tt := range []struct {
		name    string
		segment probe.Segment
		want    answers
	}{
		{"the proxy's", probe.Segment{Flags: probe.SYN | probe.ACK, Ack: 101}, answers{byProxy: 1}},
		{"the proxy's, with a window for zero-window probes", probe.Segment{Flags: probe.SYN | probe.ACK, Ack: 101, Window: 1}, answers{byProxy: 1}},
		{"a service's", probe.Segment{Flags: probe.SYN | probe.ACK, Ack: 101, Window: 64240}, answers{byOthers: 1}},
		{"refused", probe.Segment{Flags: probe.RST | probe.ACK, Ack: 101}, answers{refused: 1}},
		{"a challenge", probe.Segment{Flags: probe.ACK, Ack: 101}, answers{byOthers: 1}},
		{"of another SYN", probe.Segment{Flags: probe.SYN | probe.ACK, Ack: 100}, answers{}},
		{"no acknowledgement", probe.Segment{Flags: probe.SYN, Ack: 101}, answers{}},
	} {
		tt.segment.SrcPort, tt.segment.DstPort = 80, 1234
		syns := map[netip.AddrPort]*forged{client: {source: client, seq: 100}}
		b := frame(make(net.HardwareAddr, 6), make(net.HardwareAddr, 6), dst4, src4, tt.segment)
		var got answers
		got.add(b, netip.AddrPortFrom(dst4, 81), syns)
		got.add(b, service, syns)
		got.add(b, service, syns) // a second time is not another answer
		if got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	for _, v4 := range []bool{true, false} {
		for _, p := range candidates(v4) {
			inside := range6.Contains(p.Addr())
			for _, r := range ranges4 {
				inside = inside || r.Contains(p.Addr())
			}
			if p != p.Masked() || !inside || p.Addr().Is4() != v4 {
				t.Errorf("network %s", p)
			}
			last := nth(p, inUse4)
			if !p.Contains(last) || nth(p, 0) != p.Addr() || v4 && p.Contains(nth(p, inUse4+1)) {
				t.Errorf("%s: from %s to %s", p, nth(p, 0), last)
			}
		}
	}
	for n, want := range map[int]string{0: "192.0.2.64", 1: "192.0.2.65", 63: "192.0.2.127", 192: "192.0.3.0", 65536: "192.1.2.64"} {
		if got := nth(netip.MustParsePrefix("192.0.2.64/26"), n).String(); got != want {
			t.Errorf("address %d is %s, want %s", n, got, want)
		}
	}
}

func TestAlias(t *testing.T) {
	t.Parallel()
	for alias, want := range map[string]bool{
		ownAlias(): false, "": false, "somebody's": false, "synproxyctl verify --live, process x of tick 1": false,
		fmt.Sprintf(aliasFormat, 2_000_000_000, "17"):                          true,
		strings.Replace(ownAlias(), "of tick ", "of tick 1", 1):                true,
		fmt.Sprintf(aliasFormat, os.Getpid(), startTime(os.Getpid())) + "\x00": true,
	} {
		if got := isLeftOver(alias); got != want {
			t.Errorf("%q is left over: %v", alias, got)
		}
	}
}

func TestStatStart(t *testing.T) {
	t.Parallel()
	rest := " S" + strings.Repeat(" 0", 18)
	for stat, want := range map[string]string{
		"1 (init)" + rest + " 42 7": "42", "1 (a) b) c 9)" + rest + " 43 7": "43", "1 (init)" + rest: "", "": "", ")": "",
	} {
		if got := statStart(stat); got != want {
			t.Errorf("%q: %q, want %q", stat, got, want)
		}
	}
}

func FuzzDiagPeer(f *testing.F) {
	f.Add(make([]byte, 72))
	f.Add([]byte{2, 3})
	f.Fuzz(func(t *testing.T, msg []byte) {
		if peer, ok := diagPeer(msg); ok && !peer.IsValid() {
			t.Errorf("%v", peer)
		}
	})
}

func TestDiagPeer(t *testing.T) {
	t.Parallel()
	msg := make([]byte, 72)
	msg[0], msg[6], msg[7] = 2, 0x12, 0x34
	copy(msg[24:], src4.AsSlice())
	want := netip.AddrPortFrom(src4, 0x1234)
	if got, ok := diagPeer(msg); !ok || got != want {
		t.Errorf("%v, want %v", got, want)
	}
	msg[0] = 10
	mapped := src4.As16()
	copy(msg[24:], mapped[:])
	if got, ok := diagPeer(msg); !ok || got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestFinish(t *testing.T) {
	t.Parallel()
	target := Target{Destination: netip.AddrPortFrom(dst4, 80), Hook: rules.Input, Interfaces: []string{"a", "b", "a"}}
	good, bad, unsure := Path{Verdict: Proven}, Path{Verdict: Failed, Code: NoData}, Path{Verdict: Unproven, Code: NoAnswer}
	for _, tt := range []struct {
		paths   []Path
		verdict Verdict
		code    Code
	}{
		{nil, Unproven, NotPossible},
		{[]Path{good}, Unproven, NotPossible}, // one of two interfaces
		{[]Path{good, good}, Proven, ""},
		{[]Path{good, unsure}, Unproven, NoAnswer},
		{[]Path{unsure, bad}, Failed, NoData},
		{[]Path{{}, good}, Unproven, NotPossible},
	} {
		r := Result{Target: target, Paths: tt.paths}
		r.finish()
		if r.Verdict != tt.verdict || r.Code != tt.code {
			t.Errorf("%+v: %s %q, want %s %q", tt.paths, r.Verdict, r.Code, tt.verdict, tt.code)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	for _, tt := range []struct {
		err, back error
		verdict   Verdict
	}{
		{nil, nil, Proven},
		{failed(NoData, "x"), nil, Failed},
		{unproven(NoAnswer, "x"), nil, Unproven},
		{other, other, Unproven},
		{errors.Join(failed(NoData, "x"), other), other, Failed},
	} {
		var p Path
		back := p.judge(tt.err)
		if p.Verdict != tt.verdict || (back == nil) != (tt.back == nil) || tt.back != nil && !errors.Is(back, tt.back) {
			t.Errorf("%v: %s, %v", tt.err, p.Verdict, back)
		}
	}
}
