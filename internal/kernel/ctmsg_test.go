package kernel

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	testV4 = Conn{
		Original:  Tuple{netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.42:80")},
		Reply:     Tuple{netip.MustParseAddrPort("10.0.0.42:8080"), netip.MustParseAddrPort("198.51.100.7:40000")},
		State:     TCPEstablished,
		Proxied:   true,
		Status:    StatusSeenReply | StatusAssured | StatusConfirmed,
		Timeout:   432000 * time.Second,
		transport: unix.IPPROTO_TCP, id: 0x1234abcd, synproxy: true,
		WScaleOriginal: 7, WScaleReply: 10,
		FlagsOriginal: FlagWindowScale | FlagSACKPermitted, FlagsReply: FlagWindowScale | FlagLiberal,
	}
	testV6 = Conn{
		Original:  Tuple{netip.MustParseAddrPort("[2001:db8::7]:40001"), netip.MustParseAddrPort("[2001:db8::42]:443")},
		Reply:     Tuple{netip.MustParseAddrPort("[2001:db8::42]:443"), netip.MustParseAddrPort("[2001:db8::7]:40001")},
		State:     TCPSynSent,
		Status:    StatusConfirmed,
		Timeout:   120 * time.Second,
		Zone:      7,
		transport: unix.IPPROTO_TCP, id: 1,
	}
)

// entry builds a ctnetlink message as the kernel sends one.
func entry(c Conn) []byte {
	msg := c.creating()
	if c.State == TCPNone { // not TCP
		msg = slices.Concat(nfgenmsg(c.Original.Src.Addr()),
			tupleAttr(ctaTupleOrig, c.transport, c.Original), tupleAttr(ctaTupleReply, c.transport, c.Reply))
	}
	if c.id != 0 {
		msg = append(msg, attr(ctaID, be32(c.id))...)
	}
	if c.Zone != 0 {
		msg = append(msg, attr(ctaZone, be16(c.Zone))...)
	}
	if c.synproxy {
		isn := uint32(0)
		if c.Proxied {
			isn = 0x01020304
		}
		msg = append(msg, nest(ctaSynproxy, attr(ctaSynproxyISN, be32(isn)), attr(ctaSynproxyITS, be32(0)), attr(ctaSynproxyTSOff, be32(0)))...)
	}
	return append(msg, attr(11, be32(2))...) // CTA_USE
}

func TestParseConn(t *testing.T) {
	t.Parallel()
	injected := testV4
	injected.Proxied = false
	udp := Conn{Original: testV6.Original, Reply: testV6.Reply, transport: unix.IPPROTO_UDP}
	for name, want := range map[string]Conn{
		"proxied IPv4": testV4, "direct IPv6 in a zone": testV6, "zeros of ctnetlink": injected, "UDP": udp,
	} {
		got, err := parseConn(entry(want))
		if err != nil || got != want {
			t.Errorf("%s:\n%+v, %v; want\n%+v", name, got, err, want)
		}
	}
}

func TestParseConnRefuses(t *testing.T) {
	t.Parallel()
	genmsg := []byte{2, 0, 0, 0}
	with := func(attrs ...[]byte) []byte { return slices.Concat(append([][]byte{genmsg}, attrs...)...) }
	tcp := func(attrs ...[]byte) []byte { return with(attr(ctaProtoInfo, attr(ctaProtoInfoTCP, attrs...))) }
	for name, msg := range map[string][]byte{
		"empty":              nil,
		"short":              genmsg[:3],
		"half a header":      with([]byte{8, 0}),
		"length 0":           with([]byte{0, 0, 1, 0}),
		"length 3":           with([]byte{3, 0, 1, 0}),
		"overrun":            with([]byte{9, 0, 1, 0, 0, 0, 0, 0}),
		"overrun inside":     with(attr(ctaTupleOrig, []byte{9, 0, 1, 0})),
		"IPv4 of 16 bytes":   with(attr(ctaTupleOrig, attr(ctaTupleIP, attr(ctaIPv4Dst, make([]byte, 16))))),
		"IPv6 of 4 bytes":    with(attr(ctaTupleReply, attr(ctaTupleIP, attr(ctaIPv6Src, make([]byte, 4))))),
		"address of 5 bytes": with(attr(ctaTupleOrig, attr(ctaTupleIP, attr(ctaIPv4Src, make([]byte, 5))))),
		"port of 1 byte":     with(attr(ctaTupleOrig, attr(ctaTupleProto, attr(ctaProtoDstPort, []byte{1})))),
		"port of 3 bytes":    with(attr(ctaTupleReply, attr(ctaTupleProto, attr(ctaProtoSrcPort, []byte{1, 2, 3})))),
		"empty protocol":     with(attr(ctaTupleOrig, attr(ctaTupleProto, attr(ctaProtoNum)))),
		"state of 2 bytes":   tcp(attr(ctaProtoTCPState, []byte{3, 0})),
		"empty scale":        tcp(attr(ctaProtoTCPWScaleOriginal)),
		"scale of 2 bytes":   tcp(attr(ctaProtoTCPWScaleReply, []byte{3, 0})),
		"flags of 1 byte":    tcp(attr(ctaProtoTCPFlagsReply, []byte{3})),
		"status of 3 bytes":  with(attr(ctaStatus, make([]byte, 3))),
		"timeout of 8 bytes": with(attr(ctaTimeout, make([]byte, 8))),
		"empty identity":     with(attr(ctaID)),
		"zone of 4 bytes":    with(attr(ctaZone, make([]byte, 4))),
		"short SYNPROXY":     with(attr(ctaSynproxy, attr(ctaSynproxyISN, make([]byte, 2)))),
	} {
		if got, err := parseConn(msg); err == nil || got != (Conn{}) {
			t.Errorf("%s: %+v, %v; want an error", name, got, err)
		}
	}
}

// TestConnNaming reads what names an entry back: its tuple, zone and identity.
func TestConnNaming(t *testing.T) {
	t.Parallel()
	for _, c := range []Conn{testV4, testV6} {
		want := Conn{Original: c.Original, Zone: c.Zone, id: c.id, transport: c.transport}
		if got, err := parseConn(c.naming()); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
}

func TestTCPStateNames(t *testing.T) {
	t.Parallel()
	for s, want := range map[TCPState]string{TCPNone: "NONE", TCPEstablished: "ESTABLISHED", TCPSynSent2: "SYN_SENT2", 10: "state 10"} {
		if got := s.String(); got != want {
			t.Errorf("%d is called %q, want %q", s, got, want)
		}
	}
}

func FuzzParseConn(f *testing.F) {
	for _, c := range []Conn{testV4, testV6, {Original: testV4.Original, Reply: testV4.Reply, transport: unix.IPPROTO_UDP}} {
		f.Add(entry(c))
		f.Add(c.naming())
	}
	f.Add([]byte{2, 0, 0, 0, 3, 0, 1, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := slices.Clone(msg)
		got, err := parseConn(msg)
		if err != nil && got != (Conn{}) {
			t.Fatalf("%+v beside the error %v", got, err)
		}
		if got.Proxied && !got.synproxy {
			t.Fatalf("proxied without the attribute: %+v", got)
		}
		if !slices.Equal(msg, before) {
			t.Fatal("the message was changed")
		}
	})
}
