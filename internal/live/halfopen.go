package live

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// halfOpen calls visit with the peer of each half-open connection of the calling
// thread's namespace (state SYN-RECEIVED of RFC 9293), by sock_diag(7). A kernel
// without inet_diag has none to show. The sockets of an IPv4 connection may be
// of either family.
func halfOpen(v4 bool, visit func(peer netip.AddrPort)) error {
	families := []uint8{unix.AF_INET6}
	if v4 {
		families = append(families, unix.AF_INET)
	}
	for _, family := range families {
		req := nl.NewNetlinkRequest(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(diagRequest(family))
		err := req.ExecuteIter(unix.NETLINK_INET_DIAG, unix.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
			if peer, ok := diagPeer(msg); ok {
				visit(peer)
			}
			return true
		})
		// A table that changed meanwhile may be shown in part or twice; what is
		// looked for has been there since before.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, nl.ErrDumpInterrupted) {
			return fmt.Errorf("list of half-open connections: %w", err)
		}
	}
	return nil
}

// diagRequest is struct inet_diag_req_v2 (include/uapi/linux/inet_diag.h).
type diagRequest uint8

// Len returns the size of the request in bytes.
func (diagRequest) Len() int { return 56 }

// Serialize returns the request's bytes.
func (family diagRequest) Serialize() []byte {
	const synRecv = 3 // TCP_SYN_RECV
	b := make([]byte, family.Len())
	b[0], b[1] = byte(family), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<synRecv)
	return b
}

// diagPeer reads the remote side of a struct inet_diag_msg.
func diagPeer(msg []byte) (netip.AddrPort, bool) {
	const port, address, end = 6, 24, 40
	if len(msg) < end {
		return netip.AddrPort{}, false
	}
	var addr netip.Addr
	switch msg[0] {
	case unix.AF_INET:
		addr = netip.AddrFrom4([4]byte(msg[address:]))
	case unix.AF_INET6:
		addr = netip.AddrFrom16([16]byte(msg[address:])).Unmap()
	default:
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(msg[port:])), true
}
