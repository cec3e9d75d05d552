package firewall

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// addresses reads an address with or without a prefix length or a mask.
func (p *xtablesParser) addresses(f Field, text string) (Condition, bool) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return where(f, prefixRange(prefix)), true
	}
	addr, mask, hasMask := strings.Cut(text, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return Condition{}, false
	}
	if !hasMask {
		return where(f, exactly(a.AsSlice()...)), true
	}
	m, err := netip.ParseAddr(mask)
	if err != nil || m.BitLen() != a.BitLen() || m.Zone() != "" {
		return Condition{}, false
	}
	return masked(f, a.AsSlice(), m.AsSlice()), true
}

// masked returns the condition that a field has a value under a mask: as a
// range, if the mask is one of a prefix.
func masked(f Field, value, mask []byte) Condition {
	if r, ok := maskRange(value, mask); ok {
		return where(f, r)
	}
	return Condition{Keys: []Key{{Field: f, Mask: mask}}, In: [][]Range{{exactly(and(value, mask)...)}}}
}

// maskRange returns the values that a prefix mask lets through.
func maskRange(value, mask []byte) (Range, bool) {
	from, to := and(value, mask), and(value, mask)
	ended := false
	for i, m := range mask {
		inverse := ^m
		if ended && m != 0 || inverse&(inverse+1) != 0 {
			return Range{}, false
		}
		ended = ended || m != 0xff
		to[i] |= inverse
	}
	return Range{from, to}, true
}

// addressRange reads "from-to".
func addressRange(f Field, text string) (Condition, bool) {
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		to = from
	}
	a, err1 := netip.ParseAddr(from)
	b, err2 := netip.ParseAddr(to)
	if err1 != nil || err2 != nil || a.BitLen() != b.BitLen() {
		return Condition{}, false
	}
	return where(f, Range{a.AsSlice(), b.AsSlice()}), true
}

// interfaceNamed reads the name of an interface; a "+" at the end stands for any
// rest.
func interfaceNamed(f Field, name string) (Condition, bool) {
	stem, wild := strings.CutSuffix(name, "+")
	if len(stem) >= unix.IFNAMSIZ {
		return Condition{}, false
	}
	r := exactly(deviceName(stem)...)
	if wild {
		r.To = deviceName(stem)
		for i := len(stem); i < len(r.To); i++ {
			r.To[i] = 0xff
		}
	}
	return where(f, r), true
}

var protocolNumbers = map[string]byte{
	"icmp": unix.IPPROTO_ICMP, "igmp": unix.IPPROTO_IGMP, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP,
	"dccp": unix.IPPROTO_DCCP, "ipv6": unix.IPPROTO_IPV6, "gre": unix.IPPROTO_GRE, "esp": unix.IPPROTO_ESP,
	"ah": unix.IPPROTO_AH, "ipv6-icmp": unix.IPPROTO_ICMPV6, "icmpv6": unix.IPPROTO_ICMPV6,
	"sctp": unix.IPPROTO_SCTP, "udplite": unix.IPPROTO_UDPLITE, "vrrp": 112, "ospf": 89, "pim": unix.IPPROTO_PIM,
}

func protocolNamed(name string) (Condition, bool) {
	if name == "all" || name == "0" {
		return where(Protocol, Range{[]byte{0}, []byte{0xff}}), true
	}
	n, ok := protocolNumbers[name]
	if !ok {
		number, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return Condition{}, false
		}
		n = byte(number)
	}
	return where(Protocol, exactly(n)), true
}

// ports reads the options of tcp and of multiport.
func (p *xtablesParser) ports(word string) bool {
	var in []Range
	for part := range strings.SplitSeq(p.value(), ",") {
		from, to, isRange := strings.Cut(part, ":")
		a, err1 := portNumber(from, 0)
		b, err2 := portNumber(to, 0xffff)
		if !isRange {
			b, err2 = a, nil
		}
		if err1 != nil || err2 != nil {
			return false
		}
		in = append(in, portRange(a, b))
	}
	switch {
	case word == "--ports": // either of them
		return false
	case strings.HasPrefix(word, "--s"):
		return p.add(where(SourcePort, in...), true)
	}
	return p.add(where(DestinationPort, in...), true)
}

func portNumber(text string, missing uint16) (uint16, error) {
	if text == "" {
		return missing, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err
}

func portRange(a, b uint16) Range {
	return Range{binary.BigEndian.AppendUint16(nil, a), binary.BigEndian.AppendUint16(nil, b)}
}

var flagBits = map[string]rules.TCPFlags{
	"FIN": rules.FIN, "SYN": rules.SYN, "RST": rules.RST, "PSH": rules.PSH, "ACK": rules.ACK, "URG": rules.URG,
	"NONE": 0, "ALL": rules.FIN | rules.SYN | rules.RST | rules.PSH | rules.ACK | rules.URG,
}

func tcpFlags(mask, set string) (Condition, bool) {
	m, ok1 := bits(mask, flagBits)
	s, ok2 := bits(set, flagBits)
	c := Condition{Keys: []Key{{Field: Flags, Mask: []byte{byte(m)}}}, In: [][]Range{{exactly(byte(s))}}}
	return c, ok1 && ok2
}

var stateBits = map[string]rules.States{
	"INVALID": rules.Invalid, "NEW": rules.New, "RELATED": rules.Related,
	"ESTABLISHED": rules.Established, "UNTRACKED": rules.Untracked,
}

// states reads a list of states. SNAT and DNAT are states of another kind, and
// beside others they are not understood.
func states(text string) (Condition, bool) {
	if text == "DNAT" {
		return where(Translated, exactly(1)), true
	}
	set, ok := bits(text, stateBits)
	return stateSet(set), ok
}

func stateSet(set rules.States) Condition {
	c := where(CTState)
	for bit := rules.Invalid; bit <= rules.Untracked; bit <<= 1 {
		if set&bit != 0 {
			c.In = append(c.In, []Range{exactly(byte(bit))})
		}
	}
	return c
}

// bits reads names that are separated by commas.
func bits[T ~uint8](text string, names map[string]T) (set T, ok bool) {
	for name := range strings.SplitSeq(text, ",") {
		bit, ok := names[name]
		if !ok {
			return 0, false
		}
		set |= bit
	}
	return set, true
}

// routeTypes are the types of addresses of addrtype and of fib.
var routeTypes = map[string]byte{
	"UNICAST": unix.RTN_UNICAST, "LOCAL": unix.RTN_LOCAL, "BROADCAST": unix.RTN_BROADCAST,
	"ANYCAST": unix.RTN_ANYCAST, "MULTICAST": unix.RTN_MULTICAST, "BLACKHOLE": unix.RTN_BLACKHOLE,
	"UNREACHABLE": unix.RTN_UNREACHABLE, "PROHIBIT": unix.RTN_PROHIBIT, "UNSPEC": unix.RTN_UNSPEC,
}

func addressTypes(f Field, text string) (Condition, bool) {
	c := where(f)
	for name := range strings.SplitSeq(text, ",") {
		t, ok := routeTypes[name]
		if !ok {
			return Condition{}, false
		}
		c.In = append(c.In, []Range{exactly(t)})
	}
	return c, true
}

// markValue reads "value" or "value/mask".
func markValue(text string) (Condition, bool) {
	value, mask, hasMask := strings.Cut(text, "/")
	v, err1 := strconv.ParseUint(value, 0, 32)
	m := uint64(0xffffffff)
	var err2 error
	if hasMask {
		m, err2 = strconv.ParseUint(mask, 0, 32)
	}
	want := binary.BigEndian.AppendUint32(nil, uint32(v))
	c := Condition{
		Keys: []Key{{Field: PacketMark, Mask: binary.BigEndian.AppendUint32(nil, uint32(m))}},
		In:   [][]Range{{exactly(want...)}},
	}
	return c, err1 == nil && err2 == nil
}
