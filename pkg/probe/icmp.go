package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443) errors that end an attempt to connect.
const (
	icmpUnreachable  = 3
	icmpTimeExceeded = 11
	icmpParameter    = 12

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Parameter    = 4
)

const (
	icmpHeader = 8
	ipv4Header = 20
	ipv6Header = 40
	// quotedTCP is the part of the TCP header that every ICMP error must quote: both ports and the sequence number.
	quotedTCP = 8
)

// unreachableReasons are the codes of ICMP type 3 (RFC 792, RFC 1122, RFC 1812).
var unreachableReasons = [...]string{
	"net-unreachable", "host-unreachable", "protocol-unreachable", "port-unreachable", "fragmentation-needed",
	"source-route-failed", "net-unknown", "host-unknown", "host-isolated", "net-prohibited", "host-prohibited",
	"net-unreachable-for-tos", "host-unreachable-for-tos", "admin-prohibited", "host-precedence-violation",
	"precedence-cutoff",
}

// unreachable6Reasons are the codes of ICMPv6 type 1 (RFC 4443, RFC 7112, RFC 8883).
var unreachable6Reasons = [...]string{
	"no-route", "admin-prohibited", "beyond-scope", "address-unreachable", "port-unreachable", "policy-fail",
	"reject-route", "source-routing-error", "headers-too-long",
}

// quoted is what an ICMP error says about the segment that caused it.
type quoted struct {
	reason string
	src    netip.AddrPort
	dst    netip.AddrPort
	seq    uint32
	valid  bool // whether the message could be read at all
}

// parseICMP4 decodes an ICMP message whose IP header is already gone. The result is not valid for messages that are no error
// about a TCP segment, or are damaged.
func parseICMP4(b []byte) quoted {
	if len(b) < icmpHeader+ipv4Header+quotedTCP || fold(onesSum(0, b)) != 0xffff {
		return quoted{}
	}
	reason := ""
	switch kind, code := b[0], int(b[1]); {
	case kind == icmpUnreachable && code < len(unreachableReasons):
		reason = unreachableReasons[code]
	case kind == icmpUnreachable:
		reason = fmt.Sprintf("unreachable-code-%d", code)
	case kind == icmpTimeExceeded:
		reason = "time-exceeded"
	case kind == icmpParameter:
		reason = "parameter-problem"
	default:
		return quoted{}
	}
	ip := b[icmpHeader:]
	header := int(ip[0]&0x0f) * 4
	fragment := binary.BigEndian.Uint16(ip[6:]) & 0x1fff
	if ip[0]>>4 != 4 || header < ipv4Header || ip[9] != protocolTCP || fragment != 0 || len(ip) < header+quotedTCP {
		return quoted{}
	}
	src := netip.AddrFrom4([4]byte(ip[12:16]))
	dst := netip.AddrFrom4([4]byte(ip[16:20]))
	return quote(reason, src, dst, ip[header:])
}

// parseICMP6 is parseICMP4 for ICMPv6, whose checksum the kernel has already verified (net/ipv6/raw.c). The probe sends no
// extension headers, so none are expected in the quoted packet.
func parseICMP6(b []byte) quoted {
	if len(b) < icmpHeader+ipv6Header+quotedTCP {
		return quoted{}
	}
	reason := ""
	switch kind, code := b[0], int(b[1]); {
	case kind == icmp6Unreachable && code < len(unreachable6Reasons):
		reason = unreachable6Reasons[code]
	case kind == icmp6Unreachable:
		reason = fmt.Sprintf("unreachable-code-%d", code)
	case kind == icmp6TooBig:
		reason = "packet-too-big"
	case kind == icmp6TimeExceeded:
		reason = "time-exceeded"
	case kind == icmp6Parameter:
		reason = "parameter-problem"
	default:
		return quoted{}
	}
	ip := b[icmpHeader:]
	if ip[0]>>4 != 6 || ip[6] != protocolTCP {
		return quoted{}
	}
	src := netip.AddrFrom16([16]byte(ip[8:24]))
	dst := netip.AddrFrom16([16]byte(ip[24:40]))
	return quote(reason, src, dst, ip[ipv6Header:])
}

func quote(reason string, src, dst netip.Addr, tcp []byte) quoted {
	return quoted{
		reason: reason,
		src:    netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)),
		dst:    netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[offDstPort:])),
		seq:    binary.BigEndian.Uint32(tcp[offSeq:]),
		valid:  true,
	}
}
