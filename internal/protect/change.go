package protect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

const (
	// cookieFlight is how long a cookie may be on its way: a client's round trip
	// and one repetition of a lost packet.
	cookieFlight = 1500 * time.Millisecond
	// handshakeFlight is how long a handshake that began before SYNs were
	// answered is left alone.
	handshakeFlight = 600 * time.Millisecond
)

// execute does what was planned, in the order that is safe for packets: the
// record, settings, then the rules; then it reads everything back. Any failure
// undoes what was begun.
func (h *Host) execute(ctx context.Context, s store, p *plan, o Order) ([]Finding, error) {
	var u undo
	fail := func(err error) ([]Finding, error) { return nil, u.rollback(ctx, err) }
	var found []Finding
	if !p.same() {
		fs, err := h.change(ctx, s, p, &u)
		if err != nil {
			return fail(err)
		}
		found = fs
	}
	if !o.NoVerify {
		differs, err := h.readBack(ctx, p)
		if err != nil {
			return fail(err)
		}
		found = append(found, differs...)
	}
	if p.same() {
		return found, nil
	}
	p.new.Unfinished = false
	if p.new.Pending != nil {
		p.new.Pending.Deadline = time.Now().Add(o.Try)
	}
	if err := s.save(p.new); err != nil {
		return fail(err)
	}
	return found, nil
}

// readBack compares the kernel with what was written to it.
func (h *Host) readBack(ctx context.Context, p *plan) ([]Finding, error) {
	have := p.have // read a moment ago
	if !p.same() {
		var err error
		if have, err = p.backend.List(ctx); err != nil {
			return nil, err
		}
	}
	differs, err := h.compare(p.new, have)
	if err != nil {
		return nil, err
	}
	if err := h.routes.ask(ctx, p.new.Services); err != nil {
		return nil, err
	}
	differs = append(differs, places(p.new.Services, &h.routes)...)
	for _, f := range differs {
		if f.Severity == Bad {
			return nil, fmt.Errorf("the kernel does not hold what was written: %s", f.Message)
		}
	}
	return differs, nil
}

// change makes the planned changes and notes in u how to undo them.
func (h *Host) change(ctx context.Context, s store, p *plan, u *undo) ([]Finding, error) {
	if err := s.save(p.new); err != nil {
		return nil, err // the old one is still there
	}
	u.record = func() error { return s.put(p.old) }
	if err := h.step(ctx, "record"); err != nil {
		return nil, err
	}
	before, _ := kernel.ReadSynproxyStats() // absent: nothing was answered yet
	retreat := func(ctx context.Context) error { return h.retreat(ctx, s, p, u, before) }
	found, err := h.warmUp(ctx, s, p, u, retreat)
	if err != nil {
		return nil, err
	}
	made, err := h.Sysctl.Apply(p.sysctls)
	u.push("kernel settings", func(context.Context) error {
		_, err := h.Sysctl.Restore(made)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kernel settings: %w", err)
	}
	if err := h.step(ctx, "settings"); err != nil {
		return nil, err
	}
	u.push("rules of "+p.backend.Name(), retreat)
	// What goes is closed first, so that no cookie on its way is lost; if no SYN
	// was ever answered, there is none.
	closes := p.closes()
	first, quiet := p.via, closes && !anyAnswered()
	if quiet {
		first = p.want
	}
	from := &p.have
	if !p.earlier.Tracked {
		from = nil // the warm-up has changed it
	}
	if err := h.reachFrom(ctx, p.backend, from, first); err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	switched := time.Now()
	if err := h.removeOthers(ctx, p, u); err != nil {
		return nil, err
	}
	stale, err := h.forgetStale(ctx, p, switched)
	if err != nil {
		return nil, err
	}
	found = append(found, stale...)
	if closes && (!quiet || anyAnswered()) {
		if quiet { // the first one came just now; its cookie takes a round trip
			if err := h.reachFrom(ctx, p.backend, &p.want, p.via); err != nil {
				return nil, fmt.Errorf("rules: %w", err)
			}
		}
		if err := h.letCookiesLand(ctx, switched, "changing"); err != nil {
			return nil, err
		}
		if err := h.reachFrom(ctx, p.backend, &p.via, p.want); err != nil {
			return nil, fmt.Errorf("rules: %w", err)
		}
	}
	return found, h.step(ctx, "changed")
}

// removeOthers takes away what another backend held. That goes only after ours
// stands: two proxies in a row do no harm to a packet, none at all would.
func (h *Host) removeOthers(ctx context.Context, p *plan, u *undo) error {
	for _, o := range p.others {
		u.push("rules of "+o.backend.Name(), func(ctx context.Context) error { return h.reach(ctx, o.backend, o.rules) })
		if err := h.reach(ctx, o.backend, rules.Ruleset{}); err != nil {
			return fmt.Errorf("rules: %w", err)
		}
	}
	moved := len(p.others) > 0 || p.old != nil && p.old.Unfinished
	if !moved || p.new.Base == nil || p.backend.Name() == rules.NFT { // without Base the record is lost, and which tables were there before us
		return nil
	}
	b, err := rules.Find(rules.NFT)
	if err != nil {
		return nil //nolint:nilerr // without its programs, what is left of its tables is empty
	}
	return b.Prune(ctx, p.new.Base)
}

// retreat leads the rules back to where the plan began, without losing the
// connections that the proxy has opened meanwhile.
func (h *Host) retreat(ctx context.Context, s store, p *plan, u *undo, before kernel.SynproxyStats) error {
	ctx = context.WithoutCancel(ctx)
	back := p.have
	now, err := kernel.ReadSynproxyStats()
	if answered := err == nil && now.Since(before).SYNReceived > 0; answered {
		closing := p.new.policy().Close(p.old.policy())
		closing.Services = nil
		if err := h.reach(ctx, p.backend, p.have.With(closing.Ruleset(p.backend.Name()))); err != nil {
			return err
		}
		if err := h.letCookiesLand(ctx, time.Now(), "going back"); err != nil {
			return err
		}
		alive, err := kernel.AliveProxied(ctx, nil)
		if err != nil || alive > 0 {
			// What is alive needs the anchor; a revert waits for its end.
			back = p.have.With(rules.Policy{Anchors: p.new.Families}.Ruleset(p.backend.Name()))
			u.record = func() error { return s.put(p.keepAnchors()) }
			if p.old == nil {
				u.draining = max(alive, 1)
			}
		}
	}
	if err := h.reach(ctx, p.backend, back); err != nil {
		return err
	}
	return p.backend.Prune(ctx, p.base)
}

// keepAnchors returns the record of a rollback that left connections to drain.
func (p *plan) keepAnchors() *record {
	if p.old == nil {
		rec := *p.new
		rec.Draining, rec.Pending, rec.Sysctls = true, nil, nil
		rec.Unfinished, rec.Unwatched, rec.Warming = false, false, false
		return &rec
	}
	rec := *p.old
	rec.Families = p.new.Families
	return &rec
}

// anyAnswered reports whether a SYN was ever answered here; if nobody knows, yes.
func anyAnswered() bool {
	stats, err := kernel.ReadSynproxyStats()
	return err != nil || stats.SYNReceived > 0
}

// letCookiesLand waits until the cookies that were on their way at a time have
// come back or never will. If no SYN was ever answered there are none.
func (h *Host) letCookiesLand(ctx context.Context, since time.Time, phase string) error {
	if !anyAnswered() {
		return nil
	}
	return h.wait(ctx, phase, time.Until(since.Add(cookieFlight)))
}

// wait waits, shows the seconds that are left, and heeds ctx.
func (h *Host) wait(ctx context.Context, phase string, d time.Duration) error {
	end := time.Now().Add(d)
	for {
		left := time.Until(end)
		total := int((d + time.Second - 1).Seconds())
		if left <= 0 {
			h.progress(phase, total, total)
			return context.Cause(ctx)
		}
		h.progress(phase, total-int((left+time.Second-1).Seconds()), total)
		timer := time.NewTimer(min(left, time.Second))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// step is called after each effect, and tells whether to go on.
func (h *Host) step(ctx context.Context, name string) error {
	if h.Checkpoint != nil {
		h.Checkpoint(name)
	}
	return context.Cause(ctx)
}

func (h *Host) progress(phase string, done, total int) {
	if h.Progress != nil {
		h.Progress(phase, done, total)
	}
}

// reach leads the kernel's rules to a rule set, step by step, planning anew if
// somebody else changed them meanwhile. Between two steps it heeds ctx.
func (h *Host) reach(ctx context.Context, b rules.Backend, want rules.Ruleset) error {
	return h.reachFrom(ctx, b, nil, want)
}

// reachFrom is reach from what is known to be there; nil: unknown. Large sets
// take long to read. Rules that are changed by their positions are read all the
// same, so that the time in which others may change them is short.
func (h *Host) reachFrom(ctx context.Context, b rules.Backend, from *rules.Ruleset, want rules.Ruleset) error {
	const attempts = 3
	var err error
	for i := range attempts {
		var steps []rules.Step
		known := i == 0 && from != nil
		if known {
			steps = rules.Plan(*from, want)
			known = !slices.ContainsFunc(steps, rules.Step.Positional)
		}
		if !known {
			var have rules.Ruleset
			if have, err = b.List(ctx); err != nil {
				return err
			}
			steps = rules.Plan(have, want)
		}
		err = nil
		for _, step := range steps {
			if err = context.Cause(ctx); err == nil {
				err = b.Apply(ctx, step)
			}
			if err == nil {
				err = h.step(ctx, fmt.Sprintf("rules %s %s", step.Family, step.Table))
			}
			if err != nil {
				break
			}
		}
		if !errors.Is(err, rules.ErrChanged) {
			return err
		}
	}
	return err
}

// reapply sets again what was given back.
func (h *Host) reapply(outcomes []sysctl.Outcome) error {
	var back []sysctl.Change
	for _, o := range outcomes {
		if o.State == sysctl.Restored {
			back = append(back, o.Change)
		}
	}
	_, err := h.Sysctl.Apply(back)
	return err
}
