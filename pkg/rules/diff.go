package rules

import (
	"fmt"
	"slices"
)

// kept marks the rules of two lists that are common to both, in order.
type kept struct{ have, want []bool }

// common finds a longest common subsequence of two lists of rules. Where the
// lists differ in more than a few thousand places it settles for less.
func common(have, want []Rule) kept {
	k := kept{make([]bool, len(have)), make([]bool, len(want))}
	a, b := texts(have), texts(want)
	lo := 0
	for lo < len(a) && lo < len(b) && a[lo] == b[lo] {
		k.have[lo], k.want[lo] = true, true
		lo++
	}
	na, nb := len(a), len(b)
	for na > lo && nb > lo && a[na-1] == b[nb-1] {
		na, nb = na-1, nb-1
		k.have[na], k.want[nb] = true, true
	}
	const limit = 1 << 22 // cells of the table: 16 MB
	a, b = a[lo:na], b[lo:nb]
	if len(a) == 0 || len(b) == 0 || len(a)*len(b) > limit {
		return k
	}
	length := lengths(a, b)
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			k.have[lo+i], k.want[lo+j] = true, true
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	return k
}

// lengths returns the length of a longest common subsequence of a[i:] and b[j:].
func lengths(a, b []string) [][]int32 {
	t := make([][]int32, len(a)+1)
	cells := make([]int32, (len(a)+1)*(len(b)+1))
	for i := range t {
		t[i], cells = cells[:len(b)+1], cells[len(b)+1:]
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				t[i][j] = t[i+1][j+1] + 1
			} else {
				t[i][j] = max(t[i+1][j], t[i][j+1])
			}
		}
	}
	return t
}

func texts(rules []Rule) []string {
	s := make([]string, len(rules))
	for i, r := range rules {
		s[i] = r.String()
	}
	return s
}

// Fault is the kind of a [Difference].
type Fault string

// The faults.
const (
	RuleMissing   Fault = "rule-missing"
	RuleExtra     Fault = "rule-extra"
	RuleOrder     Fault = "rule-order"
	JumpMissing   Fault = "jump-missing"
	JumpNotFirst  Fault = "jump-not-first"
	JumpExtra     Fault = "jump-extra"
	ForeignJump   Fault = "foreign-jump"
	ChainLeftOver Fault = "chain-left-over"
	SetMissing    Fault = "set-missing"
	SetLeftOver   Fault = "set-left-over"
	SetForeign    Fault = "set-foreign" // our name, but nothing that this package makes
	MemberMissing Fault = "member-missing"
	MemberExtra   Fault = "member-extra"
)

// Difference is one way in which the kernel's rules are not as they should be.
type Difference struct {
	Fault    Fault
	Rule     Rule // what is missing, extra, misplaced; for a chain, only where it is
	Position int  // where it stands in its chain, from 1; 0: nowhere, or it does not matter
	// Of a set: its name, how many members it is about, and the first of them.
	Set    string
	Count  int
	Member Member
	// Native tells that it is one of the backend nftables, and told in its words.
	Native bool
}

// String tells the difference to people.
func (d Difference) String() string {
	where, rule := fmt.Sprintf("%s %s %s", d.Rule.Family, d.Rule.Table, d.Rule.Chain), d.Rule.String()
	if d.Native {
		where, rule = "nft "+d.Rule.NFTChain(), d.Rule.NFTString()
	}
	switch d.Fault {
	case RuleMissing:
		return fmt.Sprintf("%s: rule is missing: %s", where, rule)
	case RuleExtra:
		return fmt.Sprintf("%s: rule %d is not ours: %s", where, d.Position, rule)
	case RuleOrder:
		return where + ": rules are in another order"
	case JumpMissing:
		return fmt.Sprintf("%s: jump is missing: %s", where, d.Rule)
	case JumpNotFirst:
		return fmt.Sprintf("%s: jump stands at position %d, not first: %s", where, d.Position, d.Rule)
	case JumpExtra:
		return fmt.Sprintf("%s: jump at position %d is too many: %s", where, d.Position, d.Rule)
	case ForeignJump:
		return fmt.Sprintf("%s: a rule of somebody else uses our chain: %s", where, d.Rule)
	case ChainLeftOver:
		if d.Rule.Table == Objects {
			return fmt.Sprintf("%s synproxy object %s is left over", d.Rule.Family, d.Rule.Chain)
		}
		return where + ": chain is left over"
	}
	return d.ofSet()
}

func (d Difference) ofSet() string {
	set := fmt.Sprintf("%s set %s", d.Rule.Family, d.Set)
	switch d.Fault {
	case SetMissing:
		return set + " is missing"
	case SetLeftOver:
		return set + " is left over"
	case SetForeign:
		return set + " is of a type that synproxyctl does not make"
	}
	verb := map[Fault]string{MemberMissing: "is missing", MemberExtra: "is not ours"}[d.Fault]
	if d.Count > 1 {
		return fmt.Sprintf("%s: member %s %s (and %d more)", set, d.Member, verb, d.Count-1)
	}
	return fmt.Sprintf("%s: member %s %s", set, d.Member, verb)
}

// Compare returns how the first rule set differs from the second, which is the
// one that should be.
func Compare(have, want Ruleset) []Difference {
	var ds []Difference
	for _, id := range sortedIDs(want.jumps) {
		ds = append(ds, id.compareJumps(have.jumps[id])...)
	}
	for _, id := range sortedIDs(have.jumps) {
		if _, ok := want.jumps[id]; !ok {
			ds = append(ds, Difference{Fault: JumpExtra, Rule: id.jump(), Position: have.jumps[id][0]})
		}
	}
	for _, id := range sortedIDs(want.chains) {
		ds = append(ds, compareChain(have.chains[id], want.chains[id])...)
	}
	for _, id := range sortedIDs(have.chains) {
		if _, ok := want.chains[id]; !ok {
			ds = append(ds, Difference{Fault: ChainLeftOver, Rule: Rule{Family: id.family, Table: id.table, Chain: id.name}, Position: 0})
		}
	}
	ds = append(ds, compareSets(have, want)...)
	for _, r := range have.foreign {
		ds = append(ds, Difference{Fault: ForeignJump, Rule: r, Position: 0})
	}
	for i := range ds {
		ds[i].Native = have.native || want.native
	}
	return ds
}

func (id chainID) compareJumps(at []int) []Difference {
	switch {
	case len(at) == 0:
		return []Difference{{Fault: JumpMissing, Rule: id.jump(), Position: 0}}
	case at[0] != 1:
		return []Difference{{Fault: JumpNotFirst, Rule: id.jump(), Position: at[0]}}
	case len(at) > 1:
		return []Difference{{Fault: JumpExtra, Rule: id.jump(), Position: at[1]}}
	}
	return nil
}

func compareChain(have, want []Rule) []Difference {
	var ds []Difference
	for _, i := range surplus(want, have) {
		ds = append(ds, Difference{Fault: RuleMissing, Rule: want[i], Position: 0})
	}
	for _, i := range surplus(have, want) {
		ds = append(ds, Difference{Fault: RuleExtra, Rule: have[i], Position: i + 1})
	}
	if ds == nil && !slices.Equal(texts(have), texts(want)) {
		ds = append(ds, Difference{Fault: RuleOrder, Rule: Rule{Family: want[0].Family, Table: want[0].Table, Chain: want[0].Chain}, Position: 0})
	}
	return ds
}
