package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Family is a version of IP.
type Family int

// The families.
const (
	IPv4 Family = unix.AF_INET
	IPv6 Family = unix.AF_INET6
)

func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return fmt.Sprintf("address family %d", int(f))
}

// ErrCannotTell reports that [Tracking] has no answer: the interface lo is
// down, or a rule drops what a program sends to itself.
var ErrCannotTell = errors.New("cannot tell whether connections are tracked")

// Tracking tells whether connection tracking watches the packets of a family
// now. The kernel hooks it on, for one family and network namespace at a time,
// only while some rule asks for it, and no file says so. So Tracking sends a
// UDP datagram from one socket of its own to another, over lo, looks for the
// entry of exactly that datagram, and deletes it.
//
// A namespace without any IPv6 address, as with IPv6 disabled, is false for
// IPv6. Where rules exempt lo from tracking, or give it another zone, it is
// false too. The error is [ErrCannotTell] if the datagram could not be sent, and
// [fs.ErrPermission] without CAP_NET_ADMIN.
func Tracking(ctx context.Context, family Family) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("tracking of %s: %w", family, err)
	}
	on, err := tracking(family)
	if err != nil {
		return false, fmt.Errorf("tracking of %s: %w", family, err)
	}
	return on, nil
}

func tracking(family Family) (bool, error) {
	if family != IPv4 && family != IPv6 {
		return false, unix.EAFNOSUPPORT
	}
	if family == IPv6 {
		addresses, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		if err != nil {
			return false, fmt.Errorf("list the addresses: %w", err)
		}
		if len(addresses) == 0 {
			return false, nil
		}
	}
	flow, err := datagram(family)
	if err != nil {
		// As text: a rule that drops is EPERM too, and lacks no capability.
		return false, fmt.Errorf("%w: %s", ErrCannotTell, err.Error())
	}
	d, err := openDialogue()
	if err != nil {
		return false, err
	}
	defer d.close()
	entry := Conn{Original: flow, transport: unix.IPPROTO_UDP}.naming()
	// The deletion is the question: it tells whether the entry was there.
	answers, err := d.ask([]request{{typ: ctnetlink(nl.IPCTNL_MSG_CT_DELETE), payload: entry}})
	switch {
	case err != nil:
		return false, err
	case answers[0].err == nil:
		return true, nil
	case errors.Is(answers[0].err, unix.ENOENT):
		return false, nil
	}
	return false, answers[0].err
}

// datagram sends one from a new socket to another on the loopback address. Two
// sockets, since the entry of a datagram to its own sender would be its own
// reply.
func datagram(family Family) (Tuple, error) {
	var fds [2]int
	var names [2]unix.Sockaddr
	for i := range fds {
		fd, err := unix.Socket(int(family), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return Tuple{}, fmt.Errorf("socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, loopback(family)); err != nil {
			return Tuple{}, fmt.Errorf("bind to the loopback address: %w", err)
		}
		if names[i], err = unix.Getsockname(fd); err != nil {
			return Tuple{}, fmt.Errorf("socket: %w", err)
		}
		fds[i] = fd
	}
	flow := Tuple{Src: addrPort(names[0]), Dst: addrPort(names[1])}
	if err := unix.Sendto(fds[0], nil, 0, names[1]); err != nil {
		return Tuple{}, fmt.Errorf("send to %s: %w", flow.Dst, err)
	}
	return flow, nil
}

func loopback(family Family) unix.Sockaddr {
	if family == IPv4 {
		return &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	}
	return &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}
}

func addrPort(name unix.Sockaddr) netip.AddrPort {
	switch sa := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
