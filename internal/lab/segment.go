package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// The flags of a TCP segment (RFC 9293, section 3.1).
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	protoTCP   = 6
)

// Segment is one TCP segment with what matters of its IP header. It is the lab's own view of the wire, made apart
// from the product's, so that a test can hold one against the other.
type Segment struct {
	Source, Destination netip.AddrPort
	Seq, Ack            uint32
	Flags               uint8
	Window              uint16
	// Options are the raw bytes of the TCP options; Marshal pads them with zeros to a multiple of 4.
	Options []byte
	Payload []byte
	// TTL is the time to live or hop limit; 0 in Marshal means 64.
	TTL uint8
	// ID is the identification field of IPv4; IPv6 has none.
	ID uint16
	// BadChecksum tells, after a parse, that the TCP checksum is wrong. The kernel leaves the checksum of what it
	// sends over veth to hardware that does not exist, so on captured packets it proves nothing.
	BadChecksum bool
}

// Marshal returns the IP packet, with valid checksums. It does not fragment, and sets don't-fragment in IPv4.
func (s Segment) Marshal() ([]byte, error) {
	src, dst := s.Source.Addr(), s.Destination.Addr()
	if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() {
		return nil, fmt.Errorf("segment from %s to %s: not addresses of one family", src, dst)
	}
	options := (len(s.Options) + 3) &^ 3
	if options > 40 {
		return nil, fmt.Errorf("segment: %d bytes of options, at most 40 fit", len(s.Options))
	}
	size := tcpHeader + options + len(s.Payload)
	ttl := s.TTL
	if ttl == 0 {
		ttl = 64
	}
	header := ipv6Header
	if src.Is4() {
		header = ipv4Header
	}
	if header+size > 65535 {
		return nil, fmt.Errorf("segment: %d bytes of payload do not fit a packet", len(s.Payload))
	}
	p := make([]byte, header+size)
	if src.Is4() {
		p[0], p[6], p[8], p[9] = 0x45, 0x40, ttl, protoTCP
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		binary.BigEndian.PutUint16(p[4:], s.ID)
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(p[10:], fold(sum16(p[:header])))
	} else {
		p[0], p[6], p[7] = 0x60, protoTCP, ttl
		binary.BigEndian.PutUint16(p[4:], uint16(size))
		copy(p[8:], src.AsSlice())
		copy(p[24:], dst.AsSlice())
	}
	t := p[header:]
	binary.BigEndian.PutUint16(t[0:], s.Source.Port())
	binary.BigEndian.PutUint16(t[2:], s.Destination.Port())
	binary.BigEndian.PutUint32(t[4:], s.Seq)
	binary.BigEndian.PutUint32(t[8:], s.Ack)
	t[12], t[13] = uint8((tcpHeader+options)/4)<<4, s.Flags
	binary.BigEndian.PutUint16(t[14:], s.Window)
	copy(t[tcpHeader:], s.Options)
	copy(t[tcpHeader+options:], s.Payload)
	binary.BigEndian.PutUint16(t[16:], fold(tcpSum(src, dst, t)))
	return p, nil
}

var errNotTCP = errors.New("not a whole TCP segment")

// ParseSegment reads an IP packet that carries TCP. It refuses fragments and IPv6 extension headers.
func ParseSegment(packet []byte) (Segment, error) {
	var s Segment
	src, dst, t, err := s.parseIP(packet)
	if err != nil {
		return Segment{}, err
	}
	if len(t) < tcpHeader {
		return Segment{}, errNotTCP
	}
	header := int(t[12]>>4) * 4
	if header < tcpHeader || header > len(t) {
		return Segment{}, errNotTCP
	}
	s.Source = netip.AddrPortFrom(src, binary.BigEndian.Uint16(t[0:]))
	s.Destination = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(t[2:]))
	s.Seq, s.Ack = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:])
	s.Flags, s.Window = t[13], binary.BigEndian.Uint16(t[14:])
	s.Options, s.Payload = t[tcpHeader:header:header], t[header:]
	s.BadChecksum = fold(tcpSum(src, dst, t)) != 0
	return s, nil
}

// parseIP reads the IP header into s and returns the addresses and the IP payload.
func (s *Segment) parseIP(p []byte) (src, dst netip.Addr, payload []byte, err error) {
	switch {
	case len(p) >= ipv4Header && p[0]>>4 == 4:
		header, total := int(p[0]&0xf)*4, int(binary.BigEndian.Uint16(p[2:]))
		fragment := binary.BigEndian.Uint16(p[6:])&0x3fff != 0
		if header < ipv4Header || total < header || total > len(p) || p[9] != protoTCP || fragment {
			return src, dst, nil, errNotTCP
		}
		s.TTL, s.ID = p[8], binary.BigEndian.Uint16(p[4:])
		return netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:])), p[header:total], nil
	case len(p) >= ipv6Header && p[0]>>4 == 6:
		total := ipv6Header + int(binary.BigEndian.Uint16(p[4:]))
		if total > len(p) || p[6] != protoTCP {
			return src, dst, nil, errNotTCP
		}
		s.TTL = p[7]
		return netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:])), p[ipv6Header:total], nil
	}
	return src, dst, nil, errNotTCP
}

// tcpSum adds up a TCP segment and its pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1).
func tcpSum(src, dst netip.Addr, segment []byte) uint32 {
	return sum16(src.AsSlice()) + sum16(dst.AsSlice()) + sum16(segment) + protoTCP + uint32(len(segment))
}

// sum16 adds up big-endian 16-bit words, the last one padded with a zero. It cannot overflow: a packet has at most
// 32768 words.
func sum16(b []byte) uint32 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

// fold turns a sum into the Internet checksum (RFC 1071).
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	return ^uint16(sum)
}
