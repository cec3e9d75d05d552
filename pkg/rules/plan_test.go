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
			for _, s := range Plan(Ruleset{}, g.policy().Ruleset()) {
				k.apply(t, s)
			}
			if seed%4 != 0 {
				for range g.IntN(6) {
					g.spoil(k)
				}
			}
			checkPlan(t, k, g.policy().Ruleset())
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

// unprotected returns the untracked SYNs, those that PREROUTING sends to our
// chain, that no reachable SYNPROXY rule with its INVALID drop answers.
func unprotected(rs Ruleset) map[string]bool {
	found := map[string]bool{}
	for id, rules := range rs.chains {
		if id.table != Raw || id.name != chainPre || len(rs.jumps[chainID{id.family, Raw, "PREROUTING", chainPre}]) == 0 {
			continue
		}
		for _, r := range rules {
			if r.Target == (Notrack{}) && len(r.Matches) == 3 && !answered(rs, r) {
				found[fmt.Sprintf("%s %s", r.Family, r)] = true
			}
		}
	}
	return found
}

func answered(rs Ruleset, notrack Rule) bool {
	for base, chain := range map[string]string{"INPUT": chainIn, "FORWARD": chainForward} {
		if len(rs.jumps[chainID{notrack.Family, Filter, base, chain}]) == 0 {
			continue
		}
		proxied := false
		for _, r := range rs.chains[chainID{notrack.Family, Filter, "", chain}] {
			if len(r.Matches) != 4 || r.Matches[0] != notrack.Matches[0] || r.Matches[1] != notrack.Matches[1] || port(r) != port(notrack) {
				continue
			}
			if _, ok := r.Target.(SYNPROXY); ok {
				proxied = true
			}
			if proxied && r.Target == Drop {
				return true
			}
		}
	}
	return false
}

// port returns the port of the service that a rule is about.
func port(r Rule) uint16 {
	for _, m := range r.Matches {
		if tcp, ok := m.(TCP); ok {
			return tcp.SrcPort + tcp.DstPort
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

// generator makes random policies and rules.
type generator struct{ *rand.Rand }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

func (g generator) policy() Policy {
	var p Policy
	for _, destination := range []string{"192.0.2.1/32", "192.0.2.2/32", "198.51.100.0/24", "2001:db8::1/128", "2001:db8:1::/64"} {
		for _, port := range []uint16{80, 443} {
			if g.IntN(3) > 0 {
				continue
			}
			p.Services = append(p.Services, Service{
				Destination: pfx(destination), Port: port, Hook: pick(g, Input, Forward), First: pick(g, FirstClient, FirstServer),
				Interfaces: pick(g, nil, []string{"eth0"}, []string{"eth0", "eth1"}), SynCookies: g.IntN(4) == 0,
				Options: Options{MSS: pick(g, nil, ptr[uint16](1460), ptr[uint16](536)), Timestamps: g.IntN(2) == 0},
			})
		}
	}
	g.Shuffle(len(p.Services), func(i, j int) { p.Services[i], p.Services[j] = p.Services[j], p.Services[i] })
	return p
}

// place picks a chain that satisfies the condition.
func (g generator) place(k kernel, ok func(textChain) bool) (Family, Table, *textChain) {
	type place struct {
		f Family
		t Table
		c *textChain
	}
	var all []place
	for _, f := range Families {
		for _, t := range []Table{Raw, Mangle, Filter, "nat"} {
			for i := range k[f][t] {
				if c := &k[f][t][i]; ok(*c) {
					all = append(all, place{f, t, c})
				}
			}
		}
	}
	if len(all) == 0 {
		return "", "", nil
	}
	p := pick(g, all...)
	return p.f, p.t, p.c
}

// strangers adds other people's rules and chains.
func (g generator) strangers(k kernel) {
	for range g.IntN(20) {
		f, t, c := g.place(k, func(c textChain) bool { return !ours(c.name) })
		rule := pick(g, "-j ACCEPT", "-p tcp -m tcp --dport 22 -j ACCEPT", `-m comment --comment "a \"b\"" -j DROP`, "-m limit --limit 3/sec", "")
		if g.IntN(5) == 0 && k[f].chain(t, "theirs") == nil {
			k[f][t] = append(k[f][t], textChain{name: "theirs", policy: "-"})
			rule = "-j theirs"
			c = k[f].chain(t, c.name) // the slice has moved
		}
		c.rules = slices.Insert(c.rules, g.IntN(len(c.rules)+1), rule)
	}
}

// spoil does one thing to our rules that somebody might have done.
func (g generator) spoil(k kernel) {
	inOurs := func(c textChain) bool { return ours(c.name) && len(c.rules) > 0 }
	hasJump := func(c textChain) bool { return !ours(c.name) && slices.ContainsFunc(c.rules, isJump) }
	switch g.IntN(7) {
	case 0: // a rule less
		if _, _, c := g.place(k, inOurs); c != nil {
			i := g.IntN(len(c.rules))
			c.rules = slices.Delete(c.rules, i, i+1)
		}
	case 1: // a rule more, ours or not
		if _, _, c := g.place(k, inOurs); c != nil {
			rule := pick(g, pick(g, c.rules...), "-j LOG --log-prefix \"x \"", "-j ACCEPT", "-m comment --comment \"hi there\"", "")
			c.rules = slices.Insert(c.rules, g.IntN(len(c.rules)+1), rule)
		}
	case 2: // another order
		if _, _, c := g.place(k, inOurs); c != nil {
			g.Shuffle(len(c.rules), func(i, j int) { c.rules[i], c.rules[j] = c.rules[j], c.rules[i] })
		}
	case 3: // no jump
		if _, _, c := g.place(k, hasJump); c != nil {
			i := slices.IndexFunc(c.rules, isJump)
			c.rules = slices.Delete(c.rules, i, i+1)
		}
	case 4: // a jump twice
		if _, _, c := g.place(k, hasJump); c != nil {
			c.rules = slices.Insert(c.rules, g.IntN(len(c.rules)+1), c.rules[slices.IndexFunc(c.rules, isJump)])
		}
	case 5: // rules ahead of the jump
		if _, _, c := g.place(k, hasJump); c != nil {
			c.rules = slices.Insert(c.rules, 0, pick(g, "-j ACCEPT", "-p tcp", "-m limit --limit 3/sec -j ACCEPT"))
		}
	case 6: // chains of an earlier version, one within the other
		f, t, c := g.place(k, func(c textChain) bool { return c.policy == "ACCEPT" })
		if k[f].chain(t, ChainPrefix+"_A") == nil {
			c.rules = append(c.rules, "-j "+ChainPrefix+"_Z")
			k[f][t] = append(k[f][t], textChain{ChainPrefix + "_Z", "-", []string{"-p tcp -j " + ChainPrefix + "_A"}},
				textChain{ChainPrefix + "_A", "-", []string{"-j DROP"}})
		}
	}
}

func isJump(rule string) bool { return strings.HasPrefix(rule, "-j "+ChainPrefix) }
