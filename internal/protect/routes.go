package protect

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// routes are the routes to many addresses, all asked for at once. What it knows
// it does not ask for again, so it must not outlive the look at the host that
// it was made for.
type routes struct {
	dsts    []netip.Addr // sorted
	answers []kernel.RouteAnswer
}

// ask finds the routes to the services and to their servers, if that is not
// done.
func (r *routes) ask(ctx context.Context, services []Service) error {
	if r.dsts != nil || len(services) == 0 {
		return nil
	}
	dsts := make([]netip.Addr, 0, len(services))
	for i := range services {
		dsts = append(dsts, services[i].Destination.Addr())
		if to := services[i].To; to.IsValid() {
			dsts = append(dsts, to.Addr())
		}
	}
	return r.askFor(ctx, dsts)
}

func (r *routes) askFor(ctx context.Context, dsts []netip.Addr) error {
	slices.SortFunc(dsts, netip.Addr.Compare)
	dsts = slices.Compact(dsts)
	answers, err := kernel.RouteAll(ctx, dsts)
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	r.dsts, r.answers = dsts, answers
	return nil
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
