package firewall

import "github.com/synproxyctl/synproxyctl/pkg/rules"

// outcome is a set of what can become of a packet in a chain.
type outcome uint8

const (
	accepted outcome = 1 << iota
	denied
	returned // to the chain that called, or to the policy
	continued
)

// Bounds of what a walk remembers and of how deep it goes. The kernel allows 16
// levels of jumps in nft and more in xtables; a dump may say anything.
const (
	maxDepth  = 128
	maxEvents = 128
)

// event is a rule that has done something, or may have.
type event struct {
	rule *Rule
	act  Action
	sure bool // every packet of the class that comes to the chain gets there
}

// result is what a chain does to a packet that enters it.
type result struct {
	out     outcome
	denials []event
	actions []event
}

// walker carries one class of packets through one base chain.
type walker struct {
	chains map[place]*Chain
	view   view
	seen   map[*Chain]*result // nil while the chain is being walked
}

// base returns what a base chain does. The outcome is accepted, denied or both.
func (w *walker) base(c *Chain) result {
	res := *w.chain(c, 0)
	if res.out&returned == 0 {
		return res
	}
	sure := res.out == returned
	res.out &^= returned
	if !c.Drops {
		res.out |= accepted
		return res
	}
	res.out |= denied
	policy := &Rule{Where: c.String(), Text: "policy drop", Verdict: Verdict{Kind: Drop}}
	res.denials = append(res.denials[:len(res.denials):len(res.denials)], event{rule: policy, sure: sure})
	return res
}

// chain returns what a chain does. It is an upper bound: that what one rule has
// matched tells of what the next one does is not made use of.
func (w *walker) chain(c *Chain, depth int) *result {
	res, known := w.seen[c]
	switch {
	case known && res != nil:
		return res
	case known, depth > maxDepth: // a loop
		return &result{out: accepted | denied | returned}
	}
	w.seen[c] = nil
	res = &result{}
	sure := true // whether all packets come to the next rule
	for i := range c.Rules {
		rule := &c.Rules[i]
		matches := rule.matches(&w.view)
		if matches == no {
			continue
		}
		out := w.rule(res, c, rule, sure && matches == yes, depth)
		res.out |= out &^ continued
		if matches == yes && out&continued == 0 {
			w.seen[c] = res
			return res
		}
		sure = sure && out == continued
	}
	res.out |= returned
	w.seen[c] = res
	return res
}

// rule adds what a rule that matches does, and returns what becomes of the
// packets that it matches.
func (w *walker) rule(res *result, c *Chain, r *Rule, sure bool, depth int) outcome {
	for _, a := range r.Actions {
		res.actions = appendEvent(res.actions, event{r, a, sure})
	}
	switch r.Verdict.Kind {
	case Continue:
		return continued
	case Accept:
		return accepted
	case Return:
		return returned
	case Drop, Reject, Synproxy:
		res.denials = appendEvent(res.denials, event{rule: r, sure: sure})
		return denied
	case Queue:
		res.denials = appendEvent(res.denials, event{rule: r})
		return accepted | denied
	case Jump, Goto:
		return w.jump(res, c, r, sure, depth)
	}
	res.denials = appendEvent(res.denials, event{rule: r})
	return accepted | denied | continued
}

func (w *walker) jump(res *result, c *Chain, r *Rule, sure bool, depth int) outcome {
	to := c.place()
	to.chain = r.Verdict.Chain
	target, ok := w.chains[to]
	if !ok {
		res.denials = appendEvent(res.denials, event{rule: r})
		return accepted | denied | continued
	}
	sub := w.chain(target, depth+1)
	for _, e := range sub.denials {
		e.sure = e.sure && sure
		res.denials = appendEvent(res.denials, e)
	}
	for _, e := range sub.actions {
		e.sure = e.sure && sure
		res.actions = appendEvent(res.actions, e)
	}
	out := sub.out &^ returned
	if sub.out&returned == 0 {
		return out
	}
	if r.Verdict.Kind == Goto {
		return out | returned
	}
	return out | continued
}

func appendEvent(es []event, e event) []event {
	if len(es) >= maxEvents {
		return es
	}
	return append(es, e)
}

// matches answers whether the rule matches the packets.
func (r *Rule) matches(v *view) answer {
	a := yes
	if r.Obscure {
		a = maybe
	}
	for i := range r.Conditions {
		if a = min(a, r.Conditions[i].holds(v)); a == no {
			return no
		}
	}
	return a
}

// afterNotrack returns the states of a packet after the actions of a chain that
// stands before connection tracking.
func afterNotrack(states rules.States, res result) rules.States {
	for _, e := range res.actions {
		if e.act.Kind != Notrack {
			continue
		}
		if e.sure {
			return rules.Untracked
		}
		states |= rules.Untracked
	}
	return states
}
