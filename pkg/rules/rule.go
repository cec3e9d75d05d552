package rules

import (
	"cmp"
	"slices"
	"strings"
)

// Rule is one rule of one chain.
type Rule struct {
	Family  Family
	Table   Table
	Chain   string
	Matches []Match // all must hold; none: every packet
	Target  Target  // nil: only counts
	// Foreign holds a rule that uses what this package has no type for, word
	// for word as iptables-save printed it after "-A CHAIN"; Matches and
	// Target are then empty.
	Foreign string
	// Packets is how many packets the kernel has counted that match, as far as
	// that was asked for. It makes no difference between rules.
	Packets uint64
}

// Args returns the rule as arguments of iptables(8), from the matches on:
// without table, command and chain. A foreign rule has none; use String.
func (r Rule) Args() []string {
	var args []string
	for _, m := range r.sorted() {
		args = append(args, m.args()...)
	}
	if r.Target != nil {
		args = append(args, r.Target.args()...)
	}
	return args
}

// String returns the rule as iptables-restore(8) reads it, from the matches on.
// Two rules of the same chain are equal if and only if their strings are.
func (r Rule) String() string {
	if r.Foreign != "" {
		return r.Foreign
	}
	args := r.Args()
	for i, arg := range args {
		args[i] = quote(arg)
	}
	return strings.Join(args, " ")
}

func (r Rule) sorted() []Match {
	byRank := func(a, b Match) int { return cmp.Compare(a.rank(), b.rank()) }
	if slices.IsSortedFunc(r.Matches, byRank) {
		return r.Matches
	}
	ms := slices.Clone(r.Matches)
	slices.SortStableFunc(ms, byRank)
	return ms
}

// quote writes a word so that iptables-restore reads it as one.
func quote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\r\n\"'\\#") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(word) + `"`
}
