package protect

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// Order is what [Host.Apply] is asked for.
type Order struct {
	Services []Service // all that shall be protected; what is not among them goes
	Backend  string    // the name of a backend; empty or "auto": the one that fits
	DryRun   bool      // only tell what would be done
	NoVerify bool      // do not read the rules back
	Findings []Finding // of [Resolve], to be told with the others
}

// plan is everything that an apply will do, found before the first change.
type plan struct {
	backend rules.Backend
	reason  string
	have    rules.Ruleset
	want    rules.Ruleset
	steps   []rules.Step
	base    []rules.BaseChain // that the backend had before this attempt
	others  []held            // other backends that hold rules of ours
	sysctls []sysctl.Change   // settings that are not as needed
	old     *record           // nil: not applied before
	new     *record
}

// Apply leads the namespace to protect exactly the ordered services. If it
// fails or ctx ends, everything is as it was before; an error whose code is
// [Stuck] says what is not.
func (h *Host) Apply(ctx context.Context, o Order) (*Applied, error) {
	if err := checkOrder(o); err != nil {
		return nil, err
	}
	if err := CanChange(); err != nil {
		return nil, err
	}
	s, err := h.open()
	if err != nil {
		return nil, err
	}
	if !o.DryRun {
		release, err := h.lock(ctx, s)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	o.Services = slices.SortedFunc(slices.Values(o.Services), Service.compare)
	p, err := h.plan(ctx, s, o)
	if err != nil {
		return nil, err
	}
	done := p.outcome(o)
	if o.DryRun {
		return done, nil
	}
	if p.same() && o.NoVerify {
		return done, nil
	}
	found, err := h.execute(ctx, s, p, o.NoVerify)
	if err != nil {
		return nil, err
	}
	done.Findings, done.Verified = append(done.Findings, found...), !o.NoVerify
	return done, nil
}

func checkOrder(o Order) error {
	if len(o.Services) == 0 {
		return Errorf(Usage, "name at least one target; to take the protection away use revert", "nothing to protect")
	}
	if err := policyOf(o.Services).Validate(); err != nil {
		return Errorf(Usage, "correct the service that is named", "%w", err)
	}
	return nil
}

// changes reports whether the kernel has to be changed.
func (p *plan) changes() bool { return len(p.steps) > 0 || len(p.others) > 0 || len(p.sysctls) > 0 }

// same reports whether nothing has to be done, not even to the record.
func (p *plan) same() bool {
	return !p.changes() && p.old != nil && p.old.Backend == p.new.Backend && reflect.DeepEqual(p.old.Services, p.new.Services)
}

func (h *Host) plan(ctx context.Context, s store, o Order) (*plan, error) {
	p := &plan{want: policyOf(o.Services).Ruleset()}
	var err error
	if p.old, err = s.load(); err != nil {
		return nil, err
	}
	if err := h.chooseBackend(ctx, p, o.Backend); err != nil {
		return nil, err
	}
	if err := conflicts(rules.Compare(p.have, p.want)); err != nil {
		return nil, err
	}
	p.steps = rules.Plan(p.have, p.want)
	if p.sysctls, err = h.planSysctls(); err != nil {
		return nil, err
	}
	return p, p.nextRecord(ctx, o.Services)
}

// conflicts returns an error if somebody else's rules refer to our chains.
func conflicts(ds []rules.Difference) error {
	for _, d := range ds {
		if d.Fault == rules.ForeignJump {
			return Errorf(Conflict, "remove that rule, or let it jump elsewhere; chains named "+rules.ChainPrefix+"* belong to synproxyctl", "%s", d)
		}
	}
	return nil
}

// chooseBackend finds which backend to use, and what each of them holds.
func (h *Host) chooseBackend(ctx context.Context, p *plan, name string) error {
	all, err := h.survey(ctx)
	if err != nil {
		return err
	}
	ask := name
	switch {
	case name != "" && name != "auto":
		p.reason = "asked for"
	case p.old != nil:
		ask, p.reason = p.old.Backend, "it holds the protection now"
	default:
		b, why, err := rules.Choose(ctx)
		if err != nil {
			return err
		}
		ask, p.reason = b.Name(), why
	}
	if p.old != nil {
		if _, err := find(all, p.old.Backend); err != nil {
			return err
		}
	}
	mine, err := find(all, ask)
	if err != nil {
		return err
	}
	p.backend, p.have = mine.backend, mine.rules
	for _, one := range all {
		if one.backend.Name() != ask && !one.rules.Empty() {
			p.others = append(p.others, one)
		}
	}
	return nil
}

// nextRecord prepares the undo record that will hold when all is done.
func (p *plan) nextRecord(ctx context.Context, services []Service) error {
	p.new = &record{Backend: p.backend.Name(), Services: services, Written: time.Now().UTC().Truncate(time.Second)}
	if p.old != nil {
		p.new.Sysctls = slices.Clone(p.old.Sysctls)
		p.new.Base, p.new.Unknown = p.old.Base, p.old.Unknown
	} else {
		p.new.Unknown = !p.have.Empty() || len(p.others) > 0
	}
	for _, c := range p.sysctls {
		// The latest value that was not ours is the one to give back.
		i := slices.IndexFunc(p.new.Sysctls, func(o sysctl.Change) bool { return o.Key == c.Key })
		if i < 0 {
			p.new.Sysctls = append(p.new.Sysctls, c)
		} else {
			p.new.Sysctls[i] = c
		}
	}
	var err error
	if p.base, err = p.backend.BaseChains(ctx); err != nil {
		return err
	}
	if p.new.Base == nil {
		p.new.Base = p.base
	}
	return nil
}

// execute does what was planned, in the order that is safe for packets: the
// record, settings, then the rules; then it reads everything back. Any failure
// undoes what was begun.
func (h *Host) execute(ctx context.Context, s store, p *plan, noVerify bool) ([]Finding, error) {
	var u undo
	fail := func(err error) ([]Finding, error) { return nil, u.rollback(ctx, err) }
	if !p.same() {
		if err := h.change(ctx, s, p, &u); err != nil {
			return fail(err)
		}
	}
	if noVerify {
		return nil, nil
	}
	have, err := p.backend.List(ctx)
	if err != nil {
		return fail(err)
	}
	found, err := h.compare(p.new, have)
	if err != nil {
		return fail(err)
	}
	for _, f := range found {
		if f.Severity == Bad {
			return fail(fmt.Errorf("the kernel does not hold what was written: %s", f.Message))
		}
	}
	return found, nil
}

// change makes the planned changes and notes in u how to undo them.
func (h *Host) change(ctx context.Context, s store, p *plan, u *undo) error {
	u.record = func() error { return s.put(p.old) }
	if err := s.save(p.new); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	made, err := h.Sysctl.Apply(p.sysctls)
	u.push("kernel settings", func(context.Context) error {
		_, err := h.Sysctl.Restore(made)
		return err
	})
	if err != nil {
		return fmt.Errorf("kernel settings: %w", err)
	}
	u.push("rules of "+p.backend.Name(), func(ctx context.Context) error {
		if err := reach(ctx, p.backend, p.have); err != nil {
			return err
		}
		return p.backend.Prune(ctx, p.base)
	})
	if err := reach(ctx, p.backend, p.want); err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	// What another backend held goes only now: two proxies in a row do no
	// harm to a packet, none at all would.
	for _, o := range p.others {
		u.push("rules of "+o.backend.Name(), func(ctx context.Context) error { return reach(ctx, o.backend, o.rules) })
		if err := reach(ctx, o.backend, rules.Ruleset{}); err != nil {
			return fmt.Errorf("rules: %w", err)
		}
		if p.new.Base == nil {
			continue // the record is lost, and which tables were there before us
		}
		if err := o.backend.Prune(ctx, p.new.Base); err != nil {
			return err
		}
	}
	return nil
}
