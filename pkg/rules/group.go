package rules

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// A layout is how a backend arranges what a policy needs.
type layout struct {
	// sets begins the names of sets, by which it is known whose they are: those
	// of ipset(8) belong to the namespace, not to one variant of iptables.
	sets string
	// native tells that one map finds the options of a service, where xtables
	// needs a rule for each kind of options; and that the rules have base chains
	// of their own, whose accept saves a packet from nobody else.
	native bool
}

var layouts = map[string]layout{
	NFT:      {sets: SetPrefix + "_n"},
	Legacy:   {sets: SetPrefix + "_l"},
	NFTables: {sets: SetPrefix + "_", native: true},
}

// groupKey is what services have in common that share rules.
type groupKey struct {
	hook       Hook
	interfaces string // joined by commas, which no name has
	options    optionKey
	mode       Mode
	repair     Repair
	translated bool
	networks   bool // their destinations are prefixes, not addresses
	closing    bool
}

// optionKey is [Options] as a value that can be compared.
type optionKey struct {
	mss          uint16 // 0: not announced
	wscale       int8   // -1: not announced
	sack, stamps bool
}

func (o Options) key() optionKey {
	k := optionKey{wscale: -1, sack: o.SACKPerm, stamps: o.Timestamps}
	if o.MSS != nil {
		k.mss = *o.MSS
	}
	if o.WScale != nil {
		k.wscale = int8(*o.WScale)
	}
	return k
}

// group is some services of one family that are alike.
type group struct {
	like     Service // the first of them
	services []int   // positions among the policy's services, or those that are closing
	closing  bool
	set      string // that holds their addresses and ports; empty: there is only one
	layout   layout
}

// groups sorts the services of a family into groups, in a stable order.
func (p Policy) groups(l layout, f Family) []group {
	at := map[groupKey]*group{}
	collect := func(services []Service, closing bool) {
		for i, s := range services {
			if s.Family() != f {
				continue
			}
			k := s.groupKey(l, closing)
			g, ok := at[k]
			if !ok {
				g = &group{like: s, closing: closing, layout: l}
				at[k] = g
			}
			g.services = append(g.services, i)
		}
	}
	collect(p.Services, false)
	collect(p.Closing, true)
	list := make([]group, 0, len(at))
	for k, g := range at {
		if len(g.services) > 1 {
			g.set = l.sets + map[Family]string{IPv4: "4_", IPv6: "6_"}[f] + k.digest()
		}
		list = append(list, *g)
	}
	// As the services come; what closes is told from what does not.
	slices.SortFunc(list, func(a, b group) int {
		return cmp.Or(compareBool(a.closing, b.closing), cmp.Compare(a.services[0], b.services[0]))
	})
	return list
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (s Service) groupKey(l layout, closing bool) groupKey {
	k := groupKey{
		hook: s.Hook, interfaces: strings.Join(s.Interfaces, ","), repair: s.ThirdACK(), translated: s.Translated(),
		networks: !s.Destination.IsSingleIP(), closing: closing,
	}
	if closing {
		return k
	}
	k.mode = s.mode()
	if !l.native {
		k.options = s.Options.key()
	}
	return k
}

// digest returns a short name of the key, which depends on nothing else.
func (k groupKey) digest() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%v", k))
	return fmt.Sprintf("%x", sum[:5])
}

// to matches packets to the services, which t says more of.
func (g group) to(t TCP) []Match {
	if g.set == "" {
		t.DstPort = g.like.Port
		return []Match{Destination{Prefix: g.like.Destination}, t}
	}
	return []Match{t, Members{Set: g.set}}
}

// from matches packets from the services, which t says more of.
func (g group) from(t TCP) []Match {
	if g.set == "" {
		t.SrcPort = g.like.Port
		return []Match{Source{Prefix: g.like.Destination}, t}
	}
	return []Match{t, Members{Set: g.set, Source: true}}
}

// counting is to, and counts the packets of each service that it matches.
func (g group) counting(t TCP) []Match {
	matches := g.to(t)
	for i, m := range matches {
		if members, ok := m.(Members); ok {
			members.Count = true
			if g.layout.native {
				members.Set += countedSuffix
			}
			matches[i] = members
		}
	}
	return matches
}

// proxy returns the target that answers SYNs.
func (g group) proxy() Target {
	if g.set != "" && g.layout.native {
		return Lookup{g.set}
	}
	return SYNPROXY{g.like.Options}
}
