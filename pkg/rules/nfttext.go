package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NFTString returns the rule as nft(8) shows it, for people. What is the same in
// every rule, a counter, is left out.
func (r Rule) NFTString() string {
	if r.Foreign != "" {
		return r.Foreign
	}
	var words []string
	for _, m := range r.sorted() {
		words = append(words, nftMatch(r.Family, m))
	}
	return strings.Join(append(words, nftTarget(r.Family, r.Target)), " ")
}

// NFTChain returns where the rule stands in the tables of the backend nftables,
// as nft(8) names it: family, table and chain.
func (r Rule) NFTChain() string {
	return nftFamily(r.Family) + " " + SetPrefix + " " + r.NFTName()
}

// NFTName returns the name of the rule's chain there.
func (r Rule) NFTName() string { return chainID{r.Family, r.Table, "", r.Chain}.nftName() }

func nftFamily(f Family) string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

// isOr writes the operator of a match that may be negated.
func isOr(not bool) string {
	if not {
		return "!= "
	}
	return ""
}

func nftMatch(f Family, m Match) string {
	ip := nftFamily(f)
	switch m := m.(type) {
	case Source:
		return fmt.Sprintf("%s saddr %s%s", ip, isOr(m.Not), hostOr(m.Prefix))
	case Destination:
		return fmt.Sprintf("%s daddr %s%s", ip, isOr(m.Not), hostOr(m.Prefix))
	case InInterface:
		if m.Name == "lo" {
			return "iif " + isOr(m.Not) + `"lo"`
		}
		return fmt.Sprintf("iifname %s%q", isOr(m.Not), m.Name)
	case TCP:
		return nftTCP(m)
	case CTState:
		return "ct state " + strings.ToLower(m.States.String())
	case Translated:
		if m.Not {
			return "ct status & dnat != dnat"
		}
		return "ct status dnat"
	case Members:
		return nftKey(f, m.Source) + " @" + m.Set
	case SourceType:
		return "fib saddr type " + isOr(m.Not) + "local"
	case DestinationType:
		return "fib daddr type " + isOr(m.Not) + "local"
	case Socket:
		return "meta skuid >= 0"
	case U32:
		return fmt.Sprintf("@nh,%d,32 & 0x%x == 0x%x", 8*int(m.Offset), m.Mask, m.Value)
	}
	return strings.Join(m.args(), " ")
}

func nftKey(f Family, source bool) string {
	if source {
		return nftFamily(f) + " saddr . tcp sport"
	}
	return nftFamily(f) + " daddr . tcp dport"
}

func nftTCP(m TCP) string {
	var words []string
	if m.SrcPort != 0 {
		words = append(words, fmt.Sprintf("tcp sport %d", m.SrcPort))
	}
	if m.DstPort != 0 {
		words = append(words, fmt.Sprintf("tcp dport %d", m.DstPort))
	}
	if m.Mask != 0 {
		bits := func(f TCPFlags) string { return strings.ReplaceAll(strings.ToLower(f.String()), ",", " | ") }
		words = append(words, fmt.Sprintf("tcp flags & (%s) == %s", bits(m.Mask), bits(m.Set)))
	}
	if words == nil {
		return "meta l4proto tcp"
	}
	return strings.Join(words, " ")
}

func nftTarget(f Family, t Target) string {
	switch t := t.(type) {
	case Verdict:
		return strings.ToLower(string(t))
	case Notrack:
		return "notrack"
	case SYNPROXY:
		return strings.TrimSpace("synproxy " + t.Options.nft())
	case Lookup:
		return fmt.Sprintf("synproxy name %s map @%s", nftKey(f, false), t.Map)
	case TCPOptStrip:
		if slices.Equal(t.Kinds, []uint8{KindTimestamps}) {
			return "reset tcp option timestamp"
		}
	case DNAT:
		return fmt.Sprintf("dnat to %s", t.To)
	case nil:
		return ""
	}
	return strings.Join(t.args(), " ")
}

// nft returns the options as nft(8) writes them.
func (o Options) nft() string {
	var words []string
	if o.MSS != nil {
		words = append(words, fmt.Sprintf("mss %d", *o.MSS))
	}
	if o.WScale != nil {
		words = append(words, fmt.Sprintf("wscale %d", *o.WScale))
	}
	if o.Timestamps {
		words = append(words, "timestamp")
	}
	if o.SACKPerm {
		words = append(words, "sack-perm")
	}
	return strings.Join(words, " ")
}

// Render returns the step as nft(8) would be told it, for people.
func (*native) Render(s Step) string {
	var b strings.Builder
	b.WriteString("# nft, one transaction\n")
	for _, c := range s.Changes {
		fmt.Fprintf(&b, "%s rule %s %s\n", c.Action, c.Rule.NFTChain(), c.Rule.NFTString())
	}
	for _, c := range s.Sets {
		set := fmt.Sprintf("%s %s %s", nftFamily(c.Set.Family), SetPrefix, c.Set.Name)
		if c.Remove {
			fmt.Fprintf(&b, "delete set %s\n", set)
			continue
		}
		for _, m := range c.Delete {
			fmt.Fprintf(&b, "delete element %s { %s }\n", set, nftMember(m))
		}
		for _, m := range c.Add {
			fmt.Fprintf(&b, "add element %s { %s }\n", set, nftMember(m))
		}
	}
	return b.String()
}

func nftMember(m Member) string {
	address := netip.Prefix.String(m.Prefix)
	if m.Prefix.IsSingleIP() {
		address = m.Prefix.Addr().String()
	}
	key := fmt.Sprintf("%s . %d", address, m.Port)
	if m.Object != "" {
		key += fmt.Sprintf(" : %q", m.Object)
	}
	return key
}
