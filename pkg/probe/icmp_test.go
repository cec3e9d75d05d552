package probe

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// error4 is the ICMP message of a router that could not deliver a recorded SYN.
func error4(kind, code byte, quoted []byte) []byte {
	b := append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, quoted...)
	binary.BigEndian.PutUint16(b[2:], ^fold(onesSum(0, b)))
	return b
}

// Both quote the recorded SYN up to the end of its first 8 bytes, which is all that a router has to.
const (
	quoted4 = "4500 003c 2138 4000 4006 9580 c000 0201 c000 0202 beba 0050 54cf 7061"
	quoted6 = `6006 c027 0028 0640 2001 0db8 0000 0000 0000 0000 0000 0001 2001 0db8 0000 0000 0000 0000 0000 0002
		97ba 0050 aa32 302b`
)

func TestParseICMPReasons(t *testing.T) {
	from4, to4 := netip.AddrPortFrom(client4, 48826), netip.AddrPortFrom(server4, 80)
	from6, to6 := netip.AddrPortFrom(client6, 38842), netip.AddrPortFrom(server6, 80)
	for _, tt := range []struct {
		kind, code byte
		v6         bool
		reason     string
	}{
		{3, 0, false, "net-unreachable"},
		{3, 1, false, "host-unreachable"},
		{3, 2, false, "protocol-unreachable"},
		{3, 3, false, "port-unreachable"},
		{3, 4, false, "fragmentation-needed"},
		{3, 9, false, "net-prohibited"},
		{3, 10, false, "host-prohibited"},
		{3, 13, false, "admin-prohibited"},
		{3, 15, false, "precedence-cutoff"},
		{3, 16, false, "unreachable-code-16"},
		{11, 0, false, "time-exceeded"},
		{12, 0, false, "parameter-problem"},
		{1, 0, true, "no-route"},
		{1, 1, true, "admin-prohibited"},
		{1, 3, true, "address-unreachable"},
		{1, 4, true, "port-unreachable"},
		{1, 6, true, "reject-route"},
		{1, 200, true, "unreachable-code-200"},
		{2, 0, true, "packet-too-big"},
		{3, 0, true, "time-exceeded"},
		{4, 0, true, "parameter-problem"},
	} {
		want := quoted{reason: tt.reason, src: from4, dst: to4, seq: 0x54cf7061, valid: true}
		got := parseICMP4(error4(tt.kind, tt.code, fromHex(t, quoted4)))
		if tt.v6 {
			want.src, want.dst, want.seq = from6, to6, 0xaa32302b
			got = parseICMP6(append([]byte{tt.kind, tt.code, 0, 0, 0, 0, 0, 0}, fromHex(t, quoted6)...))
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(quoted{}), cmp.Comparer(sameAddrPort)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
		}
	}
}

func sameAddrPort(a, b netip.AddrPort) bool { return a == b }

func TestParseICMPIgnores(t *testing.T) {
	good := error4(3, 1, fromHex(t, quoted4))
	for n := range len(good) {
		if got := parseICMP4(error4(3, 1, fromHex(t, quoted4)[:max(n-8, 0)])); got.valid {
			t.Errorf("%d of %d bytes are taken for a whole message", n, len(good))
		}
	}
	damaged := bytes.Clone(good)
	damaged[len(damaged)-1] ^= 1
	change := func(at int, to byte) []byte {
		q := fromHex(t, quoted4)
		q[at] = to
		return error4(3, 1, q)
	}
	for name, b := range map[string][]byte{
		"wrong checksum":                 damaged,
		"echo reply":                     error4(0, 0, fromHex(t, quoted4)),
		"redirect":                       error4(5, 1, fromHex(t, quoted4)),
		"about UDP":                      change(9, 17),
		"about a fragment":               change(7, 1),
		"about IPv6":                     change(0, 0x65),
		"quoted header length 0":         change(0, 0x40),
		"quoted header longer than that": change(0, 0x4f),
	} {
		if parseICMP4(b).valid {
			t.Errorf("%s: taken for an answer", name)
		}
	}
	six := append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, fromHex(t, quoted6)...)
	for n := range len(six) {
		if parseICMP6(six[:n]).valid {
			t.Errorf("ICMPv6: %d of %d bytes are taken for a whole message", n, len(six))
		}
	}
	for name, at := range map[string]int{"neighbour advertisement": 0, "about UDP": icmpHeader + 6, "about IPv4": icmpHeader} {
		b := bytes.Clone(six)
		b[at] = 136
		if parseICMP6(b).valid {
			t.Errorf("ICMPv6 %s: taken for an answer", name)
		}
	}
}

func FuzzICMP(f *testing.F) {
	f.Add(error4(3, 13, fromHex(f, quoted4)), false)
	f.Add(append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, fromHex(f, quoted6)...), true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		parse := parseICMP4
		if v6 {
			parse = parseICMP6
		}
		got := parse(b)
		if got.valid != (got.reason != "") || got.valid != got.dst.Addr().IsValid() {
			t.Errorf("half a result: %+v", got)
		}
		if got.valid && got.dst.Addr().Is4() == v6 {
			t.Errorf("address %s of the other family", got.dst)
		}
	})
}
