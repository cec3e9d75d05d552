package kernel

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The parts of sock_diag's messages about TCP that matter here, from
// include/uapi/linux/inet_diag.h and tcp.h.
const (
	inetDiagMsgLen   = 72 // struct inet_diag_msg
	inetDiagInfo     = 2  // INET_DIAG_INFO: struct tcp_info
	inetDiagSKV6Only = 11 // INET_DIAG_SKV6ONLY: of a listening socket

	tcpiOptions = 5 // offsets in struct tcp_info
	tcpiWScale  = 6

	tcpiOptTimestamps = 1
	tcpiOptSACK       = 2
	tcpiOptWScale     = 4
)

// The states of a TCP socket, include/net/tcp_states.h.
const (
	sockEstablished = 1
	sockFinWait1    = 4
	sockFinWait2    = 5
	sockCloseWait   = 8
	sockLastAck     = 9
	sockListen      = 10
	sockClosing     = 11
)

// A sock is one socket as sock_diag describes it.
type sock struct {
	state         uint8
	local, remote netip.AddrPort
	v6            bool // an IPv6 socket, whatever its addresses
	v6Only        bool // a listening one that takes no IPv4
	info          bool // the kernel told the rest
	options       uint8
	send, receive uint8 // window scales: of the windows that the peer and that we announce
}

// parseSock reads one message of sock_diag, from its struct inet_diag_msg on.
// IPv4 addresses mapped into IPv6 become IPv4 addresses.
func parseSock(msg []byte) (sock, error) {
	if len(msg) < inetDiagMsgLen {
		return sock{}, errTruncated
	}
	s := sock{state: msg[1], v6: msg[0] == unix.AF_INET6}
	addr := func(b []byte) netip.Addr {
		if s.v6 {
			return netip.AddrFrom16([16]byte(b)).Unmap()
		}
		return netip.AddrFrom4([4]byte(b))
	}
	s.local = netip.AddrPortFrom(addr(msg[8:24]), binary.BigEndian.Uint16(msg[4:]))
	s.remote = netip.AddrPortFrom(addr(msg[24:40]), binary.BigEndian.Uint16(msg[6:]))
	err := attributes(msg[inetDiagMsgLen:], func(typ uint16, data []byte) error {
		switch typ {
		case inetDiagSKV6Only:
			only, err := octet("IPV6_V6ONLY", data)
			s.v6Only = only != 0
			return err
		case inetDiagInfo:
			if len(data) <= tcpiWScale {
				return nil // a socket in TIME_WAIT has none
			}
			s.info, s.options = true, data[tcpiOptions]
			s.send, s.receive = nibbles(data[tcpiWScale])
		}
		return nil
	})
	if err != nil {
		return sock{}, err
	}
	return s, nil
}

// nibbles splits a byte of two C bit fields of 4 bits.
func nibbles(b byte) (first, second uint8) {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big endian: the first is the high one
		return b >> 4, b & 15
	}
	return b & 15, b >> 4
}

// Bits of a set of states.
const (
	listening = 1 << sockListen
	// carrying are the synchronised states of RFC 9293 without TIME-WAIT, in
	// which nothing is carried any more.
	carrying = 1<<sockEstablished | 1<<sockFinWait1 | 1<<sockFinWait2 | 1<<sockCloseWait | 1<<sockLastAck | 1<<sockClosing
)

// sockRequest returns a struct inet_diag_req_v2 that asks for the TCP sockets of
// a family in a set of states, with their struct tcp_info.
func sockRequest(family Family, states uint32) []byte {
	req := make([]byte, 56)
	req[0], req[1] = byte(family), unix.IPPROTO_TCP
	req[2] = 1 << (inetDiagInfo - 1)
	binary.NativeEndian.PutUint32(req[4:], states)
	return req
}
