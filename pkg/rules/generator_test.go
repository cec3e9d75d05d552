package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
)

// generator makes random policies and rules.
type generator struct{ *rand.Rand }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

// like returns the properties that a service of a random policy may have.
func (g generator) like() Service {
	s := Service{
		Hook: pick(g, Input, Forward), First: pick(g, FirstClient, FirstServer), Mode: pick(g, ModeTracked, ModeNotrack),
		Interfaces: pick(g, nil, nil, []string{"eth0"}, []string{"eth0", "eth1"}), SynCookies: g.IntN(8) == 0,
		Options: Options{MSS: pick(g, nil, ptr[uint16](1460), ptr[uint16](536)), Timestamps: g.IntN(2) == 0},
	}
	s.Published = s.Mode == ModeNotrack && g.IntN(6) == 0
	return s
}

// policy returns services, alone and in groups of two and of many.
func (g generator) policy() Policy {
	var p Policy
	likes := []Service{{Hook: Forward}, {Hook: Forward, Mode: ModeNotrack, Options: Options{MSS: ptr[uint16](1460)}}}
	for range g.IntN(3) {
		likes = append(likes, g.like())
	}
	destinations := []string{"198.51.100.0/24", "198.51.101.0/24", "2001:db8::1/128", "2001:db8::2/128", "2001:db8:1::/64", "2001:db8:2::/64"}
	for i := range pick(g, 2, 5, 15) {
		destinations = append(destinations, fmt.Sprintf("192.0.2.%d/32", i+1))
	}
	for _, destination := range destinations {
		for _, port := range []uint16{80, 443} {
			if g.IntN(3) > 0 {
				continue
			}
			s := pick(g, likes...)
			if g.IntN(8) == 0 {
				s = g.like()
			}
			s.Destination, s.Port = pfx(destination), port
			switch single := s.Destination.IsSingleIP(); {
			case !single:
				s.Published = false
			case s.Mode == ModeNotrack && g.IntN(4) == 0:
				s.To = netip.AddrPortFrom(s.Destination.Addr().Next().Next(), 8080)
			}
			p.Services = append(p.Services, s)
		}
	}
	if g.IntN(4) == 0 {
		p.Anchors = []Family{IPv6}
	}
	g.Shuffle(len(p.Services), func(i, j int) { p.Services[i], p.Services[j] = p.Services[j], p.Services[i] })
	if g.IntN(4) == 0 {
		p = g.policy().Close(p)
	}
	return p
}

// place picks a chain that satisfies the condition.
func (g generator) place(k kernel, ok func(textChain) bool) (Family, Table, *textChain) {
	type place struct {
		f Family
		t Table
		c *textChain
	}
	var all []place
	for _, f := range Families {
		for _, t := range []Table{Raw, Mangle, Filter, NAT, Security} {
			for i := range k.tables[f][t] {
				if c := &k.tables[f][t][i]; ok(*c) {
					all = append(all, place{f, t, c})
				}
			}
		}
	}
	if len(all) == 0 {
		return "", "", nil
	}
	p := pick(g, all...)
	return p.f, p.t, p.c
}

// strangers adds other people's rules and chains.
func (g generator) strangers(k kernel) {
	for range g.IntN(20) {
		f, t, c := g.place(k, func(c textChain) bool { return !ours(c.name) })
		rule := pick(g, "-j ACCEPT", "-p tcp -m tcp --dport 22 -j ACCEPT", `-m comment --comment "a \"b\"" -j DROP`, "-m limit --limit 3/sec", "")
		if g.IntN(5) == 0 && k.tables[f].chain(t, "theirs") == nil {
			k.tables[f][t] = append(k.tables[f][t], textChain{name: "theirs", policy: "-"})
			rule = "-j theirs"
			c = k.tables[f].chain(t, c.name) // the slice has moved
		}
		c.rules = slices.Insert(c.rules, g.IntN(len(c.rules)+1), rule)
	}
}

// spoil does one thing to our rules that somebody might have done.
func (g generator) spoil(k kernel) {
	inOurs := func(c textChain) bool { return ours(c.name) && len(c.rules) > 0 }
	hasJump := func(c textChain) bool { return !ours(c.name) && slices.ContainsFunc(c.rules, isJump) }
	switch g.IntN(10) {
	case 0: // a rule less
		if _, _, c := g.place(k, inOurs); c != nil {
			i := g.IntN(len(c.rules))
			c.rules = slices.Delete(c.rules, i, i+1)
		}
	case 1: // a rule more, ours or not
		if _, _, c := g.place(k, inOurs); c != nil {
			rule := pick(g, pick(g, c.rules...), "-j LOG --log-prefix \"x \"", "-j ACCEPT", "-m comment --comment \"hi there\"", "")
			c.rules = slices.Insert(c.rules, g.IntN(len(c.rules)+1), rule)
		}
	case 2: // another order
		if _, _, c := g.place(k, inOurs); c != nil {
			g.Shuffle(len(c.rules), func(i, j int) { c.rules[i], c.rules[j] = c.rules[j], c.rules[i] })
		}
	case 3: // no jump
		if _, _, c := g.place(k, hasJump); c != nil {
			i := slices.IndexFunc(c.rules, isJump)
			c.rules = slices.Delete(c.rules, i, i+1)
		}
	case 4: // a jump twice
		if _, _, c := g.place(k, hasJump); c != nil {
			c.rules = slices.Insert(c.rules, g.IntN(len(c.rules)+1), c.rules[slices.IndexFunc(c.rules, isJump)])
		}
	case 5: // rules ahead of the jump
		if _, _, c := g.place(k, hasJump); c != nil {
			c.rules = slices.Insert(c.rules, 0, pick(g, "-j ACCEPT", "-p tcp", "-m limit --limit 3/sec -j ACCEPT"))
		}
	case 6: // chains of an earlier version, one within the other
		f, t, c := g.place(k, func(c textChain) bool { return c.policy == "ACCEPT" })
		if k.tables[f].chain(t, ChainPrefix+"_A") == nil {
			c.rules = append(c.rules, "-j "+ChainPrefix+"_Z")
			k.tables[f][t] = append(k.tables[f][t], textChain{ChainPrefix + "_Z", "-", []string{"-p tcp -j " + ChainPrefix + "_A"}},
				textChain{ChainPrefix + "_A", "-", []string{"-j DROP"}})
		}
	case 7, 8: // members that come and go
		if ids := sortedSets(k.sets); len(ids) > 0 {
			s := k.sets[pick(g, ids...)]
			s.Members = slices.Clone(s.Members)
			for range g.IntN(4) {
				s.Members = append(s.Members, Member{Prefix: pfx(pick(g, g.destinations(s)...)), Port: pick(g, uint16(80), 443, 22)})
			}
			s.normalize()
			s.Members = slices.DeleteFunc(s.Members, func(Member) bool { return g.IntN(4) == 0 })
			k.sets[setID{s.Family, s.Name}] = s
		}
	case 9: // a set that nobody needs, and one of a type that we do not make
		for _, foreign := range []string{"", "hash:mac"} {
			s := Set{Family: pick(g, Families[:]...), Name: layouts[NFT].sets + "x_" + foreign, Counted: true, Foreign: foreign}
			k.sets[setID{s.Family, s.Name}] = s
		}
	}
}

// destinations returns what may be a member of a set.
func (g generator) destinations(s Set) []string {
	switch {
	case s.Family == IPv4 && s.Networks:
		return []string{"198.51.100.0/24", "198.51.101.0/24", "203.0.113.0/24"}
	case s.Family == IPv4:
		return []string{"192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32", "203.0.113.1/32"}
	case s.Networks:
		return []string{"2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::/64"}
	}
	return []string{"2001:db8::1/128", "2001:db8::2/128", "2001:db8::3/128"}
}

func isJump(rule string) bool { return strings.HasPrefix(rule, "-j "+ChainPrefix) }
