package protect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/synproxyctl/synproxyctl/internal/firewall"
	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// router is what a host knows of routes of one family. Rules of policy routing
// by source or destination are heeded by the packets that SYNPROXY makes
// (ip_route_me_harder in net/ipv4/netfilter.c, Linux 6.18); those by mark or by
// the interface that a packet came in by are not.
type router struct {
	family kernel.Family
	policy []kernel.PolicyRule
	main   []kernel.TableRoute
	to     *routes // to the servers
}

// routing finds routes that packets of the proxy would not take as others do.
func routing(f rules.Family, services []Service, out outlook) ([]Finding, error) {
	r := router{family: kernelFamily(f), to: out.routes}
	var err error
	if r.policy, err = kernel.PolicyRules(r.family); err != nil {
		return nil, err
	}
	if r.main, err = kernel.Routes(r.family, kernel.MainTable); err != nil {
		return nil, err
	}
	var found tally
	for _, p := range r.policy {
		if p.Mark != 0 {
			r.byMark(&found, p, services, out)
		}
		if p.Input != "" && p.Table != 0 {
			if err := r.byInput(&found, p, services); err != nil {
				return nil, err
			}
		}
	}
	r.asymmetric(&found, services)
	return found.findings(), nil
}

// server returns the interface by which the service's server is reached; empty
// if it is this host, or cannot be reached.
func (r *router) server(s *Service) string {
	at := s.sample()
	if s.To.IsValid() {
		at = s.To.Addr()
	}
	if route := r.to.to(at); route.Err == nil && !route.Local {
		return route.Interface
	}
	return ""
}

// byMark looks at a rule of routing by mark: it matters if what a server
// answers has the mark, and what SYNPROXY answers has not.
func (r *router) byMark(found *tally, p kernel.PolicyRule, services []Service, out outlook) {
	for i := range services {
		s := &services[i]
		found.next()
		name := r.server(s)
		m := once(out, subject{what: "marking", mark: p.Text, link: name}, s, func() *firewall.Marking {
			var behind []string
			if name != "" {
				behind = []string{name}
			}
			if m, ok := out.Marking(out.view(*s), behind, p.Mark, p.Mask); ok {
				return &m
			}
			return nil
		})
		const restored = "; and CONNMARK in mangle OUTPUT for tcp to it, if its answers get their mark from the connection"
		switch {
		case m == nil:
		case m.Missing:
			found.tell(Bad, "fwmark-routing", p.Text, func() Finding {
				return finding(Bad, "fwmark-routing",
					fmt.Sprintf("set the mark in mangle OUTPUT for tcp from %s port %d%s; or protect it only on interfaces whose clients need no mark, with --interface", s.Destination, s.Port, restored),
					"%s: its clients are reached by a mark (ip rule %s), which SYNPROXY's SYN+ACK does not get: %s", s, p.Text, m.Rule.String())
			})
		default:
			found.tell(Warn, "fwmark-routing", p.Text, func() Finding {
				return finding(Warn, "fwmark-routing",
					fmt.Sprintf("set the mark of the connection in mangle OUTPUT, by CONNMARK for tcp to %s port %d", s.Destination, s.Port),
					"%s: its clients are reached by a mark (ip rule %s), which the connection that SYNPROXY opens to the server does not get: the first data come a repetition later: %s", s, p.Text, m.Rule.String())
			})
		}
	}
}

// byInput looks at a rule of routing by the interface that packets come in by: it
// matters if servers answer by that interface.
func (r *router) byInput(found *tally, p kernel.PolicyRule, services []Service) error {
	table, err := kernel.Routes(r.family, p.Table)
	if err != nil {
		return err
	}
	var missing *kernel.TableRoute
	for i := range table {
		if len(table[i].Interfaces) > 0 && !r.reaches(table[i].To) {
			missing = &table[i]
			break
		}
	}
	if missing == nil {
		return nil
	}
	for i := range services {
		s := &services[i]
		found.next()
		if s.Hook == rules.Forward && r.server(s) == p.Input {
			found.tell(Bad, "no-main-route", p.Text, func() Finding {
				return finding(Bad, "no-main-route", fmt.Sprintf("add the route to %s to the main table too", missing.To),
					"%s: what it answers is routed by the interface that it comes in by (ip rule %s), but SYNPROXY's SYN+ACK by the main table, which has no route to %s",
					s, p.Text, missing.To)
			})
		}
	}
	return nil
}

// reaches reports whether the main table has a route to all of a prefix.
func (r *router) reaches(to netip.Prefix) bool {
	return slices.ContainsFunc(r.main, func(o kernel.TableRoute) bool {
		return o.To.Bits() <= to.Bits() && o.To.Contains(to.Addr()) && len(o.Interfaces) > 0
	})
}

// asymmetric finds services whose packets need not all come by this host.
func (r *router) asymmetric(found *tally, services []Service) {
	var gateways, defaults []string
	for _, o := range r.main {
		if o.Gateway || o.Default() {
			gateways = append(gateways, o.Interfaces...)
		}
		if o.Default() {
			defaults = append(defaults, o.Interfaces...)
		}
	}
	for i := range services {
		s := &services[i]
		found.next()
		named := slices.ContainsFunc(s.Interfaces, func(name string) bool { return slices.Contains(gateways, name) })
		if len(s.Interfaces) > 0 && len(gateways) > 0 && !named {
			names := strings.Join(s.Interfaces, ", ")
			found.tell(Warn, "asymmetric-route", names, func() Finding {
				return finding(Warn, "asymmetric-route", "name the interface that the clients come in by, or none",
					"%s: only what comes in by %s is protected, but all routes over other routers leave by %s", s, names, oneOf(gateways))
			})
			continue
		}
		clients := defaults
		if len(s.Interfaces) > 0 {
			clients = s.Interfaces
		}
		if s.Hook != rules.Forward || len(clients) == 0 {
			continue
		}
		if by := r.server(s); by != "" && slices.Contains(clients, by) {
			found.tell(Warn, "asymmetric-route", by, func() Finding {
				return finding(Warn, "asymmetric-route", "see to it that the server's default route leads to this host",
					"%s: the server is reached by %s, by which its clients come too: should it answer them without this host, their connections break", s, by)
			})
		}
	}
}

func oneOf(names []string) string {
	names = slices.Clone(names)
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
