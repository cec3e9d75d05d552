package firewall

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Outcome is what becomes of a class of packets.
type Outcome uint8

// The outcomes.
const (
	Accepted Outcome = iota // all of them pass, for sure
	Denied                  // none passes, for sure
	Depends                 // on what is not known of the packet or the rules
)

// String names the outcome in lower case.
func (o Outcome) String() string {
	return [...]string{"accepted", "denied", "depends"}[o]
}

// Fate is what the rules do to a class of packets.
type Fate struct {
	Outcome Outcome
	// By holds the rules that deny the packets, or may; empty if accepted.
	By []Rule
	// States are those that the packets have at the next hook, of those that
	// they came with: rules can take them out of connection tracking.
	States rules.States
}

// Window selects some of the base chains of a hook.
type Window struct {
	From, To int32             // priorities, both included
	Without  func(*Chain) bool // leaves chains out; nil: none
}

// Everything selects all base chains.
var Everything = Window{From: math.MinInt32, To: math.MaxInt32}

// Before returns the window without what has the priority p or a higher one.
func (w Window) Before(p int32) Window {
	w.To = min(w.To, p-1)
	return w
}

// After returns the window without what has the priority p or a lower one.
func (w Window) After(p int32) Window {
	w.From = max(w.From, p+1)
	return w
}

func (w Window) holds(c *Chain) bool {
	return w.From <= c.Priority && c.Priority <= w.To && (w.Without == nil || !w.Without(c))
}

// hooked returns the base chains that a packet meets, in their order. Chains of
// one priority are in no particular order: whoever came last to the kernel is
// first.
func (fw *Firewall) hooked(p *Packet, w Window) []*Chain {
	var found []*Chain
	for i := range fw.Chains {
		c := &fw.Chains[i]
		if c.Hook == p.Hook && c.Family.sees(p.Family()) && w.holds(c) {
			found = append(found, c)
		}
	}
	slices.SortStableFunc(found, func(a, b *Chain) int { return cmp.Compare(a.Priority, b.Priority) })
	return found
}

// Fate says what becomes of packets at their hook.
func (fw Firewall) Fate(p Packet, w Window) Fate {
	var all outcome
	var by []Rule
	var states rules.States
	for _, one := range p.eachState() {
		out, denials, after := fw.pass(one, w)
		all |= out
		states |= after
		for _, e := range denials {
			if !slices.ContainsFunc(by, func(r Rule) bool { return r.is(e.rule) }) {
				by = append(by, *e.rule)
			}
		}
	}
	switch all {
	case accepted:
		return Fate{Outcome: Accepted, States: states}
	case denied:
		return Fate{Outcome: Denied, By: by, States: states}
	}
	return Fate{Outcome: Depends, By: by, States: states}
}

// eachState splits a class by the states of connection tracking.
func (p Packet) eachState() []Packet {
	var each []Packet
	for bit := rules.Invalid; bit <= rules.Untracked; bit <<= 1 {
		if p.States&bit != 0 {
			one := p
			one.States = bit
			each = append(each, one)
		}
	}
	if each == nil {
		return []Packet{p}
	}
	return each
}

// pass leads packets through all base chains. It returns accepted, denied or
// both, the rules that deny (those that do it for sure, if any does), and the
// states that the packets have then.
func (fw *Firewall) pass(p Packet, w Window) (outcome, []event, rules.States) {
	all := accepted
	var perhaps []event
	results, states := fw.walk(p, w)
	for _, res := range results {
		switch res.out {
		case accepted:
		case denied:
			return denied, surest(res.denials), states
		default:
			all |= denied
			perhaps = append(perhaps, res.denials...)
		}
	}
	return all, perhaps, states
}

// surest returns the denial that is sure, or else all.
func surest(es []event) []event {
	for i, e := range es {
		if e.sure {
			return es[i : i+1]
		}
	}
	return es
}

// walk leads packets through the base chains of their hook, and returns what
// each does, and the states of the packets behind them.
func (fw *Firewall) walk(p Packet, w Window) ([]result, rules.States) {
	var all []result
	for _, c := range fw.hooked(&p, w) {
		v := p.at(c.Priority)
		if c.isNAT() && v.state&rules.New == 0 {
			continue // only the first packet of a connection gets there
		}
		walker := walker{chains: fw.at, view: v, seen: map[*Chain]*result{}}
		res := walker.base(c)
		all = append(all, res)
		if c.Priority < PriorityConntrack && p.untracked() {
			p.States = afterNotrack(p.States, res)
		}
	}
	return all, p.States
}

// actions returns the rules that do, or may do, something of a kind to packets.
func (fw *Firewall) actions(p Packet, w Window, kinds ...ActionKind) []event {
	var found []event
	if !slices.ContainsFunc(kinds, func(k ActionKind) bool { return fw.does[k] }) {
		return nil
	}
	for _, one := range p.eachState() {
		results, _ := fw.walk(one, w)
		for _, res := range results {
			for _, e := range res.actions {
				known := slices.ContainsFunc(found, func(o event) bool { return o.rule == e.rule })
				if slices.Contains(kinds, e.act.Kind) && !known {
					found = append(found, e)
				}
			}
		}
	}
	return found
}

// Target is where destination NAT leads.
type Target struct {
	Addr netip.Addr // not valid: unknown, or with REDIRECT one of this machine
	Port uint16     // 0: the port stays as it is
	Many bool       // one of several, or not known
}

// Translation returns where destination NAT leads the first packet of a
// connection at its hook, which must be prerouting or output, and the rule that
// does it. The rule is nil if none may. An address that is not valid means this
// machine itself, or an unknown one. certain tells that it holds for every
// packet of the class and is the only target.
func (fw Firewall) Translation(p Packet) (to netip.AddrPort, rule *Rule, certain bool) {
	p.States = rules.New
	for _, e := range fw.actions(p, Everything, Translate) {
		t := e.act.To
		to := netip.AddrPortFrom(t.Addr, cmp.Or(t.Port, p.DestinationPort))
		return to, e.rule, e.sure && !t.Many
	}
	return netip.AddrPort{}, nil, false
}
