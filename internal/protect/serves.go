package protect

import (
	"net/netip"
	"slices"
	"sort"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// serversOf matches the addresses that packets of the services' servers come
// from: behind a translation they bear the server's own.
func serversOf(services []Service) func(netip.AddrPort) bool {
	to := map[netip.AddrPort]bool{}
	for i := range services {
		if at := services[i].To; at.IsValid() {
			to[at] = true
		}
	}
	at := serves(services)
	return func(a netip.AddrPort) bool { return to[a] || at(a) }
}

// begins matches the services that were not protected before; nil if there is none.
func (p *plan) begins() func(netip.AddrPort) bool {
	if p.old == nil || p.old.Draining {
		return serves(p.new.Services)
	}
	was := placesOf(p.old.Services)
	var list []Service
	for i := range p.new.Services {
		if s := &p.new.Services[i]; !was.has(s.Destination, s.Port) {
			list = append(list, *s)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return serves(list)
}

// closing returns the services of a record that are not among the next ones.
func (r *record) closing(next []Service) []rules.Service {
	if r == nil || r.Draining {
		return nil
	}
	stay := placesOf(next)
	var list []rules.Service
	for i := range r.Services {
		if s := &r.Services[i].Service; !stay.has(s.Destination, s.Port) {
			list = append(list, *s)
		}
	}
	return list
}

// serves matches the addresses of services, as clients use them.
func serves(services []Service) func(netip.AddrPort) bool { return placesOf(services).serves }

func (r *record) serves() func(netip.AddrPort) bool { return serves(r.Services) }

// served are services by where they are.
type served struct {
	sorted []Service
	// four and six are the prefix lengths of their destinations.
	four, six []int
}

func placesOf(services []Service) served {
	if !slices.IsSortedFunc(services, Service.compare) {
		services = slices.Clone(services)
		sortServices(services)
	}
	p := served{sorted: services}
	for i := range services {
		lengths := &p.six
		if services[i].Destination.Addr().Is4() {
			lengths = &p.four
		}
		if bits := services[i].Destination.Bits(); !slices.Contains(*lengths, bits) {
			*lengths = append(*lengths, bits)
		}
	}
	return p
}

// has reports whether a service is there: that very destination and port.
func (p served) has(destination netip.Prefix, port uint16) bool {
	var at Service
	at.Destination, at.Port = destination, port
	_, found := sort.Find(len(p.sorted), func(i int) int { return at.comparePlace(&p.sorted[i]) })
	return found
}

// serves reports whether clients of a service connect to an address.
func (p served) serves(a netip.AddrPort) bool {
	lengths := p.six
	if a.Addr().Is4() {
		lengths = p.four
	}
	for _, bits := range lengths {
		if prefix, err := a.Addr().Prefix(bits); err == nil && p.has(prefix, a.Port()) {
			return true
		}
	}
	return false
}
