package protect

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// routes are the routes to many addresses, all asked for at once. What was
// learned a moment ago is not asked for again.
type routes struct {
	dsts    []netip.Addr // sorted
	answers []kernel.RouteAnswer
	of      string // the network namespace
	asked   time.Time
}

// ask finds the routes to the services and to their servers.
func (r *routes) ask(ctx context.Context, services []Service) error {
	const moment = 5 * time.Second
	of, err := kernel.NetNSID()
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	if r.of == of && time.Since(r.asked) < moment && r.know(services) {
		return nil
	}
	dsts := make([]netip.Addr, 0, len(services))
	for i := range services {
		dsts = append(dsts, services[i].sample())
		if to := services[i].To; to.IsValid() {
			dsts = append(dsts, to.Addr())
		}
	}
	slices.SortFunc(dsts, netip.Addr.Compare)
	dsts = slices.Compact(dsts)
	answers, err := kernel.RouteAll(ctx, dsts)
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	*r = routes{dsts, answers, of, time.Now()}
	return nil
}

// know reports whether all that ask would ask for is there.
func (r *routes) know(services []Service) bool {
	known := func(a netip.Addr) bool {
		_, found := slices.BinarySearchFunc(r.dsts, a, netip.Addr.Compare)
		return found
	}
	for i := range services {
		s := &services[i]
		if !known(s.sample()) || s.To.IsValid() && !known(s.To.Addr()) {
			return false
		}
	}
	return true
}

// to returns the route to an address. One that was not asked for is asked for
// now.
func (r *routes) to(a netip.Addr) kernel.RouteAnswer {
	if i, found := slices.BinarySearchFunc(r.dsts, a, netip.Addr.Compare); found {
		return r.answers[i]
	}
	info, err := kernel.Route(a, netip.Addr{})
	return kernel.RouteAnswer{RouteInfo: info, Err: err}
}

// hook returns where packets to an address pass.
func (r *routes) hook(a netip.Addr) (rules.Hook, error) {
	route := r.to(a)
	switch {
	case route.Err != nil:
		return "", route.Err
	case route.Unreachable != "":
		return "", fmt.Errorf("%s cannot be reached: %s", a, route.Unreachable)
	case route.Local:
		return rules.Input, nil
	}
	return rules.Forward, nil
}

// links are the interfaces of the host, each looked at once.
type links map[string]link

// link is what there is to know of an interface.
type link struct {
	there bool
	err   error // why that is not known
}

func (l links) of(name string) link {
	one, known := l[name]
	if !known {
		one.there, one.err = kernel.InterfaceExists(name)
		l[name] = one
	}
	return one
}

// sample returns an address of the destination by which routes tell where all
// of it is. The first of a network is none: it belongs to the network itself,
// or to any router of it (RFC 4291, section 2.6.1), as the last of IPv4 is for
// all. So it is who is asked for the options, else the first of the upper half.
func (s *Service) sample() netip.Addr {
	first := s.Destination.Addr()
	switch at := s.ProbeAt.Addr(); {
	case s.Destination.IsSingleIP():
		return first
	case s.Destination.Contains(at):
		return at
	}
	bytes := first.AsSlice()
	bytes[s.Destination.Bits()/8] |= 0x80 >> (s.Destination.Bits() % 8)
	upper, _ := netip.AddrFromSlice(bytes)
	return upper
}
