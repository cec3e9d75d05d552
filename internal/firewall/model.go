package firewall

import (
	"fmt"
	"strings"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Origin is the program whose rules a chain holds.
type Origin string

// The origins; two of them bear the names of the backends of package rules.
const (
	IPTablesNFT    Origin = rules.NFT
	IPTablesLegacy Origin = rules.Legacy
	NFT            Origin = "nft"
)

// Family is the family of a table, as nft calls it.
type Family string

// The families. Tables of arp see no TCP and are left out.
const (
	IP     Family = "ip"
	IP6    Family = "ip6"
	INet   Family = "inet"
	Bridge Family = "bridge"
	NetDev Family = "netdev"
)

// sees reports whether a table of the family sees packets of f. What bridge and
// netdev tables see depends on the link.
func (a Family) sees(f rules.Family) bool {
	switch a {
	case IP:
		return f == rules.IPv4
	case IP6:
		return f == rules.IPv6
	}
	return a == INet
}

// Hook is the place on a packet's way where a base chain is called.
type Hook string

// The hooks.
const (
	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"
	Ingress     Hook = "ingress"
	Egress      Hook = "egress"
)

// The priorities of netfilter's own hooks and of the xtables tables
// (linux/netfilter_ipv4.h).
const (
	PriorityRaw       = -300
	PriorityConntrack = -200
	PriorityMangle    = -150
	PriorityDNAT      = -100
	PriorityFilter    = 0
	PrioritySecurity  = 50
	PrioritySNAT      = 100
)

// Chain is one chain of rules.
type Chain struct {
	Origin Origin
	Family Family
	Table  string
	Name   string
	Hook   Hook   // empty: only other chains lead here
	Type   string // "filter", "nat" or "route"; of a base chain
	// Priority orders the base chains of a hook, the lowest first.
	Priority int32
	Drops    bool // the policy: what no rule decides is dropped
	Rules    []Rule
}

// String names the chain for people: "nft inet filter input".
func (c *Chain) String() string {
	return fmt.Sprintf("%s %s %s %s", c.Origin, c.Family, c.Table, c.Name)
}

// isNAT reports whether only the first packet of a connection meets the chain.
func (c *Chain) isNAT() bool { return c.Type == "nat" }

// place is where chains find each other: nft and iptables-nft share tables.
type place struct {
	legacy bool
	family Family
	table  string
	chain  string
}

func (c *Chain) place() place {
	return place{c.Origin == IPTablesLegacy, c.Family, c.Table, c.Name}
}

// Rule is one rule, or the policy of a base chain.
type Rule struct {
	Where    string // the chain, as [Chain.String] names it
	Position int    // from 1; 0: the policy
	Handle   uint64 // of nft; 0: none
	Text     string // as iptables-save prints it, or in the words of nft as far as known

	Conditions []Condition // all must hold
	Obscure    bool        // there are more conditions, which this package does not understand
	Actions    []Action    // what it does besides its verdict
	Verdict    Verdict
}

// String says what the rule is and where.
func (r *Rule) String() string {
	switch {
	case r.Position == 0:
		return fmt.Sprintf("%s: %s", r.Where, r.Text)
	case r.Handle != 0:
		return fmt.Sprintf("%s, rule %d (handle %d): %s", r.Where, r.Position, r.Handle, r.Text)
	}
	return fmt.Sprintf("%s, rule %d: %s", r.Where, r.Position, r.Text)
}

// is reports whether two rules are the same one.
func (r *Rule) is(o *Rule) bool {
	return r.Position == o.Position && r.Handle == o.Handle && r.Where == o.Where && r.Text == o.Text
}

// VerdictKind is what becomes of a packet that a rule matches.
type VerdictKind uint8

// The kinds of verdicts.
const (
	Continue VerdictKind = iota // the next rule is asked
	Accept                      // also DNAT and its like, which end the chain
	Drop
	Reject
	Return
	Jump
	Goto
	Queue    // a program decides
	Synproxy // SYNPROXY takes the packet
	Other    // unknown: it may do anything
)

// Verdict is the end of a rule.
type Verdict struct {
	Kind  VerdictKind
	Chain string // of Jump and Goto
}

// ActionKind is a side effect of a rule.
type ActionKind uint8

// The kinds of actions.
const (
	Notrack     ActionKind = iota + 1
	Zone                   // the packet's connection gets a conntrack zone
	Mark                   // the packet's mark changes
	ConnMark               // the connection's mark changes
	Translate              // destination NAT
	AnySynproxy            // SYNPROXY, by whatever means
)

// Action is a side effect of a rule.
type Action struct {
	Kind ActionKind
	To   Target     // of Translate
	Mark MarkChange // of Mark and ConnMark
}

// Firewall is the rules of others on a host, made by [New]. The zero value lets
// everything pass.
type Firewall struct {
	Chains []Chain

	at   map[place]*Chain
	does map[ActionKind]bool // whether any rule does
}

// New returns a firewall of the chains that are not ours.
func New(chains ...Chain) Firewall {
	var fw Firewall
	for _, c := range chains {
		if ours(c.Table, c.Name) {
			continue
		}
		kept := c.Rules[:0:0]
		for _, r := range c.Rules {
			if !ours("", r.Verdict.Chain) {
				kept = append(kept, r)
			}
		}
		c.Rules = kept
		fw.Chains = append(fw.Chains, c)
	}
	fw.at, fw.does = make(map[place]*Chain, len(fw.Chains)), map[ActionKind]bool{}
	for i := range fw.Chains {
		c := &fw.Chains[i]
		fw.at[c.place()] = c
		for j := range c.Rules {
			c.Rules[j].prepare(fw.does)
		}
	}
	return fw
}

// prepare does once what would have to be done for each packet, and takes note
// of what the rule does.
func (r *Rule) prepare(does map[ActionKind]bool) {
	for _, a := range r.Actions {
		does[a.Kind] = true
	}
	for i := range r.Conditions {
		if c := &r.Conditions[i]; len(c.Keys) == 1 {
			c.merged = merge(c.ranges())
		}
	}
}

// ours reports whether a table or a chain bears the product's name.
func ours(table, chain string) bool {
	return strings.HasPrefix(chain, rules.ChainPrefix) || strings.HasPrefix(table, "synproxyctl")
}
