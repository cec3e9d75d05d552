package firewall

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"

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

// part is the interval between cuts that all of a range lies in. It is -1 for a
// range that lies in several, which is alike only to itself.
func (c *cuts) part(from, to []byte) int {
	first := c.place(from)
	if c.exact || first != c.place(to) {
		return -1
	}
	return first
}

// place counts the cuts up to a value.
func (c *cuts) place(v []byte) int {
	low, high := 0, len(c.at)
	for low < high {
		if middle := int(uint(low+high) >> 1); bytes.Compare(c.at[middle], v) <= 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low
}

// A Class stands for services that the rules of a firewall treat alike. Equal
// ones do; it serves as the key of a map.
type Class struct {
	addresses, ports int
	destination      netip.Prefix // if it is alike only to itself
	port             uint16       // likewise
	six, single      bool
	hook             Hook
	interfaces       string
	tracked, toLocal bool
	to               netip.AddrPort
	backend          Origin
}

// Of returns the class of a service.
func (k *Classes) Of(s Service) Class {
	c := Class{
		six: s.Destination.Addr().Is6(), single: s.Destination.IsSingleIP(), hook: s.Hook, interfaces: strings.Join(s.Interfaces, "/"),
		tracked: s.Tracked, toLocal: s.ToLocal, to: s.To, backend: s.Backend,
	}
	c.addresses = k.addresses(s.Destination)
	if c.addresses < 0 {
		c.destination = s.Destination
	}
	number := [2]byte{byte(s.Port >> 8), byte(s.Port)}
	if c.ports = k.ports.part(number[:], number[:]); c.ports < 0 {
		c.port = s.Port
	}
	return c
}

// addresses is the [cuts.part] of a prefix.
func (k *Classes) addresses(p netip.Prefix) int {
	switch a := p.Addr(); {
	case !p.IsSingleIP():
		all, addresses := prefixRange(p), &k.four
		if rules.FamilyOf(a) == rules.IPv6 {
			addresses = &k.six
		}
		return addresses.part(all.From, all.To)
	case a.Is4():
		v := a.As4()
		return k.four.part(v[:], v[:])
	default:
		v := a.As16()
		return k.six.part(v[:], v[:])
	}
}
