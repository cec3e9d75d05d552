package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
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

// kernel holds the tables of both families.
type kernel map[Family]tableSet

func newKernel() kernel { return kernel{IPv4: newTableSet(), IPv6: newTableSet()} }

func (k kernel) clone() kernel { return kernel{IPv4: k[IPv4].clone(), IPv6: k[IPv6].clone()} }

// apply executes a step, or fails the test.
func (k kernel) apply(t *testing.T, s Step) {
	t.Helper()
	after, err := k[s.Family].restore(s.Script())
	if err != nil {
		t.Fatalf("step refused: %v\nscript:\n%srules:\n%s", err, s.Script(), k[s.Family].save())
	}
	k[s.Family] = after
}

// list reads the rules as a backend does.
func (k kernel) list(t *testing.T) Ruleset {
	t.Helper()
	var dumps []Dump
	for _, f := range Families {
		d, err := ParseSave(f, "", []byte(k[f].save()))
		if err != nil {
			t.Fatal(err)
		}
		dumps = append(dumps, d)
	}
	return Extract(dumps...)
}

// foreign returns what is not ours.
func (k kernel) foreign() string {
	c := k.clone()
	for _, tables := range c {
		for table := range tables {
			tables[table] = slices.DeleteFunc(tables[table], func(c textChain) bool { return ours(c.name) })
			for i := range tables[table] {
				ch := &tables[table][i]
				ch.rules = slices.DeleteFunc(ch.rules, func(r string) bool { return strings.HasPrefix(r, "-j "+ChainPrefix) })
			}
		}
	}
	return c[IPv4].save() + c[IPv6].save()
}
