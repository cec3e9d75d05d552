package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// path is how this machine reaches a target.
type path struct {
	source netip.Addr
	oif    int  // interface index to send by, zero for the route's own
	local  bool // whether the target is this machine
	mtu    int  // of the route, in bytes
	limit  limit
}

// router answers questions about the routes of one network namespace: that of the thread which opened it and calls it.
type router struct {
	nl     *netlink.Handle
	link   netlink.Link // Config.Interface, or nil
	source netip.Addr   // Config.Source, or zero
	// ingress caches the limits of local addresses, owners the interfaces that have them, gateways those of the default routes.
	ingress  map[netip.Addr]limit
	owners   map[int]map[netip.Addr]netlink.Link
	gateways map[int]netlink.Link
	// lookup is the socket that asks for the types of routes, zero until it is needed, and lookups how many it has asked for.
	lookup  int
	lookups uint32
	// udp are the sockets, by domain, that show sources and MTUs.
	udp map[int]int
}

func newRouter(cfg Config) (*router, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	r := &router{
		nl: nl, source: cfg.Source.Unmap(), ingress: map[netip.Addr]limit{}, udp: map[int]int{},
		owners: map[int]map[netip.Addr]netlink.Link{}, gateways: map[int]netlink.Link{},
	}
	if cfg.Interface == "" {
		return r, nil
	}
	r.link, err = nl.LinkByName(cfg.Interface)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		err = os.ErrNotExist
	}
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("interface %q: %w", cfg.Interface, err)
	}
	return r, nil
}

func (r *router) close() {
	r.nl.Close()
	if r.lookup > 0 {
		_ = unix.Close(r.lookup)
	}
	for _, fd := range r.udp {
		_ = unix.Close(fd)
	}
}

// zoneIndex returns addr with its zone as a number: the form in which a raw socket reports addresses. Without a zone a
// link-local address gets the index of Config.Interface.
func (r *router) zoneIndex(addr netip.Addr) (netip.Addr, error) {
	if !addr.IsLinkLocalUnicast() || addr.Is4() {
		return addr.WithZone(""), nil
	}
	if addr.Zone() == "" {
		if r.link == nil {
			return netip.Addr{}, errNoZone
		}
		return addr.WithZone(fmt.Sprint(r.link.Attrs().Index)), nil
	}
	if index := zoneNumber(addr); index != 0 {
		return addr, nil
	}
	link, err := r.nl.LinkByName(addr.Zone())
	if err != nil {
		return netip.Addr{}, errNoZone
	}
	return addr.WithZone(fmt.Sprint(link.Attrs().Index)), nil
}

// errNoZone means that a link-local address does not say on which link.
var errNoZone = errors.New("link-local address without the name of an interface as zone")

// path asks the kernel how it would reach dst, whose zone is a number, and which is an address of this machine or not. The error is
// an errno if the routes forbid it.
func (r *router) path(dst netip.AddrPort, local bool) (path, error) {
	addr := dst.Addr()
	p := path{local: local}
	switch {
	case p.local:
		// The answer comes through lo, so nothing may be bound to another interface.
	case r.link != nil:
		p.oif = r.link.Attrs().Index
	default:
		p.oif = zoneNumber(addr)
	}
	var err error
	if p.source, p.mtu, err = r.connectUDP(dst, p.oif); err != nil {
		return path{}, err
	}
	p.limit = limit{p.mtu, fmt.Sprintf("the route's MTU %d", p.mtu)}
	if p.local {
		p.limit, err = r.ingressLimit(addr.WithZone(""))
	}
	return p, err
}

// connectUDP lets the kernel choose a source address and tell the MTU, learned path MTUs and router advertisements
// included, by connecting a UDP socket. That sends nothing.
func (r *router) connectUDP(dst netip.AddrPort, oif int) (from netip.Addr, mtu int, err error) {
	fd, known := r.udp[domain(dst.Addr())]
	if oif != 0 || !known {
		if fd, err = openUDP(dst.Addr(), r.source, oif); err != nil {
			return netip.Addr{}, 0, err
		}
	}
	switch {
	case oif != 0:
		defer unix.Close(fd)
	case known:
		// Dissolved, the socket forgets the source that it had chosen. Its family is the whole of such an address (connect(2)).
		nobody := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nobody)), unsafe.Sizeof(nobody))
		if errno != 0 {
			return netip.Addr{}, 0, errno
		}
	default:
		r.udp[domain(dst.Addr())] = fd
	}
	if err := unix.Connect(fd, sockaddr(dst)); err != nil {
		return netip.Addr{}, 0, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	if dst.Addr().Is4() {
		mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
	} else {
		mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU)
	}
	return fromSockaddr(name).Addr(), mtu, err
}

// openUDP opens a socket of dst's family that may use only one interface, if that is not zero, and has a source address if that is valid.
func openUDP(dst, source netip.Addr, oif int) (int, error) {
	fd, err := unix.Socket(domain(dst), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if oif != 0 {
		err = bindToIndex(fd, oif)
	}
	if err == nil && source.IsValid() {
		if err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(withZone(source, oif), 0))); err != nil {
			err = &sourceError{source, err}
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// bindToIndex makes a socket that is not yet connected use one interface only (socket(7), SO_BINDTODEVICE; by index since
// Linux 5.1).
func bindToIndex(fd, index int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index)
}

// sourceError means that the source address asked for cannot be used for a target.
type sourceError struct {
	source netip.Addr
	err    error
}

func (e *sourceError) Error() string {
	return fmt.Sprintf("source %s is not an address of this machine: %v", e.source, e.err)
}

func (e *sourceError) Unwrap() error { return e.err }

// ingressLimit is the MTU that clients of a local address meet. The loopback interface, which carries the probe's answer,
// has 65536: announced to clients outside, an MSS from that would be far too large.
func (r *router) ingressLimit(addr netip.Addr) (limit, error) {
	if r.link != nil {
		return linkLimit(r.link), nil
	}
	if lim, known := r.ingress[addr]; known {
		return lim, nil
	}
	var known bool
	link, err := r.owner(addr)
	if err == nil && link == nil && !addr.IsLoopback() {
		link, known = r.gateways[domain(addr)]
		if !known {
			link, err = r.defaultLink(domain(addr))
			r.gateways[domain(addr)] = link
		}
	}
	if err != nil {
		return limit{}, err
	}
	lim := limit{} // an address that only this machine can reach is not limited
	switch {
	case link != nil:
		lim = linkLimit(link)
	case !addr.IsLoopback():
		lim = limit{1500, "the MTU of Ethernet, as no ingress interface is known"}
	}
	r.ingress[addr] = lim
	return lim, nil
}

func linkLimit(link netlink.Link) limit {
	return limit{link.Attrs().MTU, fmt.Sprintf("the MTU %d of %s", link.Attrs().MTU, link.Attrs().Name)}
}

// owner returns the interface that has addr; of several, the one with the smallest MTU. It is nil if that is only the loopback interface, or none,
// as with virtual addresses that are reached through another one.
func (r *router) owner(addr netip.Addr) (netlink.Link, error) {
	owners, known := r.owners[domain(addr)]
	if known {
		return owners[addr], nil
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return r.nl.AddrList(nil, domain(addr)) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	owners = map[netip.Addr]netlink.Link{}
	links := map[int]netlink.Link{}
	for _, have := range addrs {
		if have.IPNet == nil {
			continue
		}
		owned, ok := netip.AddrFromSlice(have.IP)
		if !ok {
			continue
		}
		link, ok := links[have.LinkIndex]
		if !ok {
			link, _ = r.nl.LinkByIndex(have.LinkIndex) // one that has just gone has no addresses
			links[have.LinkIndex] = link
		}
		if link == nil || link.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		owned = owned.Unmap()
		if best := owners[owned]; best == nil || link.Attrs().MTU < best.Attrs().MTU {
			owners[owned] = link
		}
	}
	r.owners[domain(addr)] = owners
	return owners[addr], nil
}

// defaultLink returns the interface of the default route with the best metric, or nil.
func (r *router) defaultLink(family int) (netlink.Link, error) {
	routes, err := dump(func() ([]netlink.Route, error) { return r.nl.RouteList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	index, metric := 0, 0
	for _, route := range routes {
		if route.Dst != nil {
			if ones, _ := route.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if index != 0 && route.Priority >= metric {
			continue
		}
		metric = route.Priority
		index = route.LinkIndex
		if index == 0 && len(route.MultiPath) > 0 {
			index = route.MultiPath[0].LinkIndex
		}
	}
	if index == 0 {
		return nil, nil
	}
	return r.nl.LinkByIndex(index)
}

// dump repeats a listing that a change has interrupted, a few times.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}
