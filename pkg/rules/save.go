package rules

import (
	"errors"
	"fmt"
	"strconv"
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

// ParseSave reads the output of iptables-save or ip6tables-save, with or without
// counters, of the nft and the legacy variant; or that of "iptables -S", whose
// one table is then given. Rules that this package has no types for are kept
// word for word. A line that is neither is an error that names it, and so is a
// table without its end. The error wraps [ErrIncompatible] if iptables says that
// it cannot show a table that this package uses.
func ParseSave(family Family, table Table, text []byte) (Dump, error) {
	r := saveReader{dump: Dump{Family: family}, given: table, table: table, at: map[chainID]int{}}
	rest, first := string(text), 1
	for rest != "" {
		line := logicalLine(rest)
		rest = rest[len(line):]
		if err := r.line(strings.TrimRight(line, "\r\n")); err != nil {
			return Dump{}, fmt.Errorf("line %d of the rules: %w", first, err)
		}
		first += strings.Count(line, "\n")
	}
	if r.open {
		return Dump{}, fmt.Errorf("line %d of the rules: table %s has no end", first, r.table)
	}
	return r.dump, nil
}

// logicalLine returns the first line of text: of a rule all of it, since its
// comment may hold line breaks.
func logicalLine(text string) string {
	isRule := text[0] == '[' || strings.HasPrefix(text, "-A")
	end, inQuotes := 0, false
	for part := range strings.Lines(text) {
		end += len(part)
		inQuotes = isRule && unclosed(part, inQuotes)
		if !inQuotes {
			break
		}
	}
	return text[:end]
}

// saveReader collects what the lines say.
type saveReader struct {
	dump    Dump
	given   Table // of lines outside of a table
	table   Table
	open    bool            // "*table" has come, and COMMIT has not
	at      map[chainID]int // positions in dump.Chains
	packets uint64          // of the line
}

func (r *saveReader) line(line string) error {
	switch {
	case line == "":
		return nil
	case line[0] == '#':
		return incompatible(line)
	case line[0] == '*' && r.open:
		return fmt.Errorf("%q: table %s has no end", line, r.table)
	case line == "*":
		return fmt.Errorf("%q: a table without a name", line)
	case line[0] == '*':
		r.table, r.open = Table(line[1:]), true
		return nil
	case line == "COMMIT" && r.open:
		r.table, r.open = r.given, false
		return nil
	case line[0] == '[': // packet and byte counters
		counters, rest, ok := strings.Cut(line, "] ")
		if !ok {
			return fmt.Errorf("%.200q: counters without an end", line)
		}
		if !strings.HasPrefix(rest, "-A ") {
			return fmt.Errorf("%.200q: counters without a rule", line)
		}
		packets, _, _ := strings.Cut(counters[1:], ":")
		r.packets, _ = strconv.ParseUint(packets, 10, 64)
		line = rest
	}
	err := r.command(line)
	r.packets = 0
	return err
}

// incompatible finds the comment by which iptables-nft-save (1.8.x) says that
// it does not show a table, because nft put something into it that iptables
// cannot print. Rules that could be ours must not be judged without seeing them.
func incompatible(comment string) error {
	for _, t := range tables {
		if strings.Contains(comment, fmt.Sprintf("`%s' is incompatible, use 'nft' tool", t)) {
			return fmt.Errorf("%w: %s", ErrIncompatible, strings.TrimSpace(strings.TrimLeft(comment, "# ")))
		}
	}
	return nil
}

func (r *saveReader) command(line string) error {
	command, rest, _ := strings.Cut(line, " ")
	name, rest, _ := strings.Cut(rest, " ")
	var err error
	switch {
	case strings.HasPrefix(command, ":"):
		err = r.chain(command[1:], name)
	case command == "-P":
		policy, _, _ := strings.Cut(rest, " ") // counters may follow
		err = r.chain(name, policy)
	case command == "-N":
		err = r.chain(name, "-")
	case command == "-A":
		err = r.rule(name, rest)
	case command == "COMMIT":
		err = errOutside
	default:
		err = errors.New("not a line of iptables-save")
	}
	if err != nil {
		return fmt.Errorf("%.200q: %w", line, err)
	}
	return nil
}

var errOutside = errors.New("outside of a table")

func (r *saveReader) chain(name, policy string) error {
	id := chainID{table: r.table, name: name}
	_, known := r.at[id]
	switch {
	case r.table == "":
		return errOutside
	case name == "":
		return errors.New("a chain without a name")
	case policy == "":
		return errors.New("a chain without a policy")
	case known:
		return fmt.Errorf("chain %q for the second time", name)
	}
	r.at[id] = len(r.dump.Chains)
	r.dump.Chains = append(r.dump.Chains, Chain{Table: r.table, Name: name, Policy: policy})
	return nil
}

func (r *saveReader) rule(chain, spec string) error {
	i, known := r.at[chainID{table: r.table, name: chain}]
	switch {
	case r.table == "":
		return errOutside
	case !known:
		return fmt.Errorf("no chain %q in table %s", chain, r.table)
	}
	rule, err := parseRule(r.dump.Family, r.table, chain, spec)
	if err != nil {
		return err
	}
	rule.Packets = r.packets
	c := &r.dump.Chains[i]
	c.Rules = append(c.Rules, rule)
	return nil
}
