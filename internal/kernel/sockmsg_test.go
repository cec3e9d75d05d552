package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// sockMessage builds a message of sock_diag as the kernel sends one.
func sockMessage(family byte, s sock) []byte {
	msg := make([]byte, inetDiagMsgLen)
	msg[0], msg[1] = family, s.state
	binary.BigEndian.PutUint16(msg[4:], s.local.Port())
	binary.BigEndian.PutUint16(msg[6:], s.remote.Port())
	if family == unix.AF_INET {
		copy(msg[8:], s.local.Addr().AsSlice())
		copy(msg[24:], s.remote.Addr().AsSlice())
	} else {
		local, remote := s.local.Addr().As16(), s.remote.Addr().As16() // IPv4 becomes mapped
		copy(msg[8:], local[:])
		copy(msg[24:], remote[:])
	}
	msg = append(msg, attr(8, []byte{0})...) // INET_DIAG_SHUTDOWN
	if s.state == sockListen && family == unix.AF_INET6 {
		only := byte(0)
		if s.v6Only {
			only = 1
		}
		msg = append(msg, attr(inetDiagSKV6Only, []byte{only})...)
	}
	if s.info {
		info := make([]byte, 104)
		info[tcpiOptions] = s.options
		info[tcpiWScale] = s.send | s.receive<<4
		if first, _ := nibbles(0x12); first == 1 {
			info[tcpiWScale] = s.send<<4 | s.receive
		}
		msg = append(msg, attr(inetDiagInfo, info)...)
	}
	return msg
}

func TestParseSock(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("[2001:db8::1]:443")
	peer4, peer6 := netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("[2001:db8::7]:40001")
	all := uint8(tcpiOptTimestamps | tcpiOptSACK | tcpiOptWScale)
	for name, tt := range map[string]struct {
		family byte
		want   sock
	}{
		"IPv4":      {unix.AF_INET, sock{state: sockEstablished, local: v4, remote: peer4, info: true, options: all, send: 7, receive: 10}},
		"IPv6":      {unix.AF_INET6, sock{state: sockCloseWait, local: v6, remote: peer6, v6: true, info: true, options: tcpiOptSACK}},
		"mapped":    {unix.AF_INET6, sock{state: sockFinWait1, local: v4, remote: peer4, v6: true, info: true, options: all, send: 14}},
		"orphan":    {unix.AF_INET, sock{state: sockFinWait2, local: v4, remote: peer4}},
		"listening": {unix.AF_INET6, sock{state: sockListen, local: v6, remote: netip.MustParseAddrPort("[::]:0"), v6: true, v6Only: true}},
	} {
		if got, err := parseSock(sockMessage(tt.family, tt.want)); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
	}
}

func TestParseSockRefuses(t *testing.T) {
	t.Parallel()
	head := make([]byte, inetDiagMsgLen)
	for name, msg := range map[string][]byte{
		"empty":              nil,
		"short":              head[:inetDiagMsgLen-1],
		"half a header":      append(slices.Clone(head), 8, 0),
		"overrun":            append(slices.Clone(head), 200, 0, 2, 0),
		"v6only of 2 bytes":  append(slices.Clone(head), attr(inetDiagSKV6Only, []byte{0, 1})...),
		"an empty attribute": append(slices.Clone(head), attr(inetDiagSKV6Only)...),
	} {
		if got, err := parseSock(msg); err == nil || got != (sock{}) {
			t.Errorf("%s: %+v, %v; want an error", name, got, err)
		}
	}
	if got, err := parseSock(append(slices.Clone(head), attr(inetDiagInfo, make([]byte, tcpiWScale))...)); err != nil || got.info {
		t.Errorf("a short tcp_info: %+v, %v", got, err)
	}
}

func FuzzParseSock(f *testing.F) {
	s := sock{
		state: sockEstablished, local: netip.MustParseAddrPort("192.0.2.1:80"), remote: netip.MustParseAddrPort("192.0.2.7:40000"),
		info: true, options: tcpiOptWScale, send: 7, receive: 10,
	}
	f.Add(sockMessage(unix.AF_INET, s))
	f.Add(sockMessage(unix.AF_INET6, s))
	f.Add(make([]byte, inetDiagMsgLen))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := slices.Clone(msg)
		got, err := parseSock(msg)
		if err != nil && got != (sock{}) {
			t.Fatalf("%+v beside the error %v", got, err)
		}
		if got.send > 15 || got.receive > 15 || got.local.Addr().Is4In6() {
			t.Fatalf("%+v", got)
		}
		if !slices.Equal(msg, before) {
			t.Fatal("the message was changed")
		}
	})
}

// TestDirection has listeners of all kinds and connections to and past them.
func TestDirection(t *testing.T) {
	t.Parallel()
	ap := netip.MustParseAddrPort
	listen := listeners{}
	for _, s := range []sock{
		{local: ap("192.0.2.1:80")},
		{local: ap("0.0.0.0:81")},
		{local: ap("[2001:db8::1]:82"), v6: true},
		{local: ap("[::]:83"), v6: true},
		{local: ap("[::]:84"), v6: true, v6Only: true},
	} {
		listen.add(s)
	}
	for local, want := range map[string]bool{
		"192.0.2.1:80": true, "192.0.2.2:80": false, "192.0.2.1:81": true, "[2001:db8::1]:81": false,
		"[2001:db8::1]:82": true, "[2001:db8::2]:82": false, "192.0.2.1:83": true, "[2001:db8::1]:83": true,
		"192.0.2.1:84": false, "[2001:db8::1]:84": true, "192.0.2.1:85": false,
	} {
		if got := listen.on(ap(local)); got != want {
			t.Errorf("%s: a listener %t, want %t", local, got, want)
		}
	}
	a := sock{state: sockLastAck, local: ap("192.0.2.1:80"), remote: ap("192.0.2.1:40000"), info: true}
	b := sock{state: sockEstablished, local: a.remote, remote: a.local, info: true, options: tcpiOptWScale, send: 1, receive: 2}
	c := sock{state: sockFinWait2, local: ap("192.0.2.1:5000"), remote: ap("192.0.2.9:40000"), send: 3}
	got := connections([]sock{a, b, c, b}, listen)
	want := []Socket{
		{Local: a.local, Remote: a.remote, Inbound: true, Loopback: true, Closing: true},
		{Local: b.local, Remote: b.remote, Loopback: true, WindowScale: true, LocalWScale: 2, RemoteWScale: 1},
		{Local: c.local, Remote: c.remote, Closing: true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("\n%+v\n%+v", got, want)
	}
}
