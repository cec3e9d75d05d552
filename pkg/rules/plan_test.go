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
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
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
	has, wants := viewOf(have), viewOf(want)
	harmless := unprotected(has.Ruleset)
	for i, s := range Plan(have, want) {
		before := k.clone()
		for _, part := range s.parts() {
			k.apply(t, part)
			now := viewOf(k.list(t))
			where := func() string {
				return fmt.Sprintf("after\n%sof step %d of\n%sfrom\n%s", script(part), i+1, scripts(Plan(have, want)), before.save(s.Family))
			}
			if now := k.foreign(); now != start {
				t.Fatalf("other people's rules changed (-before +after)\n%s%s", cmp.Diff(start, now), where())
			}
			for diverted := range unprotected(now.Ruleset) {
				if !harmless[diverted] {
					t.Fatalf("not tracked, and not answered: %s\n%s", diverted, where())
				}
			}
			checkKept(t, has, wants, now, where)
			checkPartners(t, now, where, has, wants)
		}
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

// parts returns a step with each change of a set on its own: the kernel takes
// one after the other, and packets meet what is between them.
func (s Step) parts() []Step {
	if s.Table != Sets {
		return []Step{s}
	}
	var all []Step
	for _, c := range s.Sets {
		all = append(all, Step{Family: s.Family, Table: Sets, Sets: []SetChange{c}})
	}
	return all
}

func scripts(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%s %s", s.Family, script(s))
	}
	return b.String()
}

func script(s Step) string {
	if s.Table == Sets {
		return renderSets(s)
	}
	return s.Script()
}

// eachService returns the rules as they would be without sets: for each member
// of a set one of its own. Whether a rule counts is all the same.
func (rs Ruleset) eachService() Ruleset {
	each := newRuleset()
	each.jumps, each.foreign = rs.jumps, rs.foreign
	for id, rules := range rs.chains {
		each.chains[id] = nil
		for _, r := range rules {
			i := slices.IndexFunc(r.Matches, func(m Match) bool { return m.rank() == (Members{}).rank() })
			if i < 0 {
				each.chains[id] = append(each.chains[id], r)
				continue
			}
			in := r.Matches[i].(Members)
			for _, m := range rs.sets[setID{id.family, in.Set}].Members {
				each.chains[id] = append(each.chains[id], r.about(in.Source, m))
			}
		}
	}
	return each
}

// about returns the rule about one member of the set that it looks into.
func (r Rule) about(source bool, member Member) Rule {
	var ms []Match
	for _, m := range r.Matches {
		switch m := m.(type) {
		case Members:
		case TCP:
			if source {
				m.SrcPort = member.Port
				ms = append(ms, m, Source{Prefix: member.Prefix})
			} else {
				m.DstPort = member.Port
				ms = append(ms, m, Destination{Prefix: member.Prefix})
			}
		default:
			ms = append(ms, m)
		}
	}
	r.Matches = ms
	r.Matches = r.sorted()
	return r
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

// view is a rule set without sets, and what is looked up in it.
type view struct {
	Ruleset
	index    map[string]int      // how many there are of each rule, by its text and place
	partners map[string][]string // the rules beyond raw, by the service that they are about
}

func viewOf(rs Ruleset) view {
	v := view{Ruleset: rs.eachService(), index: map[string]int{}, partners: map[string][]string{}}
	for _, r := range v.Rules() {
		k := key(r)
		v.index[k]++
		if r.Table != Raw {
			v.partners[aboutService(r)] = append(v.partners[aboutService(r)], k)
		}
	}
	return v
}

func key(r Rule) string {
	return string(r.Family) + " " + string(r.Table) + " -A " + r.Chain + " " + r.String()
}

func aboutService(r Rule) string {
	return netip.AddrPortFrom(address(r).Addr(), port(r)).String() + string(r.Family)
}

// checkKept wants what was there and is to be there to be there all the time.
func checkKept(t *testing.T, have, want, now view, where func() string) {
	t.Helper()
	for k, h := range have.index {
		if now.index[k] < min(h, want.index[k]) {
			t.Fatalf("gone in between: %s\n%s", k, where())
		}
	}
}

// checkPartners wants each rule that diverts SYNs to have with it all the rules
// of other tables that it has in the old set, or in the new one.
func checkPartners(t *testing.T, now view, where func() string, ends ...view) {
	t.Helper()
	for _, r := range now.Rules() {
		if r.Table != Raw || r.Chain != chainPre || r.Target != (Notrack{}) {
			continue
		}
		var missing []string
		for _, end := range ends {
			if end.index[key(r)] == 0 {
				continue
			}
			all := end.partners[aboutService(r)]
			lacks := slices.IndexFunc(all, func(k string) bool { return now.index[k] == 0 })
			if lacks < 0 {
				missing = nil
				break
			}
			missing = append(missing, all[lacks])
		}
		if len(missing) > 0 {
			t.Fatalf("%s\nis there, but not %s\n%s", key(r), missing, where())
		}
	}
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
	if ds := compareSets(now, have); len(ds) > 0 && !slices.ContainsFunc(ds, func(d Difference) bool { return d.Fault == SetForeign }) {
		t.Fatalf("rolled back, but %v", ds)
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

// many returns n services of 192.0.0.0/16, all alike, or each with options of its own.
func many(n int, alike bool, change func(*Service)) Policy {
	var p Policy
	for i := range n {
		s := service(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}).String() + "/32")
		if !alike {
			s.Options.MSS = ptr(uint16(minMSS + i))
		}
		change(&s)
		p.Services = append(p.Services, s)
	}
	return p
}

// TestPlanManyChanges changes more than a chain is edited for: it is written anew,
// and states on the way are as safe. With alike services it is sets that change.
func TestPlanManyChanges(t *testing.T) {
	k := newKernel()
	server := func(s *Service) { s.First, s.Mode = FirstServer, ModeNotrack }
	client := func(s *Service) { s.First, s.Mode = FirstClient, ModeNotrack }
	for _, want := range []Ruleset{
		many(300, false, server).Ruleset(NFT), many(300, false, client).Ruleset(NFT), many(5, false, client).Ruleset(NFT),
		many(300, true, client).Ruleset(NFT), many(300, false, client).Ruleset(NFT), many(300, true, server).Ruleset(NFT),
		many(2, true, server).Ruleset(NFT), many(400, true, server).Ruleset(NFT),
		{},
	} {
		checkPlan(t, k.clone(), want)
		have := k.list(t)
		for _, s := range Plan(have, want) {
			if n := strings.Count(s.Script(), "\n-D "); n > maxEdits {
				t.Errorf("%d rules deleted by position", n)
			}
			k.apply(t, s)
		}
	}
}

// A set changes as a whole or member by member, and never both ways at once.
func TestPlanSets(t *testing.T) {
	steps := func(have, want Policy) []Step { return Plan(have.Ruleset(NFT), want.Ruleset(NFT)) }
	alike := func(n int) Policy { return many(n, true, func(*Service) {}) }
	for _, tt := range []struct {
		name       string
		have, want Policy
		sets       string // what happens to sets, in order
		rules      int    // how many come and go
	}{
		{"nothing", alike(9), alike(9), "", 0},
		{"one more", alike(9), alike(10), "+1", 0},
		{"one less", alike(10), alike(9), "-1", 0},
		{"from one to two", alike(1), alike(2), "create +2", 12},
		{"from two to one", alike(2), alike(1), "remove -2", 12},
		{"from none", Policy{}, alike(3), "create +3", 7},
		{"to none", alike(3), Policy{}, "remove -3", 7},
		{"others", alike(4), Policy{Services: alike(8).Services[4:]}, "+4 -4", 0},
	} {
		var sets []string
		count := 0
		for _, s := range steps(tt.have, tt.want) {
			for _, c := range s.Changes {
				if _, jump := c.Rule.Target.(Jump); !jump {
					count++
				}
			}
			for _, c := range s.Sets {
				for word, is := range map[string]bool{"create": c.Create, "remove": c.Remove} {
					if is {
						sets = append(sets, word)
					}
				}
				if len(c.Add) > 0 {
					sets = append(sets, fmt.Sprintf("+%d", len(c.Add)))
				}
				if len(c.Delete) > 0 {
					sets = append(sets, fmt.Sprintf("-%d", len(c.Delete)))
				}
			}
		}
		if got := strings.Join(sets, " "); got != tt.sets || count != tt.rules {
			t.Errorf("%s: sets %q and %d rules change, want %q and %d", tt.name, got, count, tt.sets, tt.rules)
		}
	}
}
