package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// attr builds a netlink attribute, padded to the alignment of 4.
func attr(typ uint16, parts ...[]byte) []byte {
	data := slices.Concat(parts...)
	out := binary.NativeEndian.AppendUint16(nil, uint16(nlattrLen+len(data)))
	out = binary.NativeEndian.AppendUint16(out, typ)
	out = append(out, data...)
	return append(out, make([]byte, -len(data)&3)...)
}

const nested = 1 << 15 // NLA_F_NESTED

// entry builds a ctnetlink message as the kernel sends one.
func entry(dst netip.AddrPort, state byte, proxied bool) []byte {
	typ := uint16(ctaIPv6Dst)
	if dst.Addr().Is4() {
		typ = ctaIPv4Dst
	}
	msg := []byte{2, 0, 0, 0}
	msg = append(msg, attr(ctaTupleOrig|nested,
		attr(ctaTupleIP|nested, attr(typ-1, dst.Addr().AsSlice()), attr(typ, dst.Addr().AsSlice())),
		attr(ctaTupleProto|nested, attr(1, []byte{6}), attr(2, []byte{0x9c, 0x40}),
			attr(ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, dst.Port()))),
	)...)
	msg = append(msg, attr(3, []byte{0, 0, 1, 0x8e})...)
	if state != 0 {
		msg = append(msg, attr(ctaProtoInfo|nested,
			attr(ctaProtoInfoTCP|nested, attr(ctaProtoTCPState, []byte{state}), attr(2, []byte{10})))...)
	}
	if proxied {
		msg = append(msg, attr(ctaSynproxy|nested, attr(1, make([]byte, 4)), attr(2, make([]byte, 4)))...)
	}
	return msg
}

func TestParseConn(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddrPort("192.0.2.42:80"), netip.MustParseAddrPort("[2001:db8::42]:443")
	for _, want := range []conn{{true, 3, v4}, {true, 2, v6}, {false, 3, v6}, {false, 0, v4}} {
		got, err := parseConn(entry(want.dst, want.state, want.proxied))
		if err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
}

func TestParseConnRefuses(t *testing.T) {
	t.Parallel()
	genmsg := []byte{2, 0, 0, 0}
	for name, msg := range map[string][]byte{
		"empty":              nil,
		"short":              genmsg[:3],
		"half a header":      append(slices.Clone(genmsg), 8, 0),
		"length 0":           append(slices.Clone(genmsg), 0, 0, 1, 0),
		"length 3":           append(slices.Clone(genmsg), 3, 0, 1, 0),
		"overrun":            append(slices.Clone(genmsg), 9, 0, 1, 0, 0, 0, 0, 0),
		"overrun inside":     append(slices.Clone(genmsg), attr(ctaTupleOrig, []byte{9, 0, 1, 0})...),
		"IPv4 of 16 bytes":   append(slices.Clone(genmsg), attr(ctaTupleOrig, attr(ctaTupleIP, attr(ctaIPv4Dst, make([]byte, 16))))...),
		"IPv6 of 4 bytes":    append(slices.Clone(genmsg), attr(ctaTupleOrig, attr(ctaTupleIP, attr(ctaIPv6Dst, make([]byte, 4))))...),
		"address of 5 bytes": append(slices.Clone(genmsg), attr(ctaTupleOrig, attr(ctaTupleIP, attr(ctaIPv4Dst, make([]byte, 5))))...),
		"port of 1 byte":     append(slices.Clone(genmsg), attr(ctaTupleOrig, attr(ctaTupleProto, attr(ctaProtoDstPort, []byte{1})))...),
		"state of 2 bytes":   append(slices.Clone(genmsg), attr(ctaProtoInfo, attr(ctaProtoInfoTCP, attr(ctaProtoTCPState, []byte{3, 0})))...),
	} {
		if got, err := parseConn(msg); err == nil || got != (conn{}) {
			t.Errorf("%s: %+v, %v; want an error", name, got, err)
		}
	}
}

func FuzzParseConn(f *testing.F) {
	f.Add(entry(netip.MustParseAddrPort("192.0.2.42:80"), 3, true))
	f.Add(entry(netip.MustParseAddrPort("[2001:db8::42]:443"), 0, false))
	f.Add([]byte{2, 0, 0, 0, 3, 0, 1, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := slices.Clone(msg)
		got, err := parseConn(msg)
		if err != nil && got != (conn{}) {
			t.Fatalf("%+v beside the error %v", got, err)
		}
		if !slices.Equal(msg, before) {
			t.Fatal("the message was changed")
		}
	})
}
