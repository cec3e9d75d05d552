package config

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/synproxyctl/synproxyctl/internal/target"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// An Item is one address, or one prefix, with one port, and what is asked for it.
type Item struct {
	target.Target
	Service *Service
	// Place is where the target stands in the configuration or in a list.
	Place Place
}

// Expand resolves the names of a configuration, as [target.Expand] does, and
// returns what it asks for, in its order. Targets that cannot be protected, or
// that are there twice, are faults; so is an address that two services claim.
// Two names of one service may lead to one address. The error is a [*Faults],
// or that of ctx.
func (c *Config) Expand(ctx context.Context, resolver target.Resolver) ([]Item, error) {
	specs, origins, err := c.specs()
	if err != nil {
		return nil, err
	}
	return expand(ctx, resolver, specs, origins)
}

func expand(ctx context.Context, resolver target.Resolver, specs []target.Spec, origins []origin) ([]Item, error) {
	items := make([]Item, 0, len(specs))
	var faults Faults
	err := target.Each(ctx, resolver, specs, func(i int, t target.Target) error {
		if len(items) == MaxTargets {
			return alone(origins[i].place, "too-many", "give prefixes instead of single addresses", "more than %d targets", MaxTargets)
		}
		item := Item{t, origins[i].service, origins[i].place}
		if f := item.fault(); f != nil {
			faults.add(f)
		} else {
			items = append(items, item)
		}
		return nil
	})
	var own *Faults
	switch {
	case err == nil:
	case errors.As(err, &own), errors.Is(err, context.Canceled):
		return nil, err
	default:
		return nil, unresolved(err, specs, origins)
	}
	if err := faults.err(); err != nil {
		return nil, err
	}
	if err := overlaps(&items); err != nil {
		return nil, err
	}
	return items, nil
}

// Check is [Config.Expand] without asking anybody: names are left out. It
// returns how many targets there are without them, and how many names.
func (c *Config) Check() (targets, names int, err error) {
	specs, origins, err := c.specs()
	if err != nil {
		return 0, 0, err
	}
	named := map[string]bool{}
	for _, s := range specs {
		if s.Name != "" {
			named[s.Name] = true
		}
	}
	if len(named) > 0 { // the specs are not ours to change
		var literal []target.Spec
		var from []origin
		for i, s := range specs {
			if s.Name == "" {
				literal, from = append(literal, s), append(from, origins[i])
			}
		}
		specs, origins = literal, from
	}
	items, err := expand(context.Background(), nil, specs, origins)
	return len(items), len(named), err
}

// origin is where a spec is from.
type origin struct {
	service *Service
	place   Place
}

// specs returns all that the services name, with where that is.
func (c *Config) specs() ([]target.Spec, []origin, error) {
	total, ports := 0, 0
	for _, s := range c.Services {
		total += len(s.destinations)
		for _, d := range s.destinations {
			if ports += len(d.Ports); ports > MaxTargets {
				return nil, nil, alone(d.place, "too-many", "give prefixes instead of single addresses, and fewer ports", "more than %d targets", MaxTargets)
			}
		}
		for _, l := range s.lists {
			total += len(l.specs)
		}
	}
	var specs []target.Spec
	if len(c.Services) == 1 && len(c.Services[0].destinations) == 0 && len(c.Services[0].lists) == 1 {
		specs = c.Services[0].lists[0].specs[:0] // a very long one is not copied
	} else {
		specs = make([]target.Spec, 0, total)
	}
	origins := make([]origin, 0, total)
	for _, s := range c.Services {
		for _, d := range s.destinations {
			specs, origins = append(specs, d.Spec), append(origins, origin{s, d.place})
		}
		for _, l := range s.lists {
			for _, spec := range l.specs {
				specs, origins = append(specs, spec), append(origins, origin{s, Place{File: l.path, Line: spec.Line()}})
			}
		}
	}
	return specs, origins, nil
}

// unresolved gives the faults of names their places.
func unresolved(err error, specs []target.Spec, origins []origin) error {
	var fs Faults
	var take func(err error)
	take = func(err error) {
		var one *target.Error
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				take(e)
			}
			return
		}
		if !errors.As(err, &one) {
			fs.More++
			return
		}
		for i, s := range specs {
			if s.Text == one.Subject {
				bare := *one
				bare.Where = ""
				fs.add(&Fault{Place: origins[i].place, Code: "unresolved", Problem: bare.Error(), Advice: one.Advice, Err: one.Err})
				return
			}
		}
	}
	take(err)
	if e := fs.err(); e != nil {
		return e
	}
	return err
}

// Temporary tells whether an error is of a name server that may do better next
// time, and not of the configuration.
func Temporary(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && !dns.IsNotFound
}

// fault tells what keeps a target from being protected as its service wants it;
// nil if nothing does.
func (i *Item) fault() *Fault {
	s := i.Service
	bad := func(at Place, code, advice, format string, args ...any) *Fault {
		return &Fault{Place: at, Code: code, Problem: fmt.Sprintf(format, args...), Advice: advice}
	}
	if err := i.CheckApply(); err != nil {
		var e *target.Error
		if errors.As(err, &e) {
			bare := *e
			bare.Where = ""
			return bad(i.Place, "bad-target", e.Advice, "%s", &bare)
		}
	}
	if !i.IsAddress() && !s.Complete() && !s.ProbeAt.IsValid() {
		return bad(i.Place, "prefix-unprobed", "name one of its servers with probe_at:, or give all four options",
			"%s: a prefix has no single server to probe", i)
	}
	if !s.To.IsValid() {
		return nil
	}
	// What does not go with a target elsewhere is known where rules are made.
	trial := rules.Service{Destination: i.Prefix, Port: i.Port, Hook: rules.Input, To: s.To, Mode: rules.ModeNotrack}
	if s.Mode != "" {
		trial.Mode = s.Mode
	}
	if err := (rules.Policy{Services: []rules.Service{trial}}).Validate(); err != nil {
		text := err.Error()
		const own = "service "
		if len(text) > len(own) {
			text = text[len(own):]
		}
		return bad(s.toSaid, "bad-value", "correct to:, or leave it away", "%s", firstLine(text))
	}
	return nil
}
