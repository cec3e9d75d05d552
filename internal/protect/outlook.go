package protect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/synproxyctl/synproxyctl/internal/firewall"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// outlook is what the host's own rules mean for services. What it has found out
// of one service it remembers for those that the rules treat alike.
type outlook struct {
	firewall.Firewall
	backend string
	classes *firewall.Classes
	seen    map[question]any // answers
	routes  *routes
	others  map[string][]string // the interfaces beside one, by its name
}

// question is what is asked of the services of one class.
type question struct {
	of   subject
	like firewall.Class
	// published is set for a service that the host's own rules translate: where
	// it leads may depend on all of it.
	published place
}

// subject is what is asked of a service.
type subject struct {
	what       string
	at         firewall.Hook
	port       uint16
	mark, link string // of routing by mark: the rule, and where the server is
}

// place is where clients connect to.
type place struct {
	destination netip.Prefix
	port        uint16
}

// lookOut reads the host's rules. The routes are those that are known.
func lookOut(ctx context.Context, backend string, known *routes) (outlook, error) {
	fw, err := firewall.Read(ctx)
	if err != nil {
		return outlook{}, fmt.Errorf("the host's own rules: %w", err)
	}
	return outlook{fw, backend, fw.Classes(), map[question]any{}, known, map[string][]string{}}, nil
}

// once answers a question about a service, unless it was answered for one that
// the host's rules treat alike.
func once[T any](o outlook, of subject, s *Service, answer func() T) T {
	key := question{of: of}
	if s.Published {
		key.like, key.published = o.classes.Of(o.plain(*s)), place{s.Destination, s.Port}
	} else {
		key.like = o.classes.Of(o.view(*s))
	}
	if known, ok := o.seen[key]; ok {
		return known.(T)
	}
	found := answer()
	o.seen[key] = found
	return found
}

// plain returns a service as the host's rules see it, without where they lead
// its connections.
func (o outlook) plain(s Service) firewall.Service {
	v := firewall.Service{
		Destination: s.Destination, Port: s.Port, Hook: firewall.Forward, Interfaces: s.Interfaces,
		Tracked: s.Mode != rules.ModeNotrack, To: s.To, Backend: firewall.Origin(o.backend),
	}
	if s.Hook == rules.Input {
		v.Hook = firewall.Input
	}
	return v
}

// view returns a service as the host's rules see it.
func (o outlook) view(s Service) firewall.Service {
	v := o.plain(s)
	if s.Published {
		v.To = o.translation(s, firewall.Prerouting).to
	}
	if !v.To.IsValid() {
		return v
	}
	route := o.routes.to(v.To.Addr())
	switch {
	case route.Err != nil || route.Interface == "":
	case route.Local:
		v.ToLocal = true
	default:
		v.Out = []string{route.Interface}
		if len(v.Interfaces) == 0 {
			v.Interfaces = o.allBut(route.Interface)
		}
	}
	return v
}

// allBut lists the interfaces that clients of a server may come in by which is
// behind the given one.
func (o outlook) allBut(server string) []string {
	names, known := o.others[server]
	if known {
		return names
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range all {
		if i.Name != server && i.Name != "lo" {
			names = append(names, i.Name)
		}
	}
	o.others[server] = names
	return names
}

// translation is where rules lead connections.
type translation struct {
	to      netip.AddrPort // not valid: to this machine, or who knows
	rule    *firewall.Rule // nil: no rule does
	certain bool
}

// translation returns where the host's own rules lead connections to a service:
// of clients at PREROUTING, of the proxy at OUTPUT.
func (o outlook) translation(s Service, at firewall.Hook) translation {
	return once(o, subject{what: "translation", at: at, port: s.Port}, &s, func() (t translation) {
		p := firewall.Packet{
			Hook: at, In: s.Interfaces, Destination: s.Destination, DestinationPort: s.Port, DestinationLocal: s.Hook == rules.Input,
			Flags: rules.SYN, States: rules.New, Made: at == firewall.Output,
		}
		t.to, t.rule, t.certain = o.Translation(p)
		if at == firewall.Prerouting && t.to.IsValid() && !t.certain && len(p.In) == 0 {
			// Docker's rules leave out what comes in by the server's own interface.
			if route := o.routes.to(t.to.Addr()); route.Err == nil && !route.Local && route.Interface != "" {
				p.In = o.allBut(route.Interface)
				t.to, t.rule, t.certain = o.Translation(p)
			}
		}
		return t
	})
}

// modes fills in the modes that nobody has asked for. Where the host's rules
// say nothing about who may reach a service its SYNs need not be tracked.
func (o outlook) modes(services []Service) {
	for i := range services {
		s := &services[i]
		switch {
		case s.Mode != "":
		case s.Translated():
			s.Mode = rules.ModeNotrack
		default:
			s.Mode = once(o, subject{what: "mode"}, s, func() rules.Mode { return o.best(*s) })
		}
	}
}

// best returns the mode that suits the host's own rules: with SYNs that are not
// tracked only if each of them surely passes, whether it is or not.
func (o outlook) best(s Service) rules.Mode {
	s.Mode = rules.ModeNotrack
	v := o.view(s)
	if _, restricted := o.Restricts(v); restricted {
		return rules.ModeTracked
	}
	untracked := firewall.Packet{
		Hook: v.Hook, In: v.Interfaces, Destination: v.Destination, DestinationPort: v.Port, DestinationLocal: v.Hook == firewall.Input,
		Flags: rules.SYN, States: rules.Untracked,
	}
	if o.Fate(untracked, firewall.Everything).Outcome != firewall.Accepted {
		return rules.ModeTracked
	}
	return rules.ModeNotrack
}

// findings tells what of the host's own rules breaks or weakens the protection,
// the worst first.
func (o outlook) findings(services []Service) []Finding {
	var t tally
	for i := range services {
		s := &services[i]
		t.next()
		for _, told := range once(o, subject{what: "findings"}, s, func() []told { return o.of(*s) }) {
			t.add(told.finding, told.about)
		}
	}
	return t.findings()
}

// told is a finding, and the rule that it is about.
type told struct {
	finding Finding
	about   string
}

// of returns what is to be told of one service.
func (o outlook) of(s Service) []told {
	var list []told
	for _, b := range o.Blockers(o.view(s)) {
		severity := map[firewall.Severity]Severity{firewall.Fatal: Bad, firewall.Warning: Warn, firewall.Info: Info}[b.Severity]
		list = append(list, told{finding(severity, b.Code, b.Hint, "%s: %s: %s", s, b.Message, b.Rule), b.Rule})
	}
	if f, by, ok := o.hidden(s); ok {
		list = append(list, told{f, by})
	}
	return list
}

// hidden finds rules of the host that would not be heeded: its filters see
// nothing of the clients of a service whose SYNs are answered before them. By is
// the rule in question.
func (o outlook) hidden(s Service) (f Finding, by string, found bool) {
	if s.Published {
		if t := o.translation(s, firewall.Prerouting); !t.to.IsValid() || !t.certain {
			return finding(Bad, "not-published", "publish it again, or give its place with --to and apply",
				"%s: the host's rules do not lead it to one server any more", s), "", true
		}
		if !o.translation(s, firewall.Output).certain {
			return finding(Bad, "not-published", "give its place with --to and apply",
				"%s: the host's rules translate the clients' connections, but not surely those that the proxy opens", s), "output", true
		}
	}
	if s.To.IsValid() {
		// Whom the host's own translation leaves out, it keeps out.
		if t := o.translation(s, firewall.Prerouting); t.rule != nil && !t.certain {
			return accessList(s, t.rule.String()), t.rule.String(), true
		}
	}
	if s.Mode != rules.ModeNotrack {
		return f, "", false
	}
	fate, restricted := o.Restricts(o.view(s))
	if !restricted {
		return f, "", false
	}
	by = "a rule of the host"
	if len(fate.By) > 0 {
		by = fate.By[0].String()
	}
	if s.Translated() {
		return accessList(s, by), by, true
	}
	return finding(Warn, "mode", "apply with --mode auto or tracked", "%s: SYNs are not tracked, and a rule of the host may deny them for that, or count on it: %s", s, by), by, true
}

// accessList tells of a rule that decides who may reach a translated service.
func accessList(s Service, by string) Finding {
	return finding(Bad, "access-list", "deny in the raw table, as in: iptables -t raw -A PREROUTING -s SOURCE -j DROP; or protect the server itself, without its translation",
		"%s: who may reach it is decided by rules that SYNPROXY's clients never meet, since SYNs to a translated address are answered before them: %s", s, by)
}

// refuse returns an error if a finding is fatal.
func refuse(found []Finding) error {
	var faults []error
	hint := ""
	for _, f := range found {
		if f.Severity == Bad {
			faults = append(faults, errors.New(f.Message))
			if hint == "" {
				hint = f.Hint
			}
		}
	}
	if faults == nil {
		return nil
	}
	return Errorf(Conflict, hint+"; synproxyctl doctor tells more, --force applies all the same", "%w", errors.Join(faults...))
}
