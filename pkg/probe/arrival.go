package probe

import (
	"net/netip"
	"time"
)

// packet is what a raw socket received: the bytes after the IP header, and what the header said.
type packet struct {
	src, dst netip.Addr
	ttl      uint8
	ifindex  int    // IPv6 only
	payload  []byte // valid until the next receive
}

// arrival is a packet that could be the answer to a sample.
type arrival struct {
	key    flightKey
	source netip.Addr // ours, without a zone
	at     time.Time
	ttl    uint8
	seq    uint32 // of our segment

	icmp     string // the reason; empty if the answer is a segment
	segment  Segment
	problems []string // of segment
}

// flightKey is where an answer came from and what it came to.
type flightKey struct {
	remote netip.AddrPort // with the zone as a number
	port   uint16         // ours
}

// decoder turns packets into arrivals. It returns false for those that answer nothing.
type decoder func(family string, p packet) (arrival, bool)

// decodeTCP accepts what ends an attempt to connect (RFC 9293, 3.10.7.3): a SYN+ACK, or a RST, which without ACK counts for nothing.
func decodeTCP(family string, p packet) (arrival, bool) {
	// For IPv6 the kernel has verified the checksum.
	if family == familyIPv4 && !checksumValid(p.src, p.dst, p.payload) {
		return arrival{}, false
	}
	s, problems, err := ParseSegment(p.payload)
	if err != nil || s.Flags&ACK == 0 {
		return arrival{}, false
	}
	if s.Flags&RST == 0 && s.Flags&(SYN|FIN) != SYN {
		return arrival{}, false
	}
	return arrival{
		key:    flightKey{netip.AddrPortFrom(p.src, s.SrcPort), s.DstPort},
		source: p.dst, at: time.Now(), ttl: p.ttl, seq: s.Ack - 1, segment: s, problems: problems,
	}, true
}

// decodeICMP accepts errors about a TCP segment, whoever sends them: a router on the way, or the target itself.
func decodeICMP(family string, p packet) (arrival, bool) {
	parse := parseICMP4
	if family == familyIPv6 {
		parse = parseICMP6
	}
	q := parse(p.payload)
	if !q.valid {
		return arrival{}, false
	}
	remote := netip.AddrPortFrom(withZone(q.dst.Addr(), p.ifindex), q.dst.Port())
	return arrival{
		key:    flightKey{remote, q.src.Port()},
		source: q.src.Addr(), at: time.Now(), ttl: p.ttl, seq: q.seq, icmp: q.reason,
	}, true
}
