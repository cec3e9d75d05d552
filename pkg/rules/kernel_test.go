package rules

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tableSet plays the kernel behind iptables-restore --noflush for one family. It
// knows just what [Step.Script] may say, and takes a script whole or not at all.
// e2e does the same with the real kernel.
type tableSet map[Table][]textChain

type textChain struct {
	name, policy string
	rules        []string
}

var builtIn = map[Table][]string{
	Raw:      {"PREROUTING", "OUTPUT"},
	Mangle:   {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	NAT:      {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	Filter:   {"INPUT", "FORWARD", "OUTPUT"},
	Security: {"INPUT", "FORWARD", "OUTPUT"},
}

func newTableSet() tableSet {
	k := tableSet{}
	for table, names := range builtIn {
		for _, name := range names {
			k[table] = append(k[table], textChain{name: name, policy: "ACCEPT"})
		}
	}
	return k
}

func (k tableSet) clone() tableSet {
	c := tableSet{}
	for table, chains := range k {
		for _, ch := range chains {
			ch.rules = slices.Clone(ch.rules)
			c[table] = append(c[table], ch)
		}
	}
	return c
}

func (k tableSet) chain(t Table, name string) *textChain {
	i := slices.IndexFunc(k[t], func(c textChain) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return &k[t][i]
}

// restore returns the rules after a script, or an error that leaves them as
// they are.
func (k tableSet) restore(script string) (tableSet, error) {
	lines := strings.Split(script, "\n")
	n := len(lines)
	if n < 3 || lines[0] == "" || lines[0][0] != '*' || lines[n-2] != "COMMIT" || lines[n-1] != "" {
		return k, fmt.Errorf("not one transaction of one table: %q", script)
	}
	after, table := k.clone(), Table(lines[0][1:])
	if after[table] == nil {
		return k, fmt.Errorf("no table %q", table)
	}
	for _, line := range lines[1 : n-2] {
		if err := after.command(table, line); err != nil {
			return k, fmt.Errorf("%q: %w", line, err)
		}
	}
	return after, nil
}

func (k tableSet) command(t Table, line string) error {
	if name, ok := strings.CutPrefix(line, ":"); ok {
		name, ok = strings.CutSuffix(name, " - [0:0]")
		if !ok || k.chain(t, name) != nil {
			return fmt.Errorf("this would flush a chain")
		}
		k[t] = append(k[t], textChain{name: name, policy: "-"})
		return nil
	}
	words := strings.SplitN(line, " ", 3)
	if len(words) < 2 {
		return fmt.Errorf("no command")
	}
	c := k.chain(t, words[1])
	if c == nil {
		return fmt.Errorf("no chain %s", words[1])
	}
	words = append(words, "")
	switch words[0] {
	case "-A":
		return k.insert(t, c, fmt.Sprintf("%d %s", len(c.rules)+1, words[2]))
	case "-I":
		return k.insert(t, c, words[2])
	case "-D":
		return c.remove(words[2])
	case "-F":
		c.rules = nil
		return nil
	case "-X":
		if c.policy != "-" || len(c.rules) > 0 || k.used(t, c.name) {
			return fmt.Errorf("the chain is in use")
		}
		k[t] = slices.DeleteFunc(k[t], func(o textChain) bool { return o.name == words[1] })
		return nil
	}
	return fmt.Errorf("unknown command")
}

func (k tableSet) insert(t Table, c *textChain, what string) error {
	number, rule, _ := strings.Cut(what, " ")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > len(c.rules)+1 {
		return fmt.Errorf("no such position")
	}
	if to := target(rule); ours(to) && k.chain(t, to) == nil {
		return fmt.Errorf("no such target")
	}
	c.rules = slices.Insert(c.rules, n-1, rule)
	return nil
}

func (c *textChain) remove(what string) error {
	n, err := strconv.Atoi(what)
	if err != nil {
		n = 1 + slices.Index(c.rules, what)
	}
	if n < 1 || n > len(c.rules) {
		return fmt.Errorf("no such rule")
	}
	c.rules = slices.Delete(c.rules, n-1, n)
	return nil
}

func (k tableSet) used(t Table, name string) bool {
	for _, c := range k[t] {
		for _, r := range c.rules {
			if target(r) == name {
				return true
			}
		}
	}
	return false
}

// target returns where a rule goes.
func target(rule string) string {
	words := strings.Fields(rule)
	for i, w := range words[:max(0, len(words)-1)] {
		if w == "-j" || w == "-g" {
			return words[i+1]
		}
	}
	return ""
}

// save prints the rules as iptables-save does.
func (k tableSet) save() string {
	var b strings.Builder
	for _, table := range []Table{Raw, Mangle, NAT, Filter, Security} {
		fmt.Fprintf(&b, "*%s\n", table)
		for _, c := range k[table] {
			fmt.Fprintf(&b, ":%s %s [0:0]\n", c.name, c.policy)
		}
		for _, c := range k[table] {
			for _, r := range c.rules {
				fmt.Fprintf(&b, "-A %s %s\n", c.name, r)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// kernel holds the tables and the sets of both families.
type kernel struct {
	tables map[Family]tableSet
	sets   map[setID]Set
}

func newKernel() kernel {
	return kernel{tables: map[Family]tableSet{IPv4: newTableSet(), IPv6: newTableSet()}, sets: map[setID]Set{}}
}

func (k kernel) clone() kernel {
	c := kernel{tables: map[Family]tableSet{}, sets: maps.Clone(k.sets)}
	for f, tables := range k.tables {
		c.tables[f] = tables.clone()
	}
	return c
}

// apply executes a step, or fails the test.
func (k kernel) apply(t *testing.T, s Step) {
	t.Helper()
	if err := k.take(s); err != nil {
		t.Fatalf("step refused: %v\nstep:\n%srules:\n%s", err, script(s), k.save(s.Family))
	}
}

// take executes a step, all of it or nothing.
func (k kernel) take(s Step) error {
	if s.Table == Sets {
		return k.takeSets(s)
	}
	after, err := k.tables[s.Family].restore(s.Script())
	if err != nil {
		return err
	}
	for _, chains := range after {
		for _, c := range chains {
			for _, r := range c.rules {
				if set := setOf(r); set != "" && k.sets[setID{s.Family, set}].Name == "" {
					return fmt.Errorf("%q: no set %s", r, set)
				}
			}
		}
	}
	k.tables[s.Family] = after
	return nil
}

// takeSets changes sets as those of ipset(8), which know nothing of what changes
// besides them. Small changes and swaps have one outcome.
func (k kernel) takeSets(s Step) error {
	after := maps.Clone(k.sets)
	for _, c := range s.Sets {
		id := setID{c.Set.Family, c.Set.Name}
		now, there := after[id]
		switch {
		case id.family != s.Family:
			return fmt.Errorf("set %s is of %s", id.name, id.family)
		case there == c.Create:
			return fmt.Errorf("set %s: exists: %t", id.name, there)
		case c.Remove && k.looksInto(id):
			return fmt.Errorf("set %s: something uses it", id.name)
		case c.Remove && !slices.Equal(c.Delete, now.Members):
			return fmt.Errorf("set %s goes with %v, and not %v", id.name, now.Members, c.Delete)
		case c.Remove:
			delete(after, id)
			continue
		case there && !now.alike(c.Set):
			return fmt.Errorf("set %s: is of another kind", id.name)
		}
		if got := together(without(now.Members, c.Delete), c.Add); !slices.Equal(got, c.Set.Members) {
			return fmt.Errorf("set %s: %v less %v and with %v is not %v", id.name, now.Members, c.Delete, c.Add, c.Set.Members)
		}
		after[id] = c.Set
	}
	maps.Copy(k.sets, after)
	maps.DeleteFunc(k.sets, func(id setID, _ Set) bool { return after[id].Name == "" })
	return nil
}

// looksInto reports whether a rule looks into a set.
func (k kernel) looksInto(id setID) bool {
	for _, chains := range k.tables[id.family] {
		for _, c := range chains {
			if slices.ContainsFunc(c.rules, func(r string) bool { return setOf(r) == id.name }) {
				return true
			}
		}
	}
	return false
}

// setOf returns the set that a rule looks into.
func setOf(rule string) string {
	_, rest, _ := strings.Cut(rule, " --match-set ")
	name, _, _ := strings.Cut(rest, " ")
	return name
}

// list reads the rules and the sets as a backend does.
func (k kernel) list(t *testing.T) Ruleset {
	t.Helper()
	var dumps []Dump
	for _, f := range Families {
		d, err := ParseSave(f, "", []byte(k.tables[f].save()))
		if err != nil {
			t.Fatal(err)
		}
		dumps = append(dumps, d)
	}
	rs := Extract(dumps...)
	for id, s := range k.sets {
		if strings.HasPrefix(id.name, layouts[NFT].sets) {
			rs.sets[id] = s
		}
	}
	return rs
}

// save prints the rules and the sets of a family.
func (k kernel) save(f Family) string {
	var b strings.Builder
	b.WriteString(k.tables[f].save())
	for _, id := range sortedSets(k.sets) {
		if id.family == f {
			fmt.Fprintf(&b, "%s %v\n", id.name, k.sets[id].Members)
		}
	}
	return b.String()
}

// foreign returns what is not ours.
func (k kernel) foreign() string {
	c := k.clone()
	for _, tables := range c.tables {
		for table := range tables {
			tables[table] = slices.DeleteFunc(tables[table], func(c textChain) bool { return ours(c.name) })
			for i := range tables[table] {
				ch := &tables[table][i]
				ch.rules = slices.DeleteFunc(ch.rules, func(r string) bool { return strings.HasPrefix(r, "-j "+ChainPrefix) })
			}
		}
	}
	maps.DeleteFunc(c.sets, func(id setID, _ Set) bool { return strings.HasPrefix(id.name, layouts[NFT].sets) })
	return c.save(IPv4) + c.save(IPv6)
}

// The real kernel refuses these; a simulated one that does not would prove nothing.
func TestKernelRefuses(t *testing.T) {
	k := newKernel()
	p := Policy{Services: []Service{service("192.0.2.1/32"), service("192.0.2.2/32")}}
	steps := Plan(Ruleset{}, p.Ruleset(NFT))
	if steps[0].Table != Sets {
		t.Fatalf("the first step is of table %s", steps[0].Table)
	}
	refused := func(s Step, why string) {
		t.Helper()
		before := k.save(IPv4)
		if err := k.take(s); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("error %v, want one with %q of\n%s", err, why, script(s))
		}
		if now := k.save(IPv4); now != before {
			t.Errorf("refused, and yet done (%s): -before +after\n%s", why, cmp.Diff(before, now))
		}
	}
	refused(steps[1], "no set synproxyctl_n4_")
	set := steps[0].Sets[0].Set
	sets := func(c SetChange) Step { return Step{Family: IPv4, Table: Sets, Sets: []SetChange{c}} }
	remove := sets(SetChange{Set: set, Remove: true, Delete: set.Members})
	refused(remove, "exists: false")
	for _, s := range steps {
		k.apply(t, s)
	}
	refused(steps[0], "exists: true")
	refused(remove, "something uses it")
	refused(sets(SetChange{Set: set, Add: []Member{{Prefix: pfx("192.0.2.3/32"), Port: 80}}}), "is not")
	other := set
	other.Networks = true
	refused(sets(SetChange{Set: other}), "of another kind")
	other = set
	other.Family = IPv6
	refused(sets(SetChange{Set: other, Create: true, Add: set.Members}), "is of ipv6")
}
