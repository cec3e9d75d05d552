package protect

import "github.com/synproxyctl/synproxyctl/pkg/rules"

// Change is one thing that was, or would be, changed.
type Change struct {
	Kind   string       `json:"kind"` // "sysctl", "rule", "member" of a set, or a "set" without any
	Key    string       `json:"key,omitempty"`
	Before string       `json:"before,omitempty"`
	After  string       `json:"after,omitempty"`
	Action rules.Action `json:"action,omitempty"`
	Family rules.Family `json:"family,omitempty"`
	Table  rules.Table  `json:"table,omitempty"`
	Chain  string       `json:"chain,omitempty"`
	Rule   string       `json:"rule,omitempty"`
	Set    string       `json:"set,omitempty"`
	Member string       `json:"member,omitempty"`
}

// Applied is the outcome of [Host.Apply].
type Applied struct {
	Changed  bool      `json:"changed"`
	DryRun   bool      `json:"dry_run"`
	Backend  string    `json:"backend"`
	Reason   string    `json:"backend_reason"`
	Services Services  `json:"services"`
	Changes  []Change  `json:"changes"`
	Verified bool      `json:"verified"`
	Findings []Finding `json:"findings"`
	// Connections tells what was found of connections that began before.
	Connections Earlier `json:"connections"`
	// Pending tells how long the change stands unless it is confirmed; nil: for good.
	Pending *Pending `json:"pending,omitempty"`
}

func (p *plan) outcome(o Order) *Applied {
	a := &Applied{
		Changed: p.changes(), DryRun: o.DryRun, Backend: p.backend.Name(), Reason: p.reason,
		Services: o.Services, Changes: []Change{}, Findings: append(adviseOptions(o.Services), o.Findings...),
	}
	a.Connections = p.earlier
	a.Findings = append(append(a.Findings, p.findings...), p.earlier.findings()...)
	if p.old == nil && p.new.Unknown {
		a.Findings = append(a.Findings, recordLost())
	}
	for _, c := range p.sysctls {
		a.Changes = append(a.Changes, Change{Kind: "sysctl", Key: c.Key, Before: c.Before, After: c.After})
	}
	add := func(b rules.Backend, steps []rules.Step) {
		for _, s := range steps {
			for _, c := range s.Changes {
				change := Change{Kind: "rule", Action: c.Action, Family: c.Rule.Family, Table: c.Rule.Table, Chain: c.Rule.Chain, Rule: c.Rule.String()}
				if b.Name() == rules.NFTables {
					change.Table, change.Chain, change.Rule = rules.SetPrefix, c.Rule.NFTName(), c.Rule.NFTString()
				}
				a.Changes = append(a.Changes, change)
			}
			for _, c := range s.Sets {
				a.members(rules.Add, c.Set, c.Add)
				a.members(rules.Delete, c.Set, c.Delete)
				if (c.Create || c.Remove) && len(c.Add)+len(c.Delete) == 0 {
					a.bare(c)
				}
			}
		}
	}
	add(p.backend, p.steps)
	for _, held := range p.others {
		add(held.backend, rules.Plan(held.rules, rules.Ruleset{}))
	}
	return a
}

// members tells of members that come or go.
func (a *Applied) members(action rules.Action, s rules.Set, members []rules.Member) {
	for _, m := range members {
		a.Changes = append(a.Changes, Change{Kind: "member", Action: action, Family: s.Family, Set: s.Name, Member: m.String()})
	}
}

// bare tells of a set without members that comes or goes.
func (a *Applied) bare(c rules.SetChange) {
	action := rules.Add
	if c.Remove {
		action = rules.Delete
	}
	a.Changes = append(a.Changes, Change{Kind: "set", Action: action, Family: c.Set.Family, Set: c.Set.Name})
}

// adviseOptions tells what the options of the services mean for their clients;
// never nil.
func adviseOptions(services []Service) []Finding {
	found := tally{list: []Finding{}}
	for i := range services {
		s := &services[i]
		found.next()
		o := s.Options
		if !o.Timestamps && (o.SACKPerm || o.WScale != nil) {
			found.tell(Warn, "no-timestamps", "", func() Finding {
				return finding(Warn, "no-timestamps", "enable timestamps on the backend (net.ipv4.tcp_timestamps=1)",
					"%s: without timestamps the cookie has no room for wscale and SACK: transfers over long distances will be slow", s)
			})
		}
		if s.SynCookies {
			found.tell(Info, "backend-syn-cookies", "", func() Finding {
				return finding(Info, "backend-syn-cookies", "behind SYNPROXY the backend does not need net.ipv4.tcp_syncookies=2",
					"%s: the backend answers with SYN cookies of its own", s)
			})
		}
	}
	return found.findings()
}
