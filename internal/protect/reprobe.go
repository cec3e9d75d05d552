package protect

import (
	"context"
	"fmt"

	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Answer is what the backend of a service said when it was asked again.
type Answer struct {
	Service Service // as the rules have it
	Result  probe.Result
	// Options and SynCookies are what the rules should have by this answer: like
	// those of an apply, within the MTU of the interfaces and with what a person
	// has given. They mean nothing unless the verdict is [probe.Direct].
	Options    rules.Options
	SynCookies bool
	through    string // the interface that was named in the question
}

// Follows reports whether the options are the backend's own, so that the rules
// may follow it: those of other services a person has given.
func (s *Service) Follows() bool { return s.Source == Probed || s.Source == Cached }

// Reprobe asks the backends of services again, in the way in which an apply
// does, but not who speaks first. Services that have nobody to ask are left out.
// The order of the answers is that of the services as far as they are asked in
// the same way.
func Reprobe(ctx context.Context, cfg probe.Config, services []Service) ([]Answer, error) {
	cfg.Connect = false
	var order []string // interfaces
	groups, doors := map[string][]int{}, doors{}
	total := 0
	for i := range services {
		s := &services[i]
		if !s.ProbeAt.IsValid() {
			continue
		}
		name := doors.of(s.Hook, s.Interfaces)
		if groups[name] == nil {
			order = append(order, name)
		}
		groups[name] = append(groups[name], i)
		total++
	}
	answers, narrow := make([]Answer, 0, total), mtus{}
	for _, name := range order {
		cfg.Interface = name
		targets := make([]probe.Target, len(groups[name]))
		for k, i := range groups[name] {
			targets[k] = probe.Target{Name: services[i].String(), Addr: services[i].ProbeAt}
		}
		results, err := probe.Probe(ctx, cfg, targets)
		if err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
		for k, i := range groups[name] {
			answers = append(answers, services[i].heard(results[k], name, narrow))
		}
	}
	return answers, nil
}

// heard makes an answer of a result.
func (s *Service) heard(r probe.Result, through string, narrow mtus) Answer {
	as := *s
	as.Options = rules.Options(r.Options)
	limitMSS(&as, narrow)
	s.Fixed.keep(s.Options, &as.Options)
	as.SynCookies = r.SYNCookies
	if as.ThirdACK() == s.ThirdACK() {
		as.SynCookies = s.SynCookies // makes no difference to the rules
	}
	return Answer{*s, r, as.Options, as.SynCookies, through}
}

// Probe asks the backends again and adds a finding for each whose options are
// no longer those that the rules announce. Services whose options were given
// are asked too, but a difference is then only told, not held to be wrong.
func (v *Verified) Probe(ctx context.Context, cfg probe.Config) error {
	answers, err := Reprobe(ctx, cfg, v.services)
	if err != nil {
		return err
	}
	for i := range answers {
		v.Findings = append(v.Findings, answers[i].drift()...)
	}
	v.OK = !bad(v.Findings)
	v.probed = summed(answers)
	v.note(ctx)
	return nil
}

// direct reports whether the backend has answered.
func (a *Answer) direct() bool { return a.Result.Verdict == probe.Direct }

// drift compares an answer with what the rules announce.
func (a *Answer) drift() []Finding {
	s := &a.Service
	severity := Bad
	if !s.Follows() {
		severity = Warn
	}
	if !a.direct() {
		return []Finding{finding(severity, "backend-"+string(a.Result.Verdict), "look after the server; the rules stay as they are", "%s: the backend's answer is %s", s, a.Result.Verdict)}
	}
	want, have := probe.Options(s.Options).IPTables(), probe.Options(a.Options).IPTables()
	if want == have {
		return nil
	}
	return []Finding{finding(severity, "options-drift", "run synproxyctl apply again",
		"%s: the backend answers %q, the rules announce %q", s, have, want)}
}
