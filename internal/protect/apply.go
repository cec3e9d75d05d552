package protect

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// Order is what [Host.Apply] is asked for.
type Order struct {
	Services []Service // all that shall be protected; what is not among them goes
	Backend  string    // the name of a backend; empty or "auto": the one that fits; or [AnyIPTables]
	DryRun   bool      // only tell what would be done
	NoVerify bool      // do not read the rules back
	Force    bool      // even if the host's own rules or settings stand in the way
	Findings []Finding // of [Resolve], to be told with the others
	// Warmup is how long conntrack shall watch before it judges, if it was not
	// watching before; nil: a time that fits the services.
	Warmup *time.Duration
	// Try is how long the change shall stand unless it is confirmed; 0: for good.
	Try time.Duration
	// Guard starts what calls [Host.Await] with the given name when the time
	// of a try is over, and outlives the caller. It is needed for a Try. What it
	// returns stops it, if the change fails.
	Guard func(name string) (stop func(), err error)
	// Anew is set if something must be applied already, and not on trial: else
	// the error is [NotApplied], as in [Host.Mend].
	Anew bool
}

// AnyIPTables is the variant of iptables that fits.
const AnyIPTables = "iptables"

// plan is everything that an apply will do, found before the first change.
type plan struct {
	backend rules.Backend
	reason  string
	have    rules.Ruleset
	via     rules.Ruleset // want, and what may not yet go
	want    rules.Ruleset
	steps   []rules.Step
	base    []rules.BaseChain // that the backend had before this attempt
	others  []held            // other backends that hold rules of ours
	sysctls []sysctl.Change   // settings that are not as needed
	old     *record           // nil: not applied before
	new     *record

	earlier  Earlier
	findings []Finding // of what stands in the way
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
	if o.Anew {
		if _, err := s.standing(); err != nil {
			return nil, err
		}
	}
	return h.apply(ctx, s, o)
}

// apply is [Host.Apply] under the lock.
func (h *Host) apply(ctx context.Context, s store, o Order) (*Applied, error) {
	o.Services = slices.Clone(o.Services)
	sortServices(o.Services)
	p, err := h.plan(ctx, s, o)
	if err != nil {
		return nil, err
	}
	done := p.outcome(o)
	if h.Announce != nil && !o.DryRun {
		h.Announce(p.earlier.findings())
	}
	if o.DryRun {
		return done, nil
	}
	if p.same() && o.NoVerify {
		return done, nil
	}
	stop := func() {}
	if p.new.Pending != nil {
		// Before the first change, so that none is ever without it.
		if stop, err = o.Guard(p.new.Pending.Name); err != nil {
			return nil, fmt.Errorf("the guard of the try cannot be started: %w", err)
		}
	}
	found, err := h.execute(ctx, s, p, o)
	if err != nil {
		stop()
		return nil, err
	}
	done.Pending = p.new.Pending.view()
	done.Findings, done.Verified = append(done.Findings, found...), !o.NoVerify
	done.Connections = p.earlier
	return done, nil
}

func checkOrder(o Order) error {
	if len(o.Services) == 0 {
		return Errorf(Usage, "name at least one target; to take the protection away use revert", "nothing to protect")
	}
	if err := validate(o.Services); err != nil {
		return Errorf(Usage, "correct the service that is named", "%w", err)
	}
	return nil
}

// changes reports whether the kernel has to be changed.
func (p *plan) changes() bool { return len(p.steps) > 0 || len(p.others) > 0 || len(p.sysctls) > 0 }

// same reports whether nothing has to be done, not even to the record.
func (p *plan) same() bool {
	return !p.changes() && p.old != nil && p.old.Backend == p.new.Backend && slices.EqualFunc(p.old.Services, p.new.Services, Service.equal) &&
		!p.old.Draining && !p.old.Unfinished && p.old.Pending == nil && p.new.Pending == nil
}

// closes reports whether services go whose cookies may be on their way.
func (p *plan) closes() bool { return len(rules.Compare(p.via, p.want)) > 0 }

func (h *Host) plan(ctx context.Context, s store, o Order) (*plan, error) {
	p := &plan{}
	var err error
	if p.old, err = s.load(); err != nil {
		return nil, err
	}
	if err := h.chooseBackend(ctx, p, o.Backend, o.Services); err != nil {
		return nil, err
	}
	if p.findings, err = h.foresee(ctx, p.backend.Name(), o); err != nil {
		return nil, err
	}
	families := familiesOf(o.Services, p.old)
	next := policyOf(o.Services)
	next.Anchors, next.Window = families, rules.CanOpenWindow(ctx)
	p.want = next.Ruleset(p.backend.Name())
	p.via = p.want
	if next.Closing = p.old.closing(o.Services); len(next.Closing) > 0 {
		p.via = next.Ruleset(p.backend.Name())
	}
	if err := conflicts(p.backend.Name(), rules.Compare(p.have, p.want), false); err != nil {
		return nil, err
	}
	p.steps = rules.Plan(p.have, p.want)
	if p.sysctls, err = h.planSysctls(); err != nil {
		return nil, err
	}
	if err := p.nextRecord(ctx, o); err != nil {
		return nil, err
	}
	p.new.Families, p.new.Window = families, next.Window
	if p.earlier, err = h.connections(ctx, p, o); err != nil {
		return nil, err
	}
	return p, h.planWarmup(p)
}

// familiesOf lists the families of services and those that were protected
// before, of which proxied connections may be alive.
func familiesOf(services []Service, old *record) []rules.Family {
	var list []rules.Family
	for _, f := range rules.Families {
		if old != nil && slices.Contains(old.Families, f) || slices.ContainsFunc(services, func(s Service) bool { return s.Family() == f }) {
			list = append(list, f)
		}
	}
	return list
}

// planWarmup adds to the plan what only a warm-up needs.
func (h *Host) planWarmup(p *plan) error {
	if p.earlier.Tracked {
		return nil
	}
	p.new.Unwatched = true
	guards, err := h.guardSettings()
	if err != nil {
		return err
	}
	for _, c := range guards {
		p.sysctls = append(p.sysctls, c)
		p.note(c)
	}
	now, err := h.Sysctl.Get(loose)
	if err != nil {
		return fmt.Errorf("kernel settings: %w", err)
	}
	if now == "0" && p.earlier.Warmup > 0 && (p.old == nil || p.old.Warming) {
		p.new.Warming = true
		p.note(sysctl.Change{Key: loose, Before: "0", After: "0"})
	}
	return nil
}

// note puts a change into the new record. The latest value that was not ours is
// the one to give back.
func (p *plan) note(c sysctl.Change) {
	i := slices.IndexFunc(p.new.Sysctls, func(o sysctl.Change) bool { return o.Key == c.Key })
	switch {
	case i < 0:
		p.new.Sysctls = append(p.new.Sysctls, c)
	case p.old != nil && p.old.Warming && c.Key == loose: // the 1 is ours, of a warm-up that was cut short
	default:
		p.new.Sysctls[i] = c
	}
}

// foresee settles the modes of the services, and tells what of the host stands
// in their way; what is fatal is an error, unless it is forced.
func (h *Host) foresee(ctx context.Context, backend string, o Order) ([]Finding, error) {
	out, err := lookOut(ctx, backend, &h.routes)
	if err != nil {
		return nil, err
	}
	if err := out.routes.ask(ctx, o.Services); err != nil {
		return nil, err
	}
	out.modes(o.Services)
	found := out.findings(o.Services)
	more, err := h.environment(ctx, o.Services, out)
	if err != nil {
		return nil, err
	}
	found = append(found, more...)
	if o.Force {
		return found, nil
	}
	return found, refuse(found)
}

// conflicts returns an error if somebody else's rules refer to our chains, or
// somebody else's sets have names of ours.
func conflicts(backend string, ds []rules.Difference, removes bool) error {
	for _, d := range ds {
		if d.Fault == rules.SetForeign && (!removes || backend != rules.NFTables) { // the table goes as a whole
			return Errorf(Conflict, removeSet(backend, d), "%s", d)
		}
		if d.Fault == rules.ForeignJump {
			return Errorf(Conflict, "remove that rule, or let it jump elsewhere; chains named "+rules.ChainPrefix+"* belong to synproxyctl", "%s", d)
		}
	}
	return nil
}

// removeSet tells how to get rid of a set that is not of our making.
func removeSet(backend string, d rules.Difference) string {
	if backend != rules.NFTables {
		return "remove it: ipset destroy " + d.Set + "; sets named " + rules.SetPrefix + "* belong to synproxyctl"
	}
	table := map[rules.Family]string{rules.IPv4: "ip ", rules.IPv6: "ip6 "}[d.Rule.Family] + rules.SetPrefix
	return "remove it: nft delete set " + table + " " + d.Set + " (or delete map); all of that table belongs to synproxyctl"
}

// chooseBackend finds which backend to use, and what each of them holds.
func (h *Host) chooseBackend(ctx context.Context, p *plan, name string, services []Service) error {
	all, err := h.survey(ctx)
	if err != nil {
		return err
	}
	ask := name
	switch {
	case name != "" && name != "auto" && name != AnyIPTables:
		p.reason = "asked for"
	case p.old != nil && (name != AnyIPTables || p.old.Backend != rules.NFTables):
		ask, p.reason = p.old.Backend, "it holds the protection now"
	default:
		choose := rules.Choose
		if name == AnyIPTables {
			choose = rules.ChooseXtables
		}
		b, why, err := choose(ctx)
		if err == nil && b.Name() == rules.NFTables && slices.ContainsFunc(services, isIPv6) {
			// Without a program of iptables, most clients are better than none.
			if x, _, err := rules.ChooseXtables(ctx); err == nil {
				b, why = x, "a service is IPv6, of which nftables answers only what the network card has checked"
			}
		}
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
func (p *plan) nextRecord(ctx context.Context, o Order) error {
	p.new = &record{Backend: p.backend.Name(), Services: o.Services, Unfinished: true, Written: time.Now().UTC().Truncate(time.Second)}
	if o.Try > 0 {
		p.new.Pending = newPending(o.Try, p.old)
	}
	if p.old != nil {
		p.new.Sysctls = slices.Clone(p.old.Sysctls)
		p.new.Base, p.new.Unknown = p.old.Base, p.old.Unknown
	} else {
		p.new.Unknown = !p.have.Empty() || len(p.others) > 0
	}
	for _, c := range p.sysctls {
		p.note(c)
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
