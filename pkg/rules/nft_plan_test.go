package rules

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
	for seed := range uint64(100) {
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
				checkMessages(t, s)
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

// messagesOf returns the kinds of messages that a step is written as.
func messagesOf(t *testing.T, s Step) []int {
	t.Helper()
	w := nftWriter{step: s, batch: &batch{}}
	w.write()
	if w.err != nil {
		t.Fatal(w.err)
	}
	var kinds []int
	for rest := w.buf; len(rest) > 0; {
		size := int(binary.NativeEndian.Uint32(rest))
		if size < 20 || size > len(rest) || size%4 != 0 {
			t.Fatalf("a message of %d bytes, with %d left", size, len(rest))
		}
		if _, err := fields(rest[20:size]); err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, int(rest[4]))
		rest = rest[size:]
	}
	return kinds
}

// checkMessages wants all that the kernel must be told first to be told first.
func checkMessages(t *testing.T, s Step) {
	t.Helper()
	kinds := messagesOf(t, s)
	order := []int{
		unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELOBJ, unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWRULE,
	}
	last := func(kind int) int { return len(kinds) - 1 - slices.Index(reversed(kinds), kind) }
	for i, a := range order {
		for _, b := range order[i+1:] {
			if slices.Contains(kinds, a) && slices.Contains(kinds, b) && last(a) > slices.Index(kinds, b) {
				t.Errorf("messages %v: a %d comes after a %d", kinds, a, b)
			}
		}
	}
	for _, pair := range [][2]int{{unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_NEWSETELEM}, {unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_DELOBJ}, {unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_NEWSETELEM}} {
		if a, b := pair[0], pair[1]; slices.Contains(kinds, a) && slices.Contains(kinds, b) && last(a) > slices.Index(kinds, b) {
			t.Errorf("messages %v: a %d comes after a %d", kinds, a, b)
		}
	}
}

func reversed(list []int) []int {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

// What somebody else has put into a table of ours goes with the table, which is
// written anew at once.
func TestPlanNFTablesStrange(t *testing.T) {
	want := goldenPolicies()["alike"].Ruleset(NFTables)
	all := len(want.only(func(f Family) bool { return f == IPv4 }).Rules())
	for name, spoil := range map[string]func(Ruleset){
		"a rule": func(rs Ruleset) {
			id := chainID{IPv4, Mangle, "", chainOut}
			rs.chains[id] = append(slices.Clone(rs.chains[id]), Rule{Family: IPv4, Table: Mangle, Chain: chainOut, Foreign: "a rule of somebody else (handle 7)"})
		},
		"a chain elsewhere": func(rs Ruleset) {
			id := chainID{IPv4, Mangle, "", chainOut}
			rs.chains[id] = slices.Concat([]Rule{{Family: IPv4, Table: Mangle, Chain: chainOut, Foreign: misplacedText}}, rs.chains[id])
		},
		"a set": func(rs Ruleset) {
			rs.sets[setID{IPv4, "__set0"}] = Set{Family: IPv4, Name: "__set0", Foreign: "a set of another type"}
		},
		"a set of another kind": func(rs Ruleset) {
			for id, s := range rs.sets {
				if id.family == IPv4 {
					s.Counted, s.Mapped = s.Mapped, s.Counted
					rs.sets[id] = s
				}
			}
		},
		"an object": func(rs Ruleset) {
			rs.chains[chainID{IPv4, Objects, "", "c"}] = []Rule{{Family: IPv4, Table: Objects, Chain: "c", Foreign: "an object of somebody else"}}
		},
	} {
		have := want.only(func(Family) bool { return true })
		spoil(have)
		steps := Plan(have, want)
		if len(steps) != 1 {
			t.Errorf("%s: %d steps", name, len(steps))
			continue
		}
		kinds := messagesOf(t, steps[0])
		rules := 0
		for _, kind := range kinds {
			switch kind {
			case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_NEWOBJ:
				rules++
			case unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_DELOBJ:
				t.Errorf("%s: messages %v", name, kinds)
			}
		}
		if kinds[0] != unix.NFT_MSG_DELTABLE || kinds[1] != unix.NFT_MSG_NEWTABLE || rules != all {
			t.Errorf("%s: %d rules for %d, messages %v", name, rules, all, kinds)
		}
	}
}

// A step that cannot be written is not begun.
func TestApplyNFTablesUnwritable(t *testing.T) {
	rs := goldenPolicies()["alike"].Ruleset(NFTables)
	id := chainID{IPv4, Mangle, "", chainOut}
	rs.chains[id] = append(slices.Clone(rs.chains[id]), Rule{Family: IPv4, Table: Mangle, Chain: chainOut, Matches: []Match{Comment{"nft has no word for it"}}, Target: Drop})
	sent := false
	err := commit(func(b *batch) error {
		w := nftWriter{step: Plan(Ruleset{}, rs)[0], batch: b}
		w.write()
		sent = w.err == nil
		return w.err
	})
	if err == nil || sent || !strings.Contains(err.Error(), "no word for it") {
		t.Errorf("error %v", err)
	}
}
