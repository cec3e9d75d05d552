package firewall

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Classes tells services apart that the rules of a firewall treat differently.
// Of thousands of services few classes are left, and each needs to be looked at
// only once.
type Classes struct {
	four, six, ports cuts
}

// cuts are the values at which some rule begins or ceases to hold.
type cuts struct {
	at    [][]byte
	exact bool // a rule looks at single bits: no two values are alike
}

// Classes finds out what makes a difference to any rule.
func (fw Firewall) Classes() *Classes {
	var k Classes
	for i := range fw.Chains {
		for j := range fw.Chains[i].Rules {
			for _, c := range fw.Chains[i].Rules[j].Conditions {
				k.add(&c)
			}
		}
	}
	for _, c := range []*cuts{&k.four, &k.six, &k.ports} {
		slices.SortFunc(c.at, bytes.Compare)
		c.at = slices.CompactFunc(c.at, bytes.Equal)
	}
	return &k
}

func (k *Classes) add(c *Condition) {
	for i, key := range c.Keys {
		for _, element := range c.In {
			if i >= len(element) {
				continue
			}
			var to *cuts
			switch from := element[i].From; {
			case key.Field == SourcePort || key.Field == DestinationPort:
				to = &k.ports
			case key.Field != Source && key.Field != Destination:
				continue
			case len(from) == 4:
				to = &k.four
			default:
				to = &k.six
			}
			to.exact = to.exact || key.Mask != nil
			to.at = append(to.at, element[i].From)
			if end := next(element[i].To); end != nil {
				to.at = append(to.at, end)
			}
		}
	}
}

// part names the interval between cuts that all of a range lies in; a range that
// lies in several is alike only to itself.
func (c *cuts) part(r Range) string {
	place := func(v []byte) int {
		i, found := slices.BinarySearchFunc(c.at, v, bytes.Compare)
		if found {
			i++
		}
		return i
	}
	from, to := place(r.From), place(r.To)
	if c.exact || from != to {
		return fmt.Sprintf("%x-%x", r.From, r.To)
	}
	return fmt.Sprint(from)
}

// Of returns the name of the class of a service.
func (k *Classes) Of(s Service) string {
	addresses := &k.four
	if rules.FamilyOf(s.Destination.Addr()) == rules.IPv6 {
		addresses = &k.six
	}
	return fmt.Sprintf("%s %s %t %t %s %q %t %s %t %s", addresses.part(prefixRange(s.Destination)), k.ports.part(portRange(s.Port, s.Port)),
		s.Destination.Addr().Is6(), s.Destination.IsSingleIP(), s.Hook, s.Interfaces, s.Tracked, s.To, s.ToLocal, s.Backend)
}
