package rules

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Backend puts rules into the kernel of the calling thread's network namespace
// and reads them back.
type Backend interface {
	// Name returns the name under which [Find] finds the backend.
	Name() string
	// List returns what of the kernel's rules is ours, in all tables of both
	// families. The error wraps [ErrIncompatible] if a table cannot be seen.
	List(ctx context.Context) (Ruleset, error)
	// Render returns the step as the text that Apply would hand over.
	Render(step Step) string
	// Apply executes one step: all of it, or nothing. The error wraps
	// [ErrChanged] if the rules are no longer those that the step was planned
	// for; a new plan may then succeed. A step that has begun is finished even
	// if ctx ends.
	Apply(ctx context.Context, step Step) error
	// Base returns the built-in chains and their tables that exist only since
	// somebody first used them, and Prune removes those of them that are not
	// in keep, hold nothing and change nothing. Backends whose tables cannot
	// be removed return none.
	Base
}

// Base is the part of a [Backend] that restores tables.
type Base interface {
	BaseChains(ctx context.Context) ([]BaseChain, error)
	Prune(ctx context.Context, keep []BaseChain) error
}

// The names of the backends.
const (
	NFT      = "iptables-nft"
	Legacy   = "iptables-legacy"
	NFTables = "nftables"
)

// Find returns the backend of that name. Its error wraps [ErrUnsupported] if the
// programs that it needs are not there.
func Find(name string) (Backend, error) {
	switch name {
	case NFT, Legacy:
		return findXtables(name)
	case NFTables:
		return findNFTables()
	}
	return nil, fmt.Errorf("backend %q: none of %s, %s and %s", name, NFT, Legacy, NFTables)
}

// FindAll returns the backends that this host has, in the order of preference.
// If it has none, the error wraps [ErrUnsupported] and names what is missing.
func FindAll() ([]Backend, error) { return findAll(NFTables, NFT, Legacy) }

func findAll(names ...string) ([]Backend, error) {
	var all []Backend
	var errs []error
	for _, name := range names {
		b, err := Find(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, b)
	}
	if len(all) == 0 {
		return nil, errors.Join(errs...)
	}
	return all, nil
}

// Choose returns the backend that fits this host, and a sentence that says why.
// Where the host's own rules are those of iptables, it is the variant that holds
// them: only a rule ahead of theirs, in the same chain, can keep them from
// dropping what the proxy sends. Elsewhere it is nf_tables by itself; and the
// program that iptables is where there is none. Rules of this package do not
// count.
func Choose(ctx context.Context) (Backend, string, error) { return choose(ctx, NFTables, NFT, Legacy) }

// ChooseXtables is [Choose] among the variants of iptables.
func ChooseXtables(ctx context.Context) (Backend, string, error) { return choose(ctx, NFT, Legacy) }

func choose(ctx context.Context, among ...string) (Backend, string, error) {
	found, err := findAll(among...)
	if err != nil {
		return nil, "", err
	}
	if len(found) == 1 {
		return found[0], "the only one on this host", nil
	}
	var used, variants []*xtables
	for _, b := range found {
		x, ok := b.(*xtables)
		if !ok {
			continue
		}
		in, err := x.inUse(ctx)
		if errors.Is(err, ErrIncompatible) {
			continue // nft uses its tables: what stands there cannot be seen
		}
		if err != nil {
			return nil, "", err
		}
		variants = append(variants, x)
		if in {
			used = append(used, x)
		}
	}
	switch {
	case len(used) == 1:
		return used[0], "this host's own rules use it", nil
	case len(used) > 1:
		return preferred(ctx, used), "this host's own rules use both variants of iptables, and it is the one that iptables is", nil
	case found[0].Name() == NFTables:
		return found[0], "no rule of this host uses iptables, and it changes all in one transaction", nil
	case len(variants) > 0:
		return preferred(ctx, variants), "it is this host's iptables", nil
	}
	return nil, "", fmt.Errorf("%w: nft uses the tables of %s", ErrIncompatible, found[0].Name())
}

// preferred returns the variant that the program iptables is.
func preferred(ctx context.Context, variants []*xtables) *xtables {
	return variants[max(0, slices.IndexFunc(variants, func(x *xtables) bool { return x.isDefault(ctx) }))]
}

// inUse reports whether the variant holds rules, chains or policies of others.
func (x *xtables) inUse(ctx context.Context) (bool, error) {
	for _, f := range Families {
		d, err := x.dump(ctx, f)
		if err != nil {
			return false, err
		}
		for _, c := range d.Chains {
			if !ours(c.Name) && (c.Policy != string(Accept) || slices.ContainsFunc(c.Rules, notOurs)) {
				return true, nil
			}
		}
	}
	return false, nil
}

func notOurs(r Rule) bool {
	_, jump := r.Target.(Jump) // only jumps to our chains are of this type
	return !jump
}

// isDefault reports whether the program "iptables" is this variant.
func (x *xtables) isDefault(ctx context.Context) bool {
	path, err := lookProgram("iptables")
	if err != nil {
		return false
	}
	out, err := run(ctx, path, nil, "--version")
	return err == nil && strings.Contains(string(out), variantMark[x.name])
}
