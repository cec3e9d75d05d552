package live

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The networks of a way: the first host address is the client's, the last the
// host's as the client sees it, and the forged sources are between them.
const (
	bits4 = 26
	bits6 = 64
	// inUse4 and inUse6 are how many addresses of them are used.
	inUse4 = 1<<(32-bits4) - 1
	inUse6 = 1 << 7
)

// ranges4 are where an IPv4 network is looked for: those for benchmarks
// (RFC 2544) and documentation (RFC 5737), which no host of the Internet has.
var ranges4 = []netip.Prefix{
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
}

// range6 is where an IPv6 network is looked for, with a random number as
// RFC 4193 wants for unique local addresses.
var range6 = netip.MustParsePrefix("fd00::/8")

// candidates returns networks to try, of one family, in order.
func candidates(v4 bool) []netip.Prefix {
	const each = 8
	var list []netip.Prefix
	if !v4 {
		for range each {
			list = append(list, within(range6, bits6))
		}
		return list
	}
	for _, r := range ranges4 {
		for range each {
			list = append(list, within(r, bits4))
		}
	}
	return list
}

// within returns a random network of the given size in a larger one.
func within(outer netip.Prefix, bits int) netip.Prefix {
	b := outer.Masked().Addr().AsSlice()
	random := make([]byte, len(b))
	_, _ = rand.Read(random) // never fails
	for i := outer.Bits(); i < bits; i++ {
		b[i/8] |= random[i/8] & (0x80 >> (i % 8))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, bits)
}

// nth returns an address of a network; n counts from its first, 0.
func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := len(b) - 1; n > 0 && i >= 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// freeNetwork returns a network that the calling thread's host does not use.
func freeNetwork(v4 bool) (netip.Prefix, error) {
	for _, p := range candidates(v4) {
		free, err := isFree(p)
		if err != nil {
			return netip.Prefix{}, err
		}
		if free {
			return p, nil
		}
	}
	return netip.Prefix{}, unproven(NotPossible, "this host has routes to all networks that the proof could use for its client")
}

// isFree asks the host's routes for the addresses of p that a way uses.
func isFree(p netip.Prefix) (bool, error) {
	last := inUse6
	if p.Addr().Is4() {
		last = inUse4
	}
	// The ends first, which most often decide.
	for _, n := range append([]int{0, last}, sequence(1, last)...) {
		used, err := isRouted(nth(p, n))
		if used || err != nil {
			return false, err
		}
	}
	return true, nil
}

func sequence(from, to int) []int {
	var list []int
	for n := from; n < to; n++ {
		list = append(list, n)
	}
	return list
}

// isRouted tells whether the host has a route to an address other than its
// default route or one that leads nowhere, as is usual for such networks.
func isRouted(addr netip.Addr) (bool, error) {
	routes, err := netlink.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("route to %s: %w", addr, err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		switch ones, _ := r.Dst.Mask.Size(); {
		case ones == 0:
		case r.Type == unix.RTN_UNREACHABLE, r.Type == unix.RTN_BLACKHOLE, r.Type == unix.RTN_PROHIBIT:
		default:
			return true, nil
		}
	}
	return false, nil
}
