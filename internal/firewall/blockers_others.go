package firewall

import (
	"fmt"
	"slices"
	"strings"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// notrackBlockers finds rules that take the service's packets out of connection
// tracking, without which SYNPROXY cannot translate them. A SYN may be.
func (fw *Firewall) notrackBlockers(s Service) []Blocker {
	ps := []Packet{s.toService(Prerouting, rules.ACK, rules.Established), s.reply()}
	return fw.actionBlockers(ps, Notrack, Blocker{
		Severity: Fatal, Code: CodeNotrack,
		Message: "the service's packets are taken out of connection tracking, which SYNPROXY needs",
		Hint:    fmt.Sprintf("except tcp port %d of %s from it", s.Port, s.Destination),
	})
}

// zoneBlockers finds conntrack zones: packets that SYNPROXY makes are in none.
func (fw *Firewall) zoneBlockers(s Service) []Blocker {
	return fw.actionBlockers(s.everyPacket(), Zone, Blocker{
		Severity: Fatal, Code: CodeZone,
		Message: "the service's packets are put into a conntrack zone, in which SYNPROXY does not find its connections again",
		Hint:    fmt.Sprintf("except tcp port %d of %s from the zone", s.Port, s.Destination),
	})
}

// synproxyBlockers finds another SYNPROXY for the service. It does no harm to a
// connection that there are two, and ours must come before the other one goes:
// the last one to go takes all proxied connections with it.
func (fw *Firewall) synproxyBlockers(s Service) []Blocker {
	return fw.actionBlockers(s.everyPacket(), AnySynproxy, Blocker{
		Severity: Warning, Code: CodeSynproxy,
		Message: "another SYNPROXY answers for the service, with options of its own",
		Hint:    "once the service is protected here, remove the other one and what belongs to it, from the raw table to the last; connections live on",
	})
}

// actionBlockers returns a blocker for each rule that does something to packets.
func (fw *Firewall) actionBlockers(ps []Packet, kind ActionKind, b Blocker) []Blocker {
	var all []Blocker
	for _, p := range ps {
		p.usual = true
		for _, e := range fw.actions(p, Everything, kind) {
			b.Rule = e.rule.String()
			all = append(all, b)
		}
	}
	return all
}

// ingressBlockers names the chains of netdev and bridge tables that drop.
func (fw *Firewall) ingressBlockers() []Blocker {
	var all []Blocker
	for i := range fw.Chains {
		c := &fw.Chains[i]
		drops := c.Drops || slices.ContainsFunc(c.Rules, func(r Rule) bool { return r.Verdict.Kind != Continue && r.Verdict.Kind != Accept })
		if c.Hook != Ingress && c.Hook != Egress && c.Family != Bridge || c.Hook == "" || !drops {
			continue
		}
		all = append(all, Blocker{
			Severity: Info, Code: CodeIngress,
			Message: "a chain of the link layer may drop packets before anything else sees them",
			Rule:    c.String(),
			Hint:    "see to it that it drops nothing of the service",
		})
	}
	return all
}

// neighbours names software whose own rules drop or bypass INVALID packets.
func (fw *Firewall) neighbours() []Blocker {
	var all []Blocker
	seen := map[string]bool{}
	for i := range fw.Chains {
		c := &fw.Chains[i]
		code, name := "", strings.ToUpper(c.Name)
		switch {
		case strings.HasPrefix(name, "KUBE-"), c.Table == "kube-proxy":
			code = CodeKubeProxy
		case strings.HasPrefix(name, "CILIUM_"), strings.HasPrefix(name, "OLD_CILIUM_"):
			code = CodeCilium
		}
		if code == "" || seen[code] {
			continue
		}
		seen[code] = true
		all = append(all, Blocker{
			Severity: Warning, Code: code,
			Message: code + " is at work here, which drops or bypasses INVALID packets of its own accord",
			Rule:    c.String(),
			Hint:    "protect addresses that it does not handle, or a machine in front of it",
		})
	}
	return all
}
