package rules

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// fewMembers bounds what is changed in a set that is in use. More is written
// into a new one, which is then swapped with it.
const fewMembers = 256

// applySets makes the changes of a step, all or none of them.
func applySets(s Step) (err error) {
	sets, err := dialIPSet()
	if err != nil {
		return err
	}
	defer sets.close()
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	for _, c := range s.Sets {
		back, err := sets.apply(c)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: %w", ErrChanged, err)
		}
		if err != nil {
			return fmt.Errorf("%s set %s: %w", c.Set.Family, c.Set.Name, err)
		}
		undo = append(undo, back)
	}
	return nil
}

// apply makes one change, all of it or nothing, and returns how to undo it.
func (i ipsets) apply(c SetChange) (undo func() error, err error) {
	f, name := c.Set.Family, c.Set.Name
	switch {
	case c.Remove:
		return func() error { return i.fill(name, c.Set) }, i.destroy(f, name)
	case c.Create:
		return func() error { return i.destroy(f, name) }, i.fill(name, c.Set)
	case len(c.Add)+len(c.Delete) > fewMembers:
		before := c.Set
		before.Members = together(without(c.Set.Members, c.Add), c.Delete)
		return func() error { return i.replace(before) }, i.replace(c.Set)
	}
	undo = func() error {
		return errors.Join(i.change(ipsetAdd, f, name, c.Delete), i.change(ipsetDel, f, name, c.Add))
	}
	if err = errors.Join(i.change(ipsetAdd, f, name, c.Add), i.change(ipsetDel, f, name, c.Delete)); err != nil {
		err = errors.Join(err, undo())
	}
	return undo, err
}

// fill makes a set of the given name, with all members.
func (i ipsets) fill(name string, s Set) error {
	if err := i.create(name, s); err != nil {
		return err
	}
	if err := i.change(ipsetAdd, s.Family, name, s.Members); err != nil {
		return errors.Join(err, i.destroy(s.Family, name))
	}
	return nil
}

// replace fills a new set and swaps it with the one in use, in one instant. After
// an error the one in use is as it was.
func (i ipsets) replace(s Set) error {
	next := s.Name + "_new"
	if err := i.destroy(s.Family, next); err != nil { // of one who was killed
		return err
	}
	if err := i.fill(next, s); err != nil {
		return err
	}
	if err := i.swap(s.Family, next, s.Name); err != nil {
		return errors.Join(err, i.destroy(s.Family, next))
	}
	if err := i.destroy(s.Family, next); err != nil {
		return errors.Join(err, i.swap(s.Family, next, s.Name))
	}
	return nil
}

// renderSets returns the step as input of ipset(8) restore, for people.
func renderSets(s Step) string {
	var b strings.Builder
	b.WriteString("# ipset restore\n")
	line := func(verb string, c SetChange, members []Member) {
		for _, m := range members {
			address := m.Prefix.String()
			if m.Prefix.IsSingleIP() {
				address = m.Prefix.Addr().String()
			}
			fmt.Fprintf(&b, "%s %s %s,tcp:%d\n", verb, c.Set.Name, address, m.Port)
		}
	}
	for _, c := range s.Sets {
		switch {
		case c.Remove:
			fmt.Fprintf(&b, "destroy %s\n", c.Set.Name)
			continue
		case c.Create:
			fmt.Fprintf(&b, "create %s %s family %s maxelem %d counters\n", c.Set.Name, c.Set.typeName(), map[Family]string{IPv4: "inet", IPv6: "inet6"}[c.Set.Family], maxMembers)
		}
		line("add", c, c.Add)
		line("del", c, c.Delete)
	}
	return b.String()
}
