package firewall

import (
	"fmt"
	"slices"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Severity tells how bad a blocker is.
type Severity string

// The severities.
const (
	Fatal   Severity = "fatal"   // no connection would get through
	Warning Severity = "warning" // some may not, or something else is odd
	Info    Severity = "info"    // so it is, with or without us
)

// Blocker is a rule of the host that stands in the way of SYNPROXY.
type Blocker struct {
	Severity Severity
	Code     string // stable: "invalid-drop", "output-drop", ...
	Message  string // what happens
	Rule     string // the rule, word for word, and where it stands
	Hint     string // what to do about it
}

// The codes of [Blocker].
const (
	CodeInvalidDrop   = "invalid-drop"     // the client's ACK, which carries the cookie
	CodeServiceDenied = "service-denied"   // the client's SYN, as without us
	CodeNotrackDenied = "notrack-denied"   // the client's SYN, because it is not tracked
	CodeOutputDrop    = "output-drop"      // the SYN to the backend, on its way out
	CodeLoSpoofDrop   = "lo-spoof-drop"    // the SYN to the backend, on its way in by lo
	CodeSynAckDrop    = "synack-drop"      // the proxy's SYN+ACK
	CodeZone          = "zone"             // a conntrack zone
	CodeSynproxy      = "another-synproxy" // somebody else's SYNPROXY
	CodeNotrack       = "notrack"          // somebody else takes the service out of connection tracking
	CodeIngress       = "ingress-chain"    // a chain before all hooks, whose rules are not looked at
	CodeKubeProxy     = "kube-proxy"
	CodeCilium        = "cilium"
)

// Blockers follows every packet by which SYNPROXY works for the service through
// the host's rules, and returns what stops it, the worst first. Our own rules
// must stand, or come to stand: the one for the ACK first in the mangle table
// (INPUT or FORWARD), the one for the SYN in the security table, and those that
// accept what SYNPROXY sends first in the filter table (OUTPUT, and INPUT for
// what comes by lo).
func (fw Firewall) Blockers(s Service) []Blocker {
	var all []Blocker
	for _, found := range [][]Blocker{
		fw.ackBlockers(s), fw.proxiedBlockers(s), fw.answerBlockers(s), fw.synBlockers(s),
		fw.notrackBlockers(s), fw.zoneBlockers(s), fw.synproxyBlockers(s), fw.ingressBlockers(), fw.neighbours(),
	} {
		for _, b := range found {
			if !slices.Contains(all, b) {
				all = append(all, b)
			}
		}
	}
	rank := map[Severity]int{Fatal: 0, Warning: 1, Info: 2}
	slices.SortStableFunc(all, func(a, b Blocker) int { return rank[a.Severity] - rank[b.Severity] })
	return all
}

// typical returns the fate of a packet of most clients.
func (fw *Firewall) typical(p Packet, w Window) Fate {
	p.usual = true
	return fw.Fate(p, w)
}

// blockersOf returns a blocker for each rule that denies, or may deny.
func blockersOf(f Fate, b Blocker) []Blocker {
	if f.Outcome == Accepted {
		return nil
	}
	var all []Blocker
	for _, r := range f.By {
		if r.Verdict.Kind == Synproxy {
			continue // has a blocker of its own
		}
		one := b
		one.Rule = r.String()
		if f.Outcome == Depends {
			one.Severity = Warning
			one.Message += ", if its other conditions hold"
		}
		all = append(all, one)
	}
	return all
}

// beyond takes out of a fate what is the fate of another packet too.
func (f Fate) beyond(o Fate) Fate {
	if f.Outcome == Denied && o.Outcome != Denied {
		return f
	}
	f.By = slices.DeleteFunc(slices.Clone(f.By), func(r Rule) bool {
		return slices.ContainsFunc(o.By, func(p Rule) bool { return p.is(&r) })
	})
	if len(f.By) == 0 {
		f.Outcome = Accepted
	}
	return f
}

// ackBlockers follows the client's ACK. It belongs to no connection that the
// kernel knows of, and so is INVALID. What denies an ESTABLISHED one as well
// says nothing about the state, and is not our concern.
func (fw *Firewall) ackBlockers(s Service) []Blocker {
	b := Blocker{
		Severity: Fatal, Code: CodeInvalidDrop,
		Message: "the ACK by which a client proves itself is INVALID to connection tracking until SYNPROXY has seen it, and is denied before that",
		Hint:    fmt.Sprintf("move the rule to the filter table, or except tcp to %s port %d from it", s.Destination, s.Port),
	}
	var all []Blocker
	early := Everything.Before(PriorityMangle + 1)
	early.Without = s.without("mangle")
	for _, at := range []struct {
		hook Hook
		w    Window
	}{{Prerouting, Everything.After(PriorityConntrack - 1)}, {s.Hook, early}} {
		invalid := fw.typical(s.toService(at.hook, rules.ACK, rules.Invalid), at.w)
		known := fw.typical(s.toService(at.hook, rules.ACK, rules.Established), at.w)
		all = append(all, blockersOf(invalid.beyond(known), b)...)
	}
	return all
}

// synBlockers follows the client's SYN to the security table.
func (fw *Firewall) synBlockers(s Service) []Blocker {
	state := rules.Untracked
	if s.Tracked {
		state = rules.New
	}
	fate := fw.Fate(s.toService(Prerouting, rules.SYN, state), Everything)
	own := Blocker{
		Severity: Warning, Code: CodeServiceDenied,
		Message: "the host's own rules deny the service, with or without SYNPROXY",
		Hint:    "accept the service there if clients are to reach it",
	}
	if fate.Outcome == Denied {
		return blockersOf(fate, own)
	}
	w := Everything.Before(s.answered() + 1)
	w.Without = s.without("security")
	if s.To.IsValid() && !s.Tracked {
		// The SYN to a translated address is answered ahead of the filters.
		w = Everything.Before(PriorityMangle + 1)
		w.Without = s.without("mangle")
	}
	syn := s.toService(s.Hook, rules.SYN, state)
	if s.Tracked {
		// A tracked SYN takes the way of any other, destination NAT included.
		syn = s.translated(s.toService(s.backendHook(), rules.SYN, state))
	}
	fate = fw.Fate(syn, w)
	if fate.Outcome != Denied {
		return nil
	}
	asNew := s.translated(s.toService(s.backendHook(), rules.SYN, rules.New))
	if !s.Tracked && fw.Fate(asNew, w).Outcome != Denied {
		return blockersOf(fate, Blocker{
			Severity: Fatal, Code: CodeNotrackDenied,
			Message: "a SYN that is not tracked is denied, while a new connection would pass",
			Hint:    "protect the service in tracked mode, or accept UNTRACKED where NEW is accepted",
		})
	}
	return blockersOf(fate, own)
}

// proxiedBlockers follows the SYN that SYNPROXY sends to the backend in the
// client's name. A list of sources that the client's own SYN meets as well is
// no blocker.
func (fw *Firewall) proxiedBlockers(s Service) []Blocker {
	out := Blocker{
		Severity: Fatal, Code: CodeOutputDrop,
		Message: "SYNPROXY's connection to the backend bears the client's address, and is denied on its way out",
		Hint:    fmt.Sprintf("accept tcp to %s port %d before it, whatever the source", s.Destination, s.Port),
	}
	lo := Blocker{
		Severity: Fatal, Code: CodeLoSpoofDrop,
		Message: "SYNPROXY's connection to the service comes in by lo with the client's address, and is denied there",
		Hint:    fmt.Sprintf("accept tcp to %s port %d on lo before it, whatever the source", s.Destination, s.Port),
	}
	p := s.proxied(Output)
	early, late := Everything.Before(PriorityDNAT), Everything.After(PriorityDNAT-1)
	late.Without = s.without("filter")
	all := blockersOf(fw.typical(p, early), out)
	all = append(all, blockersOf(fw.typical(s.translated(p), late), out)...)
	return append(all, append(fw.beyondClient(s, Postrouting, Everything, out),
		fw.loBlockers(s, lo)...)...)
}

// loBlockers follows the SYN to a backend on this machine, which comes by lo.
func (fw *Firewall) loBlockers(s Service, b Blocker) []Blocker {
	if !s.toLo() {
		return nil
	}
	input := Everything
	input.Without = s.without("filter")
	return append(fw.beyondClient(s, Prerouting, Everything, b), fw.beyondClient(s, Input, input, b)...)
}

// beyondClient returns what denies the proxied SYN, but not the client's own,
// which has the same addresses.
func (fw *Firewall) beyondClient(s Service, h Hook, w Window, b Blocker) []Blocker {
	client := s.toService(h, rules.SYN, rules.New)
	if h != Prerouting {
		client = s.translated(client)
	}
	return blockersOf(fw.typical(s.translated(s.proxied(h)), w).beyond(fw.typical(client, w)), b)
}

// answerBlockers follows SYNPROXY's SYN+ACK to the client. It must pass in each
// of the states that it may have.
func (fw *Firewall) answerBlockers(s Service) []Blocker {
	b := Blocker{
		Severity: Fatal, Code: CodeSynAckDrop,
		Message: "SYNPROXY's SYN+ACK to the client is denied",
		Hint:    fmt.Sprintf("accept tcp from %s port %d before it, in any state of connection tracking", s.Destination, s.Port),
	}
	output := Everything
	output.Without = s.without("filter")
	var all []Blocker
	for _, at := range []struct {
		hook Hook
		w    Window
	}{{Output, output}, {Postrouting, Everything}} {
		p := s.answer(at.hook)
		for _, one := range p.eachState() {
			all = append(all, blockersOf(fw.typical(one, at.w), b)...)
		}
	}
	return all
}
