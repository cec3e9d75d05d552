package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The state that want describes, and ways to spoil it.
const comparedWant = `*raw
:PREROUTING ACCEPT [0:0]
:theirs - [0:0]
:SYNPROXYCTL_PRE - [0:0]
-A PREROUTING -j SYNPROXYCTL_PRE
-A PREROUTING -j theirs
-A SYNPROXYCTL_PRE -s 192.0.2.1/32 -j DROP
-A SYNPROXYCTL_PRE -s 192.0.2.2/32 -j DROP
-A SYNPROXYCTL_PRE -s 192.0.2.3/32 -j DROP
COMMIT
`

func extract(t *testing.T, text string) Ruleset {
	t.Helper()
	d, err := ParseSave(IPv4, "", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return Extract(d)
}

func TestCompare(t *testing.T) {
	const jump, rule2 = "-A PREROUTING -j SYNPROXYCTL_PRE\n", "-A SYNPROXYCTL_PRE -s 192.0.2.2/32 -j DROP\n"
	for _, tt := range []struct {
		name, old, new string
		fault          Fault
		want           []string
	}{
		{"equal", "", "", "", nil},
		{"others' rules do not matter", "-A PREROUTING -j theirs\n", "-A PREROUTING -p udp\n-A theirs -j DROP\n", "", nil},
		{"rule missing", rule2, "", RuleMissing, []string{"ipv4 raw SYNPROXYCTL_PRE: rule is missing: -s 192.0.2.2/32 -j DROP"}},
		{"rule extra", rule2, "-A SYNPROXYCTL_PRE -j ACCEPT\n" + rule2, RuleExtra, []string{"ipv4 raw SYNPROXYCTL_PRE: rule 2 is not ours: -j ACCEPT"}},
		{
			"foreign rule in our chain", rule2, rule2 + "-A SYNPROXYCTL_PRE -m limit --limit 1/sec -j LOG\n", RuleExtra,
			[]string{"ipv4 raw SYNPROXYCTL_PRE: rule 3 is not ours: -m limit --limit 1/sec -j LOG"},
		},
		{"rule twice", "-A SYNPROXYCTL_PRE -s 192.0.2.3/32", rule2 + "-A SYNPROXYCTL_PRE -s 192.0.2.3/32", RuleExtra, []string{"ipv4 raw SYNPROXYCTL_PRE: rule 3 is not ours: -s 192.0.2.2/32 -j DROP"}},
		{"rules in another order", rule2 + "-A SYNPROXYCTL_PRE -s 192.0.2.3/32 -j DROP\n", "-A SYNPROXYCTL_PRE -s 192.0.2.3/32 -j DROP\n" + rule2, RuleOrder, []string{"ipv4 raw SYNPROXYCTL_PRE: rules are in another order"}},
		{"jump missing", jump, "", JumpMissing, []string{"ipv4 raw PREROUTING: jump is missing: -j SYNPROXYCTL_PRE"}},
		{"jump not first", jump, "-A PREROUTING -p udp\n-A PREROUTING -p udp\n" + jump, JumpNotFirst, []string{"ipv4 raw PREROUTING: jump stands at position 3, not first: -j SYNPROXYCTL_PRE"}},
		{"jump twice", jump, jump + "-A PREROUTING -p udp\n" + jump, JumpExtra, []string{"ipv4 raw PREROUTING: jump at position 3 is too many: -j SYNPROXYCTL_PRE"}},
		{
			"jump to another chain", jump, jump + ":SYNPROXYCTL_OLD - [0:0]\n-A PREROUTING -j SYNPROXYCTL_OLD\n", JumpExtra,
			[]string{"ipv4 raw PREROUTING: jump at position 2 is too many: -j SYNPROXYCTL_OLD", "ipv4 raw SYNPROXYCTL_OLD: chain is left over"},
		},
		{"chain left over", "COMMIT", ":SYNPROXYCTL_OLD - [0:0]\nCOMMIT", ChainLeftOver, []string{"ipv4 raw SYNPROXYCTL_OLD: chain is left over"}},
		{
			"chain in another table", "COMMIT\n", "COMMIT\n*nat\n:SYNPROXYCTL_PRE - [0:0]\nCOMMIT\n", ChainLeftOver,
			[]string{"ipv4 nat SYNPROXYCTL_PRE: chain is left over"},
		},
		{
			"chain emptied", jump + "-A PREROUTING -j theirs\n-A SYNPROXYCTL_PRE -s 192.0.2.1/32 -j DROP\n" + rule2 + "-A SYNPROXYCTL_PRE -s 192.0.2.3/32 -j DROP\n", "",
			JumpMissing,
			[]string{
				"ipv4 raw PREROUTING: jump is missing: -j SYNPROXYCTL_PRE",
				"ipv4 raw SYNPROXYCTL_PRE: rule is missing: -s 192.0.2.1/32 -j DROP",
				"ipv4 raw SYNPROXYCTL_PRE: rule is missing: -s 192.0.2.2/32 -j DROP",
				"ipv4 raw SYNPROXYCTL_PRE: rule is missing: -s 192.0.2.3/32 -j DROP",
			},
		},
		{
			"jump under a condition", "-A PREROUTING -j theirs\n", "-A PREROUTING -s 192.0.2.9/32 -j SYNPROXYCTL_PRE\n", ForeignJump,
			[]string{"ipv4 raw PREROUTING: a rule of somebody else uses our chain: -s 192.0.2.9/32 -j SYNPROXYCTL_PRE"},
		},
		{
			"foreign rule to our chain", "-A PREROUTING -j theirs\n", "-A PREROUTING -p udp -j SYNPROXYCTL_PRE\n", ForeignJump,
			[]string{"ipv4 raw PREROUTING: a rule of somebody else uses our chain: -p udp -j SYNPROXYCTL_PRE"},
		},
		{
			"goto", "-A PREROUTING -j theirs\n", "-A PREROUTING -g SYNPROXYCTL_PRE\n", ForeignJump,
			[]string{"ipv4 raw PREROUTING: a rule of somebody else uses our chain: -g SYNPROXYCTL_PRE"},
		},
		{
			"jump in others' chain", "-A PREROUTING -j theirs\n", "-A theirs -j SYNPROXYCTL_PRE\n", ForeignJump,
			[]string{"ipv4 raw theirs: a rule of somebody else uses our chain: -j SYNPROXYCTL_PRE"},
		},
		{"a comment that looks like a jump", "-A PREROUTING -j theirs\n", "-A PREROUTING -m comment --comment \"-j SYNPROXYCTL_PRE\" -j theirs\n", "", nil},
	} {
		text := strings.Replace(comparedWant, tt.old, tt.new, 1)
		if tt.old != "" && !strings.Contains(comparedWant, tt.old) {
			t.Fatalf("%s: nothing to replace", tt.name)
		}
		ds := Compare(extract(t, text), extract(t, comparedWant))
		var got []string
		for _, d := range ds {
			got = append(got, d.String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, diff)
		} else if len(ds) > 0 && ds[0].Fault != tt.fault {
			t.Errorf("%s: fault %s, want %s", tt.name, ds[0].Fault, tt.fault)
		}
	}
}

func TestCompareSets(t *testing.T) {
	set := func(name string, ports ...uint16) Set {
		s := Set{Family: IPv4, Name: name, Counted: true}
		for _, p := range ports {
			s.Members = append(s.Members, Member{Prefix: pfx("192.0.2.1/32"), Port: p})
		}
		return s
	}
	networks, foreign := set("a", 1, 2), Set{Family: IPv4, Name: "a", Counted: true, Foreign: "hash:mac"}
	networks.Networks = true
	for _, tt := range []struct {
		name       string
		have, want []Set
		faults     []Fault
		said       []string
	}{
		{"equal", []Set{set("a", 1, 2)}, []Set{set("a", 1, 2)}, nil, nil},
		{"missing", nil, []Set{set("a", 1, 2)}, []Fault{SetMissing}, []string{"ipv4 set a is missing"}},
		{"left over", []Set{set("a", 1, 2)}, nil, []Fault{SetLeftOver}, []string{"ipv4 set a is left over"}},
		{"a member is missing", []Set{set("a", 1)}, []Set{set("a", 1, 2)}, []Fault{MemberMissing}, []string{"ipv4 set a: member 192.0.2.1:2 is missing"}},
		{
			"members are missing and others there",
			[]Set{set("a", 3, 4)},
			[]Set{set("a", 1, 2, 4)},
			[]Fault{MemberMissing, MemberExtra},
			[]string{"ipv4 set a: member 192.0.2.1:1 is missing (and 1 more)", "ipv4 set a: member 192.0.2.1:3 is not ours"},
		},
		{"of another kind", []Set{networks}, []Set{set("a", 1, 2)}, []Fault{SetMissing, SetLeftOver}, []string{"ipv4 set a is missing", "ipv4 set a is left over"}},
		{
			"of a strange kind",
			[]Set{foreign},
			[]Set{set("a", 1)},
			[]Fault{SetMissing, SetForeign},
			[]string{"ipv4 set a is missing", "ipv4 set a is of a type that synproxyctl does not make"},
		},
	} {
		sets := func(list []Set) Ruleset {
			rs := newRuleset()
			for _, s := range list {
				rs.sets[setID{s.Family, s.Name}] = s
			}
			return rs
		}
		var faults []Fault
		var said []string
		for _, d := range Compare(sets(tt.have), sets(tt.want)) {
			faults, said = append(faults, d.Fault), append(said, d.String())
		}
		if !slices.Equal(faults, tt.faults) || !slices.Equal(said, tt.said) {
			t.Errorf("%s: %v %q, want %v %q", tt.name, faults, said, tt.faults, tt.said)
		}
	}
}

// Many rules that all differ must not cost a table of all pairs of them.
func TestPlanOfManyRules(t *testing.T) {
	lists := make([][]Rule, 2)
	for i := range lists {
		for n := range 30000 {
			lists[i] = append(lists[i], match(TCP{SrcPort: uint16(n + 1), DstPort: uint16(i + 1)}))
		}
	}
	began := time.Now()
	changes := edit(lists[0], lists[1])
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if len(changes) != 60000 {
		t.Errorf("%d changes, want 60000", len(changes))
	}
}

// What is common to both lists stays in the kernel with its counters.
func TestEditKeepsWhatIsCommon(t *testing.T) {
	list := func(ports string) []Rule {
		var rules []Rule
		for _, p := range ports {
			rules = append(rules, match(TCP{DstPort: uint16(p)}))
		}
		return rules
	}
	for _, tt := range []struct {
		have, want string
		changes    int
	}{
		{"", "", 0},
		{"abc", "abc", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"abc", "xabc", 1},
		{"abc", "abxc", 1},
		{"abcdef", "abdef", 1},
		{"abcdef", "bcdefa", 2},
		{"aab", "ab", 1},
		{"abcabc", "acbc", 2},
		{"abcd", "dcba", 6},
	} {
		have, want := list(tt.have), list(tt.want)
		changes := edit(have, want)
		if len(changes) != tt.changes {
			t.Errorf("%s to %s: %d changes, want %d", tt.have, tt.want, len(changes), tt.changes)
		}
		for _, c := range changes {
			if c.Action == Add {
				have = slices.Insert(have, c.pos-1, c.Rule)
			} else {
				have = slices.Delete(have, c.pos-1, c.pos)
			}
		}
		if fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("%s to %s leads to %s", tt.have, tt.want, have)
		}
	}
}

// A change is told to people rule by rule, so no rule may go and come again.
func TestPlanTouchesOnlyTheDifference(t *testing.T) {
	list := func(change func([]Service) []Service) Policy {
		// Each with options of its own, or they would share their rules.
		return Policy{Services: change(many(3, false, func(*Service) {}).Services)}
	}
	another := many(4, false, func(*Service) {}).Services[3]
	all := list(func(s []Service) []Service { return s })
	each := len(all.Ruleset(NFT).Rules()) - len(all.Ruleset(NFT).jumps) - 1 // less the anchor
	each /= len(all.Services)
	if each < 5 {
		t.Fatalf("%d rules for each service: they share some", each)
	}
	for name, tt := range map[string]struct {
		want          Policy
		adds, deletes int
	}{
		"first goes":      {list(func(s []Service) []Service { return s[1:] }), 0, each},
		"middle goes":     {list(func(s []Service) []Service { return append(s[:1], s[2]) }), 0, each},
		"one comes first": {list(func(s []Service) []Service { return append([]Service{another}, s...) }), each, 0},
		"one is replaced": {list(func(s []Service) []Service { s[1] = another; return s }), each, each},
		"other options":   {list(func(s []Service) []Service { s[1].Options.MSS = ptr[uint16](1400); return s }), 1, 1},
		"other repair":    {list(func(s []Service) []Service { s[0].First = FirstClient; return s }), 1, 1},
		"other order":     {list(func(s []Service) []Service { s[0], s[1] = s[1], s[0]; return s }), each, each},
	} {
		count := map[Action]int{}
		for _, s := range Plan(all.Ruleset(NFT), tt.want.Ruleset(NFT)) {
			for _, c := range s.Changes {
				count[c.Action]++
			}
			if len(s.Sets) > 0 {
				t.Errorf("%s: sets change: %s", name, renderSets(s))
			}
		}
		if count[Add] != tt.adds || count[Delete] != tt.deletes {
			t.Errorf("%s: %d rules come and %d go, want %d and %d", name, count[Add], count[Delete], tt.adds, tt.deletes)
		}
	}
}
