package rules

import (
	"fmt"
	"strings"
)

// Chain is one chain of a table with its rules.
type Chain struct {
	Table  Table
	Name   string
	Policy string // "ACCEPT", "DROP", or "-" for a chain that is not built in
	Rules  []Rule
}

// Dump is the content of the tables of one family, in the order of
// iptables-save(8).
type Dump struct {
	Family Family
	Chains []Chain
}

// chain finds a chain, nil if it is not there.
func (d *Dump) chain(table Table, name string) *Chain {
	for i := range d.Chains {
		if c := &d.Chains[i]; c.Table == table && c.Name == name {
			return c
		}
	}
	return nil
}

// ParseSave reads the output of iptables-save or ip6tables-save, with or without
// counters, of the nft and the legacy variant; or that of "iptables -S", whose
// one table is then given. Rules that this package has no types for are kept
// word for word. A line that is neither is an error that names it.
func ParseSave(family Family, table Table, text []byte) (Dump, error) {
	d := Dump{Family: family}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimRight(line, "\r\n")
		var err error
		switch {
		case line == "" || line == "COMMIT":
		case line[0] == '#':
			err = incompatible(line)
		case line[0] == '*':
			table = Table(line[1:])
		default:
			err = d.add(table, line)
		}
		if err != nil {
			return Dump{}, fmt.Errorf("line %d of the rules: %w", n, err)
		}
	}
	return d, nil
}

// incompatible finds the comment by which iptables-nft-save (1.8.x) says that
// it does not show a table, because nft put something into it that iptables
// cannot print. The rules must not be judged without seeing them.
func incompatible(comment string) error {
	if strings.Contains(comment, "is incompatible, use 'nft' tool") {
		return fmt.Errorf("%w: %s", ErrIncompatible, strings.TrimSpace(strings.TrimLeft(comment, "# ")))
	}
	return nil
}

func (d *Dump) add(table Table, line string) error {
	if line[0] == '[' { // packet and byte counters
		_, rest, ok := strings.Cut(line, "] ")
		if !ok {
			return fmt.Errorf("%q: counters without an end", line)
		}
		line = rest
	}
	command, rest, _ := strings.Cut(line, " ")
	name, rest, _ := strings.Cut(rest, " ")
	switch {
	case strings.HasPrefix(command, ":"):
		d.Chains = append(d.Chains, Chain{Table: table, Name: command[1:], Policy: name})
		return d.named(command[1:], line)
	case command == "-P":
		d.Chains = append(d.Chains, Chain{Table: table, Name: name, Policy: rest})
		return d.named(name, line)
	case command == "-N":
		d.Chains = append(d.Chains, Chain{Table: table, Name: name, Policy: "-"})
		return d.named(name, line)
	case command == "-A":
		c := d.chain(table, name)
		if c == nil {
			return fmt.Errorf("%q: no chain %q in table %s", line, name, table)
		}
		rule, err := ParseRule(d.Family, table, name, rest)
		if err != nil {
			return err
		}
		c.Rules = append(c.Rules, rule)
		return nil
	}
	return fmt.Errorf("%q: not a line of iptables-save", line)
}

func (d *Dump) named(name, line string) error {
	if name == "" {
		return fmt.Errorf("%q: a chain without a name", line)
	}
	return nil
}
