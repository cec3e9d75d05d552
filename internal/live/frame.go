package live

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

const (
	etherHeader = 14
	ipv4Header  = 20
	ipv6Header  = 40
	hopLimit    = 64
)

// frame returns a segment in an IP packet in an Ethernet frame. The addresses
// must be of one family.
func frame(to, from net.HardwareAddr, src, dst netip.Addr, s probe.Segment) []byte {
	segment := s.Append(nil, src, dst)
	b := append(append([]byte{}, to...), from...)
	if src.Is4() {
		ip := make([]byte, ipv4Header)
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, hopLimit, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Header+len(segment)))
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(append(append(b, 0x08, 0x00), ip...), segment...)
	}
	ip := make([]byte, ipv6Header)
	ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_TCP, hopLimit
	binary.BigEndian.PutUint16(ip[4:], uint16(len(segment)))
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	return append(append(append(b, 0x86, 0xdd), ip...), segment...)
}

// checksum is that of an IPv4 header whose own field is zero (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}

var errNotTCP = errors.New("not a TCP segment")

// parseFrame reads what frame makes. The checksums are not looked at: the kernel
// leaves them to hardware that a veth does not have.
func parseFrame(b []byte) (src, dst netip.AddrPort, s probe.Segment, err error) {
	if len(b) < etherHeader {
		return src, dst, s, errNotTCP
	}
	var from, to netip.Addr
	ip := b[etherHeader:]
	switch {
	case len(ip) >= ipv4Header && ip[0]>>4 == 4:
		header, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
		fragment := binary.BigEndian.Uint16(ip[6:])&0x3fff != 0
		if header < ipv4Header || total < header || total > len(ip) || ip[9] != unix.IPPROTO_TCP || fragment {
			return src, dst, s, errNotTCP
		}
		from, to = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		ip = ip[header:total]
	case len(ip) >= ipv6Header && ip[0]>>4 == 6:
		total := ipv6Header + int(binary.BigEndian.Uint16(ip[4:]))
		if total > len(ip) || ip[6] != unix.IPPROTO_TCP {
			return src, dst, s, errNotTCP
		}
		from, to = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		ip = ip[ipv6Header:total]
	default:
		return src, dst, s, errNotTCP
	}
	if s, _, err = probe.ParseSegment(ip); err != nil {
		return src, dst, probe.Segment{}, err
	}
	return netip.AddrPortFrom(from, s.SrcPort), netip.AddrPortFrom(to, s.DstPort), s, nil
}
