package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPlanRandom leads random rules, whole and broken, to random policies, and
// looks at every state on the way, and at the way back from it.
func TestPlanRandom(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := generator{rand.New(rand.NewPCG(seed, 2))}
			k := newKernel()
			g.strangers(k)
			for _, s := range Plan(Ruleset{}, g.policy().Ruleset(NFT)) {
				k.apply(t, s)
			}
			if seed%4 != 0 {
				for range g.IntN(6) {
					g.spoil(k)
				}
			}
			checkPlan(t, k, g.policy().Ruleset(NFT))
		})
	}
}

// checkPlan applies the way to want step by step.
func checkPlan(t *testing.T, k kernel, want Ruleset) {
	t.Helper()
	start, have := k.foreign(), k.list(t)
	if steps := Plan(have, have); len(steps) > 0 {
		t.Fatalf("from here to here takes steps:\n%s", scripts(steps))
	}
	harmless := unprotected(have)
	for i, s := range Plan(have, want) {
		before := k.clone()
		k.apply(t, s)
		now := k.list(t)
		where := func() string {
			return fmt.Sprintf("after step %d of\n%sfrom\n%s", i+1, scripts(Plan(have, want)), before[s.Family].save())
		}
		if now := k.foreign(); now != start {
			t.Fatalf("other people's rules changed (-before +after)\n%s%s", cmp.Diff(start, now), where())
		}
		for diverted := range unprotected(now) {
			if !harmless[diverted] {
				t.Fatalf("not tracked, and not answered: %s\n%s", diverted, where())
			}
		}
		checkKept(t, have, want, now, where)
		checkPartners(t, have, want, now, where)
		checkRollback(t, k.clone(), have)
	}
	now := k.list(t)
	if ds := Compare(now, want); len(ds) > 0 {
		t.Fatalf("the plan does not lead there: %v\n%s", ds, scripts(Plan(have, want)))
	}
	if steps := Plan(now, want); len(steps) > 0 {
		t.Fatalf("arrived, but there are steps left:\n%s", scripts(steps))
	}
}

func scripts(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%s %s", s.Family, s.Script())
	}
	return b.String()
}

// unprotected returns the SYNs that PREROUTING keeps from conntrack and no
// reachable SYNPROXY rule answers, and those that are answered though nothing
// judges the ACKs that come back.
func unprotected(rs Ruleset) map[string]bool {
	found := map[string]bool{}
	for id, rules := range rs.chains {
		if !rs.entered(id) {
			continue
		}
		for _, r := range rules {
			switch {
			case id.table == Raw && id.name == chainPre && r.Target == (Notrack{}) && len(r.Matches) >= 3:
				if !rs.reaches(r, answers) {
					found[fmt.Sprintf("%s %s", r.Family, r)] = true
				}
			case len(r.Matches) >= 4 && answers(r) && (!rs.reaches(r, judges) || !rs.reaches(r, drops)):
				found[fmt.Sprintf("%s %s", r.Family, r)] = true
			}
		}
	}
	return found
}

// entered reports whether a built-in chain leads into the chain.
func (rs Ruleset) entered(id chainID) bool {
	for jump := range rs.jumps {
		if jump.family == id.family && jump.table == id.table && jump.name == id.name {
			return true
		}
	}
	return false
}

// reaches reports whether packets that the rule is about meet another rule, of
// the given kind, that is about the same destination, interface and port.
func (rs Ruleset) reaches(r Rule, kind func(Rule) bool) bool {
	for id, rules := range rs.chains {
		if id.family != r.Family || !rs.entered(id) {
			continue
		}
		for _, o := range rules {
			if len(o.Matches) >= 4 && o.Matches[0] == r.Matches[0] && o.Matches[1] == r.Matches[1] && port(o) == port(r) && kind(o) {
				return true
			}
		}
	}
	return false
}

func state(r Rule) States {
	for _, m := range r.Matches {
		if s, ok := m.(CTState); ok {
			return s.States
		}
	}
	return 0
}

func answers(r Rule) bool {
	_, ok := r.Target.(SYNPROXY)
	return ok && state(r)&Untracked != 0
}

func judges(r Rule) bool {
	_, ok := r.Target.(SYNPROXY)
	return ok && state(r) == Invalid && r.Table == Mangle
}

func drops(r Rule) bool { return r.Target == Drop && state(r) == Invalid && r.Table == Mangle }

// port returns the port of the service that a rule is about.
func port(r Rule) uint16 {
	for _, m := range r.Matches {
		switch m := m.(type) {
		case Original:
			return m.Port
		case TCP:
			if port := m.SrcPort + m.DstPort; port != 0 {
				return port
			}
		}
	}
	return 0
}

// address returns the address of the service that a rule is about.
func address(r Rule) netip.Prefix {
	for _, m := range r.Matches {
		switch m := m.(type) {
		case Source:
			return m.Prefix
		case Destination:
			return m.Prefix
		case Original:
			return m.Destination
		}
	}
	return netip.Prefix{}
}

// index counts the rules of a set by their text and place.
func index(rs Ruleset) map[string]int {
	n := map[string]int{}
	for _, r := range rs.Rules() {
		n[key(r)]++
	}
	return n
}

func key(r Rule) string { return fmt.Sprintf("%s %s -A %s %s", r.Family, r.Table, r.Chain, r) }

// checkKept wants what was there and is to be there to be there all the time.
func checkKept(t *testing.T, have, want, now Ruleset, where func() string) {
	t.Helper()
	w, n := index(want), index(now)
	for k, h := range index(have) {
		if n[k] < min(h, w[k]) {
			t.Fatalf("gone in between: %s\n%s", k, where())
		}
	}
}

// checkPartners wants each rule that diverts SYNs to have with it all the rules
// of filter and mangle that it has in the old set, or in the new one.
func checkPartners(t *testing.T, have, want, now Ruleset, where func() string) {
	t.Helper()
	n := index(now)
	sets := map[*Ruleset]map[string]int{&have: index(have), &want: index(want)}
	for _, r := range now.Rules() {
		if r.Table != Raw || r.Chain != chainPre || r.Target != (Notrack{}) {
			continue
		}
		var missing []string
		for rs, has := range sets {
			if has[key(r)] > 0 {
				missing = append(missing, missingPartner(*rs, r, n))
			}
		}
		if len(missing) > 0 && !slices.Contains(missing, "") {
			t.Fatalf("%s\nis there, but not %s\n%s", key(r), missing, where())
		}
	}
}

func missingPartner(rs Ruleset, notrack Rule, now map[string]int) string {
	for _, r := range rs.Rules() {
		partner := r.Table != Raw && r.Family == notrack.Family && port(r) == port(notrack) && address(r) == address(notrack)
		if partner && now[key(r)] == 0 {
			return key(r)
		}
	}
	return ""
}

// checkRollback leads back to where the way began. Jumps that were misplaced
// or doubled then stand ahead of other people's rules, once.
func checkRollback(t *testing.T, k kernel, have Ruleset) {
	t.Helper()
	for _, s := range Plan(k.list(t), have) {
		k.apply(t, s)
	}
	now := k.list(t)
	if got, want := texts(now.Rules()), texts(have.Rules()); !slices.Equal(got, want) {
		t.Fatalf("rolled back (-want +got):\n%s", cmp.Diff(want, got))
	}
	first := map[chainID]int{}
	for id, at := range now.jumps {
		id.name = ""
		first[id] = min(at[0], orElse(first[id], at[0]))
	}
	for id, at := range now.jumps {
		base := chainID{id.family, id.table, id.base, ""}
		if first[base] != 1 && !slices.Equal(at, have.jumps[id]) {
			t.Fatalf("rolled back, but the jump %v stands at %v", id, at)
		}
	}
}

func orElse(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

// TestPlanManyChanges changes more than a chain is edited for: it is written anew, and states on the way are as safe.
func TestPlanManyChanges(t *testing.T) {
	many := func(first First, n int) Ruleset {
		var p Policy
		for i := range n {
			s := service(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}).String() + "/32")
			s.First = first
			p.Services = append(p.Services, s)
		}
		return p.Ruleset(NFT)
	}
	k := newKernel()
	for _, want := range []Ruleset{many(FirstServer, 300), many(FirstClient, 300), many(FirstClient, 5), {}} {
		checkPlan(t, k, want)
		have := k.list(t)
		for _, s := range Plan(have, want) {
			if n := strings.Count(s.Script(), "\n-D "); n > maxEdits {
				t.Errorf("%d rules deleted by position", n)
			}
			k.apply(t, s)
		}
	}
}
