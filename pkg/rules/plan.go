package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Action tells what a [Change] does.
type Action string

// The actions.
const (
	Add    Action = "add"
	Delete Action = "delete"
)

// Change is one rule that comes or goes.
type Change struct {
	Action Action
	Rule   Rule
	pos    int // position in our chain at that moment, from 1; unused for jumps
}

// Sets is not a table of xtables: it stands for the sets that rules look into.
const Sets Table = "set"

// Step is a transaction of one table, of the sets of a family, or for nftables
// of everything: the kernel takes all of it or nothing.
type Step struct {
	Family  Family // empty for nftables, which changes both at once
	Table   Table  // empty for nftables
	Changes []Change
	Sets    []SetChange
	create  []string          // chains to make first
	refill  map[string][]Rule // chains that change so much that they are written anew, with all their rules
	destroy []string          // chains to remove last
	have    Ruleset           // for nftables
	want    Ruleset
}

// Plan returns the steps that lead from one rule set to another, in an order in
// which no state between two steps harms a packet: what answers and accepts
// comes before what diverts (raw), and goes after it; what is new comes before
// what is old goes. A set is there as long as a rule looks into it. To its rules a
// new member is as a new raw rule: it comes when all that it needs is there, and
// goes before that goes. Equal rule sets give no steps.
func Plan(have, want Ruleset) []Step {
	if have.native || want.native {
		return planNative(have, want)
	}
	both := union(have, want)
	now := have
	var steps []Step
	to := func(target Ruleset, table Table) {
		for _, f := range Families {
			if s := transaction(f, table, now, target); !s.empty() {
				steps = append(steps, s)
			}
		}
	}
	others := otherTables(both)
	begin, end := between(have.sets, both.sets), between(want.sets, both.sets)
	to(Ruleset{sets: begin}, Sets)
	for _, t := range others {
		to(both, t)
	}
	now.sets = begin
	to(both, Sets)
	to(want, Raw)
	now = both
	to(Ruleset{sets: end}, Sets)
	for _, t := range slices.Backward(others) {
		to(want, t)
	}
	now.sets = end
	to(want, Sets)
	return steps
}

// between returns the sets of both that some has not, whole, and as some has them
// those that it has.
func between(some, both map[setID]Set) map[setID]Set {
	sets := maps.Clone(both)
	for id, s := range some {
		if s.alike(both[id]) {
			sets[id] = s
		}
	}
	return sets
}

// otherTables lists the tables except raw in the order in which they are
// filled: what accepts and judges comes before what answers SYNs. Among them
// are those that only an earlier version of this package used.
func otherTables(rs Ruleset) []Table {
	list := []Table{Filter, NAT, Mangle, Window, Security}
	for _, ids := range [][]chainID{sortedIDs(rs.chains), sortedIDs(rs.jumps)} {
		for _, id := range ids {
			if id.table != Raw && !slices.Contains(list, id.table) {
				list = append(list, id.table)
			}
		}
	}
	return list
}

// maxEdits bounds the changes by position in one chain. The restore programs
// count through the chain for each of them: many thousands took minutes.
const maxEdits = 256

// transaction returns the change of one table.
func transaction(f Family, t Table, have, want Ruleset) Step {
	s := Step{Family: f, Table: t, refill: map[string][]Rule{}}
	if t == Sets {
		s.Sets = setChanges(have, want, func(id setID) bool { return id.family == f })
		return s
	}
	mine := func(id chainID) bool { return id.family == f && id.table == t }
	for _, id := range sortedIDs(have.jumps) {
		if w, ok := want.jumps[id]; mine(id) && (!ok || !slices.Equal(have.jumps[id], w)) {
			for range have.jumps[id] {
				s.Changes = append(s.Changes, Change{Action: Delete, Rule: id.jump()})
			}
		}
	}
	for _, id := range sortedIDs(want.chains) {
		if !mine(id) {
			continue
		}
		if _, ok := have.chains[id]; !ok {
			s.create = append(s.create, id.name)
		}
		changes := edit(have.chains[id], want.chains[id])
		s.Changes = append(s.Changes, changes...)
		if len(changes) > maxEdits {
			s.refill[id.name] = want.chains[id]
		}
	}
	for _, id := range sortedIDs(want.jumps) {
		if h, ok := have.jumps[id]; mine(id) && (!ok || !slices.Equal(h, want.jumps[id])) {
			s.Changes = append(s.Changes, Change{Action: Add, Rule: id.jump()})
		}
	}
	for _, id := range sortedIDs(have.chains) {
		if _, ok := want.chains[id]; mine(id) && !ok {
			s.destroy = append(s.destroy, id.name)
			s.Changes = append(s.Changes, edit(have.chains[id], nil)...)
		}
	}
	return s
}

// planNative returns the one step between rule sets of nftables.
func planNative(have, want Ruleset) []Step {
	s := Step{have: have, want: want, Sets: setChanges(have, want, func(setID) bool { return true })}
	for _, id := range sortedIDs(union(have, want).chains) {
		s.Changes = append(s.Changes, edit(have.chains[id], want.chains[id])...)
	}
	if s.empty() && len(have.chains) == len(want.chains) {
		return nil
	}
	return []Step{s}
}

// Positional reports whether the step changes rules by where they stand, which
// goes wrong if somebody else has changed them since the plan was made.
func (s Step) Positional() bool { return s.Table != "" && s.Table != Sets }

func (s Step) empty() bool {
	return len(s.Changes) == 0 && len(s.create) == 0 && len(s.destroy) == 0 && len(s.Sets) == 0
}

// edit returns the changes that turn one list of rules into another, leaving
// alone what is common, so that its counters live on.
func edit(have, want []Rule) []Change {
	keep := common(have, want)
	var changes []Change
	i, j, pos := 0, 0, 1
	for i < len(have) || j < len(want) {
		switch {
		case j < len(want) && !keep.want[j]:
			changes = append(changes, Change{Add, want[j], pos})
			j, pos = j+1, pos+1
		case i < len(have) && !keep.have[i]:
			changes = append(changes, Change{Delete, have[i], pos})
			i++
		default:
			i, j, pos = i+1, j+1, pos+1
		}
	}
	return changes
}

// Script returns the step as input of iptables-restore(8) with --noflush.
func (s Step) Script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", s.Table)
	for _, name := range s.create {
		fmt.Fprintf(&b, ":%s - [0:0]\n", name)
	}
	for _, name := range slices.Sorted(maps.Keys(s.refill)) {
		fmt.Fprintf(&b, "-F %s\n", name)
		for _, r := range s.refill[name] {
			fmt.Fprintf(&b, "-A %s %s\n", name, r)
		}
	}
	for _, c := range s.Changes {
		s.line(&b, c)
	}
	for _, name := range s.destroy { // all of them first: one may lead to another
		fmt.Fprintf(&b, "-F %s\n", name)
	}
	for _, name := range s.destroy {
		fmt.Fprintf(&b, "-X %s\n", name)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func (s Step) line(b *strings.Builder, c Change) {
	_, jump := c.Rule.Target.(Jump)
	_, refilled := s.refill[c.Rule.Chain]
	switch {
	case refilled, slices.Contains(s.destroy, c.Rule.Chain): // written or flushed as a whole
	case jump && !ours(c.Rule.Chain) && c.Action == Add:
		fmt.Fprintf(b, "-I %s 1 %s\n", c.Rule.Chain, c.Rule)
	case jump && !ours(c.Rule.Chain):
		// By its content: in a chain of others a number may be wrong by now.
		fmt.Fprintf(b, "-D %s %s\n", c.Rule.Chain, c.Rule)
	case c.Action == Add:
		fmt.Fprintf(b, "-I %s %d %s\n", c.Rule.Chain, c.pos, c.Rule)
	default:
		fmt.Fprintf(b, "-D %s %d\n", c.Rule.Chain, c.pos)
	}
}
