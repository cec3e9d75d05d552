package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

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
	// ingress caches the limits of local addresses.
	ingress map[netip.Addr]limit
}

func newRouter(cfg Config) (*router, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	r := &router{nl: nl, source: cfg.Source.Unmap(), ingress: map[netip.Addr]limit{}}
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

func (r *router) close() { r.nl.Close() }

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

// path asks the kernel how it would reach dst, whose zone is a number. The error is an errno if the routes forbid it.
func (r *router) path(dst netip.AddrPort) (path, error) {
	var p path
	addr := dst.Addr()
	options := &netlink.RouteGetOptions{OifIndex: zoneNumber(addr)}
	routes, err := r.nl.RouteGetWithOptions(addr.AsSlice(), options)
	p.local = err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
	switch {
	case p.local:
		// The answer comes through lo, so nothing may be bound to another interface.
	case r.link != nil:
		p.oif = r.link.Attrs().Index
	default:
		p.oif = zoneNumber(addr)
	}
	p.source, p.mtu, err = connectUDP(dst, r.source, p.oif)
	if err != nil {
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
func connectUDP(dst netip.AddrPort, source netip.Addr, oif int) (from netip.Addr, mtu int, err error) {
	fd, err := unix.Socket(domain(dst.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	defer unix.Close(fd)
	if oif != 0 {
		if err := bindToIndex(fd, oif); err != nil {
			return netip.Addr{}, 0, err
		}
	}
	if source.IsValid() {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(withZone(source, oif), 0))); err != nil {
			return netip.Addr{}, 0, &sourceError{source, err}
		}
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
	if known, ok := r.ingress[addr]; ok {
		return known, nil
	}
	link, err := r.owner(addr)
	if err == nil && link == nil && !addr.IsLoopback() {
		link, err = r.defaultLink(domain(addr))
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
	addrs, err := dump(func() ([]netlink.Addr, error) { return r.nl.AddrList(nil, domain(addr)) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var best netlink.Link
	for _, have := range addrs {
		if have.IPNet == nil || !have.IP.Equal(net.IP(addr.AsSlice())) {
			continue
		}
		link, err := r.nl.LinkByIndex(have.LinkIndex)
		if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		if best == nil || link.Attrs().MTU < best.Attrs().MTU {
			best = link
		}
	}
	return best, nil
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
