package rules

import "slices"

// With returns the set that holds all of other, and what rs has beside it: what
// may stand between the two.
func (rs Ruleset) With(other Ruleset) Ruleset { return union(rs, other) }

// union returns the set that holds all of want, and what have has beside it.
func union(have, want Ruleset) Ruleset {
	u := newRuleset()
	u.native = have.native || want.native
	u.sets = unionSets(have.sets, want.sets)
	for id, rules := range want.chains {
		u.chains[id] = merge(have.chains[id], rules)
	}
	for id, rules := range have.chains {
		if _, ok := u.chains[id]; !ok {
			u.chains[id] = rules
		}
	}
	for id, pos := range have.jumps {
		u.jumps[id] = pos
	}
	for id, pos := range want.jumps {
		u.jumps[id] = pos
	}
	return u
}

// merge returns the rules of want, in their order, and those of have that are
// not in it. A rule of a service stays where it is, behind what is new there;
// any other could take the packets of want's rules, and goes to the end.
func merge(have, want []Rule) []Rule {
	old := surplus(have, want)
	var behind []Rule
	for _, i := range old {
		if !ofService(have[i]) {
			behind = append(behind, have[i])
		}
	}
	keep := common(have, want)
	merged := make([]Rule, 0, len(want)+len(old))
	i, j := 0, 0
	for i < len(have) || j < len(want) {
		switch {
		case j < len(want) && !keep.want[j]:
			merged = append(merged, want[j])
			j++
		case i < len(have) && !keep.have[i]:
			// What want has elsewhere is not in old: it is moved.
			if _, is := slices.BinarySearch(old, i); is && ofService(have[i]) {
				merged = append(merged, have[i])
			}
			i++
		default:
			merged = append(merged, want[j])
			i, j = i+1, j+1
		}
	}
	return append(merged, behind...)
}

// ofService reports whether a rule is of the kind that [Policy.Rules] makes:
// one about single addresses and ports.
func ofService(r Rule) bool {
	address, port := false, false
	for _, m := range r.Matches {
		switch m := m.(type) {
		case Source:
			address = address || !m.Not
		case Destination:
			address = address || !m.Not
		case Original, Members:
			address, port = true, true
		case TCP:
			port = port || m.SrcPort != 0 || m.DstPort != 0
		}
	}
	return address && port
}

// surplus returns where in a list the rules stand that are not in the other, in
// ascending order; of equal rules the later ones.
func surplus(rules, other []Rule) []int {
	count := map[string]int{}
	for _, r := range other {
		count[r.String()]++
	}
	var at []int
	for i, r := range rules {
		text := r.String()
		if count[text]--; count[text] < 0 {
			at = append(at, i)
		}
	}
	return at
}
