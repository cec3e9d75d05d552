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
	at, to          spot
	six, single     bool
	hook            Hook
	interfaces, out string
	tracked         bool
	translated      bool // to counts
	toLocal         bool
	backend         Origin
}

// A spot is where rules see no difference.
type spot struct {
	addresses, ports int          // [cuts.part] of them
	destination      netip.Prefix // if it is alike only to itself
	port             uint16       // likewise
}

func (k *Classes) spot(p netip.Prefix, port uint16) spot {
	number := [2]byte{byte(port >> 8), byte(port)}
	s := spot{addresses: k.addresses(p), ports: k.ports.part(number[:], number[:])}
	if s.addresses < 0 {
		s.destination = p
	}
	if s.ports < 0 {
		s.port = port
	}
	return s
}

// Of returns the class of a service.
func (k *Classes) Of(s Service) Class {
	c := Class{
		at: k.spot(s.Destination, s.Port), six: s.Destination.Addr().Is6(), single: s.Destination.IsSingleIP(), hook: s.Hook,
		interfaces: strings.Join(s.Interfaces, "/"), tracked: s.Tracked, backend: s.Backend,
	}
	if a := s.To.Addr(); s.To.IsValid() {
		c.translated, c.to = true, k.spot(netip.PrefixFrom(a, a.BitLen()), s.To.Port())
		c.toLocal, c.out = s.ToLocal, strings.Join(s.Out, "/")
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
