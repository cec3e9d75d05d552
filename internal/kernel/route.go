package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const notOneHost = "not the address of one host"

// A RouteInfo is the kernel's answer to where a packet to an address goes.
type RouteInfo struct {
	// Local is true for an address of this machine: packets to it pass the
	// hook INPUT, all others FORWARD.
	Local bool `json:"local"`
	// Interface is where packets to the address leave; for a local address the
	// interface that holds it, or lo if a route alone makes it local. Empty if
	// the address is unreachable.
	Interface string `json:"interface"`
	// MTU is the smaller of the interface's and the route's, in bytes of IP
	// packet; a path MTU that the kernel has learned counts while it lasts.
	// 0 if the address is unreachable.
	MTU int `json:"mtu"`
	// Unreachable says why no packet can go there; empty if one can.
	Unreachable string `json:"unreachable,omitempty"`
}

// Route asks the kernel how it would send to dst, as `ip route get` does. With
// a src, which must be an address of this machine, it asks for packets from
// there, which policy routing may send elsewhere; the zero src is any. A dst
// with a zone is looked for on that interface only.
//
// An address that cannot be reached is not an error: the answer says so.
func Route(dst, src netip.Addr) (RouteInfo, error) {
	if !dst.IsValid() {
		return RouteInfo{}, errors.New("route: no destination")
	}
	if dst.IsMulticast() {
		// Without a route for it the kernel would say only that there is none.
		return RouteInfo{Unreachable: notOneHost}, nil
	}
	options := &netlink.RouteGetOptions{Oif: dst.Zone()}
	dst = dst.WithZone("").Unmap()
	if src.IsValid() {
		src = src.WithZone("").Unmap()
		if src.Is4() != dst.Is4() {
			return RouteInfo{}, fmt.Errorf("route to %s: %s is of the other family", dst, src)
		}
		options.SrcAddr = src.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), options)
	// With a source, EINVAL may also mean that the source is no good.
	if reason := unreachable(err); reason != "" && (!src.IsValid() || !errors.Is(err, unix.EINVAL)) {
		return RouteInfo{Unreachable: reason}, nil
	}
	if err != nil {
		return RouteInfo{}, fmt.Errorf("route to %s: %w", dst, err)
	}
	if len(routes) == 0 {
		return RouteInfo{}, fmt.Errorf("route to %s: the kernel's answer is empty", dst)
	}
	r := routes[0]
	info, err := new(links).describe(taken{typ: r.Type, index: r.LinkIndex, mtu: r.MTU}, dst)
	if err != nil {
		return RouteInfo{}, fmt.Errorf("route to %s: %w", dst, err)
	}
	return info, nil
}

// unreachable translates the errors that stand for a route that leads nowhere
// (fib_props in net/ipv4/fib_semantics.c; IPv6 uses the same).
func unreachable(err error) string {
	switch {
	case errors.Is(err, unix.ENETUNREACH):
		return "no route"
	case errors.Is(err, unix.EHOSTUNREACH):
		return "an unreachable route"
	case errors.Is(err, unix.EACCES):
		return "a prohibit route"
	case errors.Is(err, unix.EINVAL):
		return "a blackhole route"
	}
	return ""
}

// taken is what matters of a route that the kernel has chosen.
type taken struct {
	typ   int // RTN_*
	index int // of the interface
	mtu   int // of the route, in bytes; 0: it has none of its own
}

// links are the interfaces and the addresses of this machine, each read when it
// is first asked for.
type links struct {
	attrs map[int]*netlink.LinkAttrs
	held  map[bool]map[netip.Addr]int // the interface that has an address, by whether it is IPv4
}

func (l *links) describe(r taken, dst netip.Addr) (RouteInfo, error) {
	switch r.typ {
	case unix.RTN_BROADCAST, unix.RTN_MULTICAST, unix.RTN_ANYCAST:
		return RouteInfo{Unreachable: notOneHost}, nil
	case unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_BLACKHOLE, unix.RTN_THROW:
		return RouteInfo{Unreachable: "an unreachable route"}, nil
	}
	info := RouteInfo{Local: r.typ == unix.RTN_LOCAL}
	index := r.index
	if info.Local {
		// The route of a local address goes through lo, whose MTU says nothing
		// of the path to the clients.
		holder, err := l.holderOf(dst)
		if err != nil {
			return RouteInfo{}, err
		}
		if holder != 0 {
			index = holder
		}
	}
	attrs, known := l.attrs[index]
	if !known {
		link, err := netlink.LinkByIndex(index)
		if err != nil {
			return RouteInfo{}, fmt.Errorf("interface %d: %w", index, err)
		}
		if l.attrs == nil {
			l.attrs = map[int]*netlink.LinkAttrs{}
		}
		attrs = link.Attrs()
		l.attrs[index] = attrs
	}
	info.Interface, info.MTU = attrs.Name, attrs.MTU
	if !info.Local && r.mtu > 0 {
		info.MTU = min(info.MTU, r.mtu)
	}
	return info, nil
}

// holderOf returns the index of the interface that has the address, or 0.
func (l *links) holderOf(addr netip.Addr) (int, error) {
	if held, known := l.held[addr.Is4()]; known {
		return held[addr], nil
	}
	family := netlink.FAMILY_V6
	if addr.Is4() {
		family = netlink.FAMILY_V4
	}
	for range maxDumps {
		list, err := netlink.AddrList(nil, family)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("list of addresses: %w", err)
		}
		held := make(map[netip.Addr]int, len(list))
		for _, a := range list {
			ip, _ := netip.AddrFromSlice(a.IP)
			if ip = ip.Unmap(); held[ip] == 0 { // the first of several interfaces
				held[ip] = a.LinkIndex
			}
		}
		if l.held == nil {
			l.held = map[bool]map[netip.Addr]int{}
		}
		l.held[addr.Is4()] = held
		return held[addr], nil
	}
	return 0, fmt.Errorf("list of addresses: %w %d times", netlink.ErrDumpInterrupted, maxDumps)
}
