package rules

import (
	"cmp"
	"maps"
	"slices"
)

// Ruleset is what of the kernel's rules is ours: the chains that we made, the
// jumps to them in the built-in chains, and the sets that the rules look into. The zero value is "nothing at all".
type Ruleset struct {
	chains  map[chainID][]Rule
	jumps   map[chainID][]int // by the chain jumped to, below its built-in chain: positions from 1
	foreign []Rule            // rules of others that refer to our chains
	sets    map[setID]Set
	// native tells that all of it changes in one transaction: it is in tables of
	// nft that are ours alone.
	native bool
}

// chainID names one of our chains. For a jump, base is the built-in chain that
// it stands in; else base is empty.
type chainID struct {
	family Family
	table  Table
	base   string
	name   string
}

func (id chainID) compare(o chainID) int {
	return cmp.Or(cmp.Compare(id.family, o.family), cmp.Compare(id.table, o.table),
		cmp.Compare(id.base, o.base), cmp.Compare(id.name, o.name))
}

func newRuleset() Ruleset {
	return Ruleset{chains: map[chainID][]Rule{}, jumps: map[chainID][]int{}, sets: map[setID]Set{}}
}

// Ruleset returns what the kernel should hold for the policy, by the named
// backend.
func (p Policy) Ruleset(backend string) Ruleset {
	l := layouts[backend]
	rs := newRuleset()
	rs.native = l.native
	all, sets := p.build(l)
	for _, s := range sets {
		rs.sets[setID{s.Family, s.Name}] = s
	}
	for _, r := range all {
		if jump, ok := r.Target.(Jump); ok {
			rs.jumps[chainID{r.Family, r.Table, r.Chain, jump.Chain}] = []int{1}
			continue
		}
		id := chainID{r.Family, r.Table, "", r.Chain}
		rs.chains[id] = append(rs.chains[id], r)
	}
	return rs
}

// Extract returns what is ours in the given dumps, at most one a family.
func Extract(dumps ...Dump) Ruleset {
	rs := newRuleset()
	for _, d := range dumps {
		for _, c := range d.Chains {
			if ours(c.Name) {
				rs.chains[chainID{d.Family, c.Table, "", c.Name}] = c.Rules
				continue
			}
			rs.references(d.Family, c)
		}
	}
	return rs
}

// references finds what in a chain of others refers to a chain of ours: our
// plain jump in a built-in chain, or a rule that somebody else made.
func (rs *Ruleset) references(f Family, c Chain) {
	for i, r := range c.Rules {
		jump, ok := r.Target.(Jump)
		switch {
		case ok && len(r.Matches) == 0 && c.Policy != "-":
			id := chainID{f, c.Table, c.Name, jump.Chain}
			rs.jumps[id] = append(rs.jumps[id], i+1)
		case ok, refersToOurs(r.Foreign):
			rs.foreign = append(rs.foreign, r)
		}
	}
}

// refersToOurs reports whether a foreign rule ends in one of our chains.
func refersToOurs(spec string) bool {
	words, err := split(spec)
	for i := 1; err == nil && i < len(words); i++ {
		if prev := words[i-1]; (prev == "-j" || prev == "-g") && ours(words[i]) {
			return true
		}
	}
	return false
}

// Empty reports whether nothing of ours is there.
func (rs Ruleset) Empty() bool { return len(rs.chains) == 0 && len(rs.jumps) == 0 && len(rs.sets) == 0 }

// Uses reports whether the set holds anything of a family.
func (rs Ruleset) Uses(f Family) bool {
	for id := range rs.chains {
		if id.family == f {
			return true
		}
	}
	for id := range rs.jumps {
		if id.family == f {
			return true
		}
	}
	for id := range rs.sets {
		if id.family == f {
			return true
		}
	}
	return false
}

// Rules returns all rules of the set, the jumps first, in a stable order.
func (rs Ruleset) Rules() []Rule {
	var all []Rule
	for _, id := range sortedIDs(rs.jumps) {
		all = append(all, id.jump())
	}
	for _, id := range sortedIDs(rs.chains) {
		all = append(all, rs.chains[id]...)
	}
	return all
}

func (id chainID) jump() Rule {
	return Rule{Family: id.family, Table: id.table, Chain: id.base, Target: Jump{id.name}}
}

func sortedIDs[V any](m map[chainID]V) []chainID {
	return slices.SortedFunc(maps.Keys(m), chainID.compare)
}
