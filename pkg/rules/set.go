package rules

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// SetPrefix begins the name of every set, and of every table of nft, that this
// package makes.
const SetPrefix = "synproxyctl"

// countedSuffix ends the name of a set of nft that counts: a map from which an
// object is taken does not.
const countedSuffix = "_syn"

// Member is an address, or a network, and a port in a [Set].
type Member struct {
	Prefix netip.Prefix
	Port   uint16
	Object string // the name of the options, in a map; see [Options.Name]
	// Packets is how many packets the kernel has counted for it. It makes no
	// difference between members.
	Packets uint64
}

// String returns the member as people write it.
func (m Member) String() string {
	text := (Service{Destination: m.Prefix, Port: m.Port}).String()
	if m.Object != "" {
		text += " " + strings.TrimPrefix(m.Object, SetPrefix+"_")
	}
	return text
}

// compare orders members by what a packet is looked up by.
func (m Member) compare(o Member) int {
	return cmp.Or(m.Prefix.Addr().Compare(o.Prefix.Addr()), cmp.Compare(m.Prefix.Bits(), o.Prefix.Bits()), cmp.Compare(m.Port, o.Port))
}

// Set is a set of the kernel with what rules look up in it: one of ipset(8), of
// the type hash:ip,port or hash:net,port, or a set or map of nft(8).
type Set struct {
	Family   Family
	Name     string
	Networks bool     // the members are networks, not addresses
	Mapped   bool     // each member has an object
	Counted  bool     // the packets of each member are counted
	Members  []Member // in ascending order, each once
	// Foreign tells what it is if it is none of the kinds that this package
	// makes. Members are then unknown.
	Foreign string
}

type setID struct {
	family Family
	name   string
}

func (id setID) compare(o setID) int {
	return cmp.Or(cmp.Compare(id.family, o.family), cmp.Compare(id.name, o.name))
}

// alike reports whether two sets are of the same kind.
func (s Set) alike(o Set) bool {
	return s.Networks == o.Networks && s.Mapped == o.Mapped && s.Counted == o.Counted && s.Foreign == o.Foreign
}

// normalize puts the members in order.
func (s *Set) normalize() {
	if !slices.IsSortedFunc(s.Members, Member.compare) {
		slices.SortFunc(s.Members, Member.compare)
	}
	s.Members = slices.CompactFunc(s.Members, func(a, b Member) bool { return a.compare(b) == 0 })
}

// without returns the members of a list that are not, with the same object, in
// another. Both are in order.
func without(list, other []Member) []Member {
	if len(list) > 0 && len(other) == 0 {
		return list
	}
	var rest []Member
	for _, m := range list {
		for len(other) > 0 && other[0].compare(m) < 0 {
			other = other[1:]
		}
		if len(other) == 0 || other[0].compare(m) != 0 || other[0].Object != m.Object {
			rest = append(rest, m)
		}
	}
	return rest
}

// together returns the members of both lists, of equal ones those of want.
func together(have, want []Member) []Member {
	extra := without(have, want)
	if len(extra) == 0 {
		return want
	}
	all := make([]Member, 0, len(want)+len(extra))
	for len(extra) > 0 || len(want) > 0 {
		switch {
		case len(want) == 0:
			return append(all, extra...)
		case len(extra) == 0:
			return append(all, want...)
		}
		switch order := extra[0].compare(want[0]); {
		case order < 0:
			all, extra = append(all, extra[0]), extra[1:]
		case order == 0:
			extra = extra[1:]
		default:
			all, want = append(all, want[0]), want[1:]
		}
	}
	return all
}

// Name returns the name of an object that announces the options, from which
// they can be read back.
func (o Options) Name() string {
	name := SetPrefix
	if o.MSS != nil {
		name += "_mss" + strconv.Itoa(int(*o.MSS))
	}
	if o.WScale != nil {
		name += "_wscale" + strconv.Itoa(int(*o.WScale))
	}
	if o.SACKPerm {
		name += "_sack"
	}
	if o.Timestamps {
		name += "_timestamps"
	}
	if name == SetPrefix {
		name += "_none"
	}
	return name
}

// optionsNamed is the inverse of [Options.Name].
func optionsNamed(name string) (Options, error) {
	var o Options
	rest, _ := strings.CutPrefix(name, SetPrefix+"_")
	for word := range strings.SplitSeq(rest, "_") {
		if digits, ok := strings.CutPrefix(word, "mss"); ok {
			n, err := strconv.ParseUint(digits, 10, 16)
			if err != nil {
				return o, fmt.Errorf("object %q: %w", name, err)
			}
			mss := uint16(n)
			o.MSS = &mss
		} else if digits, ok := strings.CutPrefix(word, "wscale"); ok {
			n, err := strconv.ParseUint(digits, 10, 8)
			if err != nil {
				return o, fmt.Errorf("object %q: %w", name, err)
			}
			shift := uint8(n)
			o.WScale = &shift
		}
		o.SACKPerm = o.SACKPerm || word == "sack"
		o.Timestamps = o.Timestamps || word == "timestamps"
	}
	if o.Name() != name {
		return o, fmt.Errorf("object %q: not a name of options", name)
	}
	return o, nil
}

// SetChange is what a [Step] does to one set.
type SetChange struct {
	Set    Set      // as it will be, all its members among it; if it goes, as it is
	Create bool     // it is not there yet
	Remove bool     // it goes, with all its members
	Add    []Member // what is new; of a set that is created, all
	Delete []Member // what goes; also what comes back with another object
}

// setChanges returns how sets come to be what they should be.
func setChanges(have, want Ruleset, mine func(setID) bool) []SetChange {
	var changes []SetChange
	for _, id := range sortedSets(want.sets) {
		if !mine(id) {
			continue
		}
		w := want.sets[id]
		h, there := have.sets[id]
		if there && !h.alike(w) {
			changes = append(changes, SetChange{Set: h, Remove: true, Delete: h.Members})
			h, there = Set{}, false
		}
		c := SetChange{Set: w, Create: !there, Add: without(w.Members, h.Members), Delete: without(h.Members, w.Members)}
		if c.Create || len(c.Add) > 0 || len(c.Delete) > 0 {
			changes = append(changes, c)
		}
	}
	for _, id := range sortedSets(have.sets) {
		if _, ok := want.sets[id]; !ok && mine(id) {
			changes = append(changes, SetChange{Set: have.sets[id], Remove: true, Delete: have.sets[id].Members})
		}
	}
	return changes
}

func sortedSets(sets map[setID]Set) []setID {
	return slices.SortedFunc(maps.Keys(sets), setID.compare)
}

// unionSets returns the sets of both, with the members of both.
func unionSets(have, want map[setID]Set) map[setID]Set {
	all := make(map[setID]Set, len(have)+len(want))
	maps.Copy(all, have)
	for id, w := range want {
		if h, ok := have[id]; ok && h.alike(w) {
			w.Members = together(h.Members, w.Members)
		}
		all[id] = w
	}
	return all
}

// compareSets returns how sets differ: of each what it lacks, and what it has
// too much, with a number and an example.
func compareSets(have, want Ruleset) []Difference {
	var ds []Difference
	add := func(fault Fault, s Set, members []Member) {
		d := Difference{Fault: fault, Rule: Rule{Family: s.Family}, Set: s.Name, Count: len(members)}
		if len(members) > 0 {
			d.Member = members[0]
		}
		ds = append(ds, d)
	}
	for _, id := range sortedSets(want.sets) {
		w := want.sets[id]
		h, ok := have.sets[id]
		if !ok || !h.alike(w) {
			add(SetMissing, w, nil)
			continue
		}
		if missing := without(w.Members, h.Members); missing != nil {
			add(MemberMissing, w, missing)
		}
		if extra := without(h.Members, w.Members); extra != nil {
			add(MemberExtra, w, extra)
		}
	}
	for _, id := range sortedSets(have.sets) {
		h := have.sets[id]
		switch w, ok := want.sets[id]; {
		case h.Foreign != "":
			add(SetForeign, h, nil)
		case !ok || !h.alike(w):
			add(SetLeftOver, h, nil)
		}
	}
	return ds
}
