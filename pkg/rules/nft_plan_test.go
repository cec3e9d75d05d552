package rules

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// afterStep returns what a step of nftables leads to, by what it tells people.
func afterStep(t *testing.T, have Ruleset, s Step) Ruleset {
	t.Helper()
	after := newRuleset()
	after.native = true
	for id, rules := range have.chains {
		after.chains[id] = slices.Clone(rules)
	}
	k := kernel{sets: map[setID]Set{}}
	for id, set := range have.sets {
		k.sets[id] = set
	}
	for _, c := range s.Changes {
		id := chainID{c.Rule.Family, c.Rule.Table, "", c.Rule.Chain}
		list := after.chains[id]
		if c.Action == Add {
			list = slices.Insert(list, c.pos-1, c.Rule)
		} else {
			if got := list[c.pos-1]; got.String() != c.Rule.String() {
				t.Fatalf("%s would go, and not %s", got, c.Rule)
			}
			list = slices.Delete(list, c.pos-1, c.pos)
		}
		after.chains[id] = list
		if len(list) == 0 {
			delete(after.chains, id)
		}
	}
	for _, c := range s.Sets {
		if err := k.takeSets(Step{Family: c.Set.Family, Table: Sets, Sets: []SetChange{c}}); err != nil {
			t.Fatal(err)
		}
	}
	after.sets = k.sets
	return after
}

// From one random policy to another it is one step, or none.
func TestPlanNFTables(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := generator{rand.New(rand.NewPCG(seed, 4))}
			p := g.policy()
			have, want := p.Ruleset(NFTables), g.policy().Ruleset(NFTables)
			if seed%10 == 0 {
				want = Ruleset{}
			}
			if seed%10 == 1 {
				have = Ruleset{}
			}
			for name, rs := range map[string]Ruleset{"have": have, "want": want} {
				if steps, ds := Plan(rs, rs), Compare(rs, rs); len(steps) > 0 || len(ds) > 0 {
					t.Fatalf("%s differs from itself: %v, %d steps", name, ds, len(steps))
				}
			}
			steps := Plan(have, want)
			if (len(steps) > 0) != (len(Compare(have, want)) > 0) || len(steps) > 1 {
				t.Fatalf("%d steps for %v", len(steps), Compare(have, want))
			}
			now := have
			for _, s := range steps {
				now = afterStep(t, have, s)
			}
			if ds := Compare(now, want); len(ds) > 0 {
				t.Fatalf("the step does not lead there: %v", ds)
			}
			checkUnion(t, have, want)
		})
	}
}

// checkUnion wants nothing of want to be missing in the union, and nothing of
// have but what want has otherwise.
func checkUnion(t *testing.T, have, want Ruleset) {
	t.Helper()
	both := have.With(want)
	for _, d := range Compare(both, want) {
		switch d.Fault {
		case RuleExtra, ChainLeftOver, JumpExtra, SetLeftOver, MemberExtra:
		default:
			t.Errorf("the union lacks of what is wanted: %s", d)
		}
	}
	for _, d := range Compare(both, have) {
		switch d.Fault {
		case RuleMissing, SetMissing, JumpMissing:
			t.Errorf("the union lacks of what was there: %s", d)
		case MemberMissing: // it may have another object
			if !slices.ContainsFunc(both.sets[setID{d.Rule.Family, d.Set}].Members, func(m Member) bool { return m.compare(d.Member) == 0 }) {
				t.Errorf("the union lacks a member: %s", d)
			}
		}
	}
}

func TestUnionXtables(t *testing.T) {
	for seed := range uint64(100) {
		g := generator{rand.New(rand.NewPCG(seed, 5))}
		checkUnion(t, g.policy().Ruleset(NFT), g.policy().Ruleset(NFT))
	}
}

// Other options of a member of a map change the member, and no rule: that is what
// the map is for.
func TestPlanNFTablesOptions(t *testing.T) {
	have, want := many(3, true, func(*Service) {}), many(3, true, func(*Service) {})
	want.Services[1].Options.MSS = ptr[uint16](1400)
	steps := Plan(have.Ruleset(NFTables), want.Ruleset(NFTables))
	if len(steps) != 1 || len(steps[0].Sets) != 1 {
		t.Fatalf("steps %v", steps)
	}
	for _, c := range steps[0].Changes {
		if c.Rule.Table != Objects {
			t.Errorf("a rule changes: %s %s", c.Action, c.Rule)
		}
	}
	c := steps[0].Sets[0]
	if len(c.Add) != 1 || len(c.Delete) != 1 || c.Add[0].Object != "synproxyctl_mss1400" || c.Delete[0].Object != "synproxyctl_none" {
		t.Errorf("members %v come and %v go", c.Add, c.Delete)
	}
}
