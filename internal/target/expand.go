package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
)

const (
	// MaxTargets bounds what a command line, or a configuration, can grow to.
	MaxTargets = 100_000
	// maxLookups bounds how many names are asked for at a time.
	maxLookups = 16

	tooManyHint = "give prefixes instead of single addresses"
)

var tooMany = fmt.Sprintf("more than %d targets", MaxTargets)

// A Target is one address, or one prefix, and one port.
type Target struct {
	// Text is the user's word that it comes from.
	Text string
	// Name is the host name that was resolved; empty if the user gave an address.
	Name string
	// Prefix is the address with all its bits, or a prefix of several.
	Prefix netip.Prefix
	// Zone is the zone of an IPv6 address; usually empty.
	Zone string
	// Port is from 1 to 65535.
	Port uint16

	where where
}

// A Resolver finds the addresses of names; [net.DefaultResolver] is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// IsAddress tells an address from a prefix of several.
func (t Target) IsAddress() bool { return t.Prefix.IsSingleIP() }

// AddrPort returns the address, with its zone, and the port; of a prefix its
// first address.
func (t Target) AddrPort() netip.AddrPort {
	return netip.AddrPortFrom(t.Prefix.Addr().WithZone(t.Zone), t.Port)
}

// String returns the target in the form that [Parse] reads, with the address
// instead of a name.
func (t Target) String() string {
	switch {
	case t.IsAddress():
		return t.AddrPort().String()
	case t.Prefix.Addr().Is4():
		return fmt.Sprintf("%s:%d", t.Prefix, t.Port)
	}
	return fmt.Sprintf("[%s]:%d", t.Prefix, t.Port)
}

// Expand resolves the names among the specs, all A and AAAA answers, and
// returns a target for each address and port, in the order of the specs, then
// of the addresses (IPv4 first, each family ascending, so that the order of a
// resolver's answers does not matter), then of the ports. A target that comes
// up again is left out. Names that do not resolve are returned as [*Error],
// joined; a cancelled ctx ends the work with its error.
func Expand(ctx context.Context, resolver Resolver, specs []Spec) ([]Target, error) {
	type key struct {
		prefix netip.Prefix
		zone   string
		port   uint16
	}
	var targets []Target
	seen := make(map[key]struct{}, len(specs))
	err := Each(ctx, resolver, specs, func(_ int, t Target) error {
		k := key{t.Prefix, t.Zone, t.Port}
		if _, again := seen[k]; again {
			return nil
		}
		if len(seen) == MaxTargets {
			return &Error{Problem: tooMany, Advice: tooManyHint}
		}
		seen[k] = struct{}{}
		targets = append(targets, t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return targets, nil
}

// Each is [Expand] for those who want to know the spec, by its index, that each
// target comes from, and the targets that come up again. It stops at the first
// error of take, and returns it.
func Each(ctx context.Context, resolver Resolver, specs []Spec, take func(spec int, t Target) error) error {
	addrs, err := resolveAll(ctx, resolver, specs)
	if err != nil {
		return err
	}
	for i, s := range specs {
		prefixes := []netip.Prefix{s.Prefix}
		if s.Name != "" {
			prefixes = addrs[s.Name]
		}
		for _, prefix := range prefixes {
			for _, port := range s.Ports {
				t := Target{Text: s.Text, Name: s.Name, Prefix: prefix, Zone: s.Zone, Port: port, where: s.where}
				if err := take(i, t); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// resolveAll asks for each name once, several at a time.
func resolveAll(ctx context.Context, resolver Resolver, specs []Spec) (map[string][]netip.Prefix, error) {
	first := map[string]bool{}
	var asked []Spec
	for _, s := range specs {
		if s.Name != "" && !first[s.Name] {
			first[s.Name] = true
			asked = append(asked, s)
		}
	}
	answers := make([][]netip.Prefix, len(asked))
	errs := make([]error, len(asked))
	var group errgroup.Group
	group.SetLimit(maxLookups)
	for i, s := range asked {
		group.Go(func() error {
			answers[i], errs[i] = resolve(ctx, resolver, s)
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("resolve the names of the targets: %w", err)
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if err := joinFaults(errs); err != nil {
		return nil, err
	}
	addrs := map[string][]netip.Prefix{}
	for i, s := range asked {
		addrs[s.Name] = answers[i]
	}
	return addrs, nil
}

func resolve(ctx context.Context, resolver Resolver, s Spec) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	answer, err := resolver.LookupNetIP(ctx, "ip", s.Name)
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		return nil, &Error{
			Where: s.where.String(), Line: s.where.line, Subject: s.Text, Err: err,
			Problem: "the name has no address", Advice: "check the name, or give the address",
		}
	}
	if err != nil {
		return nil, &Error{
			Where: s.where.String(), Line: s.where.line, Subject: s.Text, Err: err,
			Problem: "cannot resolve the name", Advice: "check the name server, or give the address",
		}
	}
	if len(answer) == 0 {
		return nil, &Error{
			Where: s.where.String(), Line: s.where.line, Subject: s.Text,
			Problem: "the name has no address", Advice: "check the name, or give the address",
		}
	}
	for i, a := range answer {
		answer[i] = a.WithZone("").Unmap()
	}
	slices.SortFunc(answer, netip.Addr.Compare)
	answer = slices.Compact(answer)
	prefixes := make([]netip.Prefix, len(answer))
	for i, a := range answer {
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return prefixes, nil
}
