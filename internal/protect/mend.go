package protect

import (
	"context"
	"net/netip"
	"time"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Mending is what [Host.Mend] is asked for.
type Mending struct {
	Renewed []Renewed      // services whose backends have other options now; may be empty
	Force   bool           // even if the host's own rules or settings stand in the way
	Warmup  *time.Duration // as in [Order]
}

// Renewed is a service whose rules shall announce something else.
type Renewed struct {
	Was        Service // as it was when its backend was asked
	Options    rules.Options
	SynCookies bool
}

// Mend leads the kernel back to what the record says, with the sequence of an
// apply. What others have changed in the record since is not overridden. The
// error is [NotApplied] if a person wants it otherwise: nothing is applied, it
// drains, or a change is on trial.
func (h *Host) Mend(ctx context.Context, m Mending) (*Applied, error) {
	s, release, err := h.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	rec, err := s.standing()
	if err != nil {
		return nil, err
	}
	renew(rec.Services, m.Renewed)
	return h.apply(ctx, s, Order{Services: rec.Services, Backend: rec.Backend, Force: m.Force, Warmup: m.Warmup})
}

// standing returns the record of what is applied and shall be. The error is
// [NotApplied] if a person wants it otherwise.
func (s store) standing() (*record, error) {
	rec, err := s.load()
	switch {
	case err != nil:
		return nil, err
	case rec == nil:
		return nil, Errorf(NotApplied, "use synproxyctl apply", "%w", errNoRecord)
	case rec.Draining:
		return nil, Errorf(NotApplied, "apply again to protect the services", "the protection was taken away; connections drain")
	case rec.Pending != nil:
		return nil, Errorf(NotApplied, "confirm it, or let it go back", "a change is on trial")
	}
	return rec, nil
}

// renew puts the new options into services that are still as they were.
func renew(services []Service, renewed []Renewed) {
	type place struct {
		at   netip.Prefix
		port uint16
	}
	by := make(map[place]*Renewed, len(renewed))
	for i := range renewed {
		w := &renewed[i].Was
		by[place{w.Destination, w.Port}] = &renewed[i]
	}
	for i := range services {
		s := &services[i]
		r := by[place{s.Destination, s.Port}]
		if r == nil || !s.Follows() || !s.equal(r.Was) {
			continue
		}
		s.Options, s.SynCookies = r.Options, r.SynCookies
		s.Source, s.ProbedAt = Probed, time.Time{}
	}
}

// Mendable reports whether an apply of the same services again can mend what was
// found: it is ours, and nobody but us has to act first.
func (f *Finding) Mendable() bool {
	if f.Severity != Bad {
		return false
	}
	switch rules.Fault(f.Code) {
	case rules.RuleMissing, rules.RuleExtra, rules.RuleOrder, rules.JumpMissing, rules.JumpNotFirst, rules.JumpExtra, rules.ChainLeftOver,
		rules.SetMissing, rules.SetLeftOver, rules.MemberMissing, rules.MemberExtra,
		codeSysctl, codeCutShort, codeTwoBackends:
		return true
	}
	return false
}
