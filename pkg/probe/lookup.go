package probe

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxLookups is how many routes are asked for by one system call. The answers to all have to fit into the socket's receive buffer of some
// 200 KiB, with a page for each.
const maxLookups = 32

// local tells which of at most maxLookups addresses, whose zones are numbers, belong to this machine. One without a route does not.
func (r *router) local(addrs []netip.Addr) []bool {
	types := r.routeTypes(addrs)
	found := make([]bool, len(addrs))
	for i, addr := range addrs {
		kind, known := types[i], types[i] != unanswered
		if !known { // a buffer was too small, for example: ask for this one alone
			routes, err := r.nl.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{OifIndex: zoneNumber(addr)})
			if err == nil && len(routes) > 0 {
				kind = routes[0].Type
			}
		}
		found[i] = kind == unix.RTN_LOCAL
	}
	return found
}

// unanswered stands for the type of a route that the kernel has not told, noRoute for that of a route that does not exist.
const (
	unanswered = -1
	noRoute    = unix.RTN_UNSPEC
)

// routeTypes asks for the routes to all addresses at once, and returns the types of those that were answered (RTN_UNICAST, RTN_LOCAL, ...).
func (r *router) routeTypes(addrs []netip.Addr) []int {
	types := make([]int, len(addrs))
	for i := range types {
		types[i] = unanswered
	}
	if r.lookup == 0 {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return types
		}
		r.lookup = fd
	}
	var request []byte
	first := r.lookups
	for _, addr := range addrs {
		request = appendRouteRequest(request, addr, r.lookups)
		r.lookups++
	}
	if unix.Sendto(r.lookup, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return types
	}
	// The kernel has answered all requests before the call returns.
	buf := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(r.lookup, buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
			readRouteTypes(buf[:n], first, types)
		case unix.EINTR, unix.ENOBUFS: // the latter tells once that an answer did not fit
		default:
			return types
		}
	}
}

// appendRouteRequest appends an RTM_GETROUTE message (rtnetlink(7)) with a sequence number.
func appendRouteRequest(b []byte, addr netip.Addr, seq uint32) []byte {
	ip, oif := addr.AsSlice(), zoneNumber(addr)
	length := unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + len(ip)
	if oif != 0 {
		length += unix.SizeofRtAttr + 4
	}
	native := binary.NativeEndian
	b = native.AppendUint32(b, uint32(length))
	b = native.AppendUint16(b, unix.RTM_GETROUTE)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST)
	b = native.AppendUint32(b, seq)
	b = native.AppendUint32(b, 0) // from whom: the kernel knows
	b = append(b, byte(domain(addr)), byte(addr.BitLen()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = native.AppendUint16(b, uint16(unix.SizeofRtAttr+len(ip)))
	b = native.AppendUint16(b, unix.RTA_DST)
	b = append(b, ip...)
	if oif != 0 {
		b = native.AppendUint16(b, unix.SizeofRtAttr+4)
		b = native.AppendUint16(b, unix.RTA_OIF)
		b = native.AppendUint32(b, uint32(oif))
	}
	return b
}

// readRouteTypes enters the answers in b, whose sequence numbers count from first on.
func readRouteTypes(b []byte, first uint32, types []int) {
	const typeOffset = unix.SizeofNlMsghdr + 7 // of rtm_type in struct rtmsg
	native := binary.NativeEndian
	for len(b) >= unix.SizeofNlMsghdr {
		length, kind, index := int(native.Uint32(b)), native.Uint16(b[4:]), native.Uint32(b[8:])-first
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return
		}
		switch {
		case index >= uint32(len(types)): // of an earlier batch
		case kind == unix.NLMSG_ERROR:
			types[index] = noRoute
		case kind == unix.RTM_NEWROUTE && length >= unix.SizeofNlMsghdr+unix.SizeofRtMsg:
			types[index] = int(b[typeOffset])
		}
		b = b[min((length+3)&^3, len(b)):]
	}
}
