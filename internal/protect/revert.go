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

// Reverted is the outcome of [Host.Revert].
type Reverted struct {
	Changed   bool      `json:"changed"`
	State     State     `json:"state"`     // [Absent], or [Draining] if connections are left
	Remaining int       `json:"remaining"` // proxied connections that are alive, or were when they were given up
	Findings  []Finding `json:"findings"`
}

// Removal tells how the protection shall go.
type Removal struct {
	// Now gives up the proxied connections that are alive.
	Now bool
	// Drain bounds the wait for their end; nil: none. When the time is over,
	// what they need stays, and a later revert goes on.
	Drain *time.Duration
}

// Revert takes the protection away: rules, tables that exist only because of
// them, and settings. It finds the rules by their names, so that it also works
// when the undo record is lost. Unless the caller gives them up, it waits for
// the proxied connections to end, and leaves until then what they need of the
// kernel.
//
// If it fails or ctx ends before the protection is off, it stands as before;
// later, the namespace stays [Draining], and a revert goes on from there.
func (h *Host) Revert(ctx context.Context, how Removal) (*Reverted, error) {
	s, release, err := h.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { release() }()
	rec, err := s.load()
	if err != nil {
		return nil, err
	}
	ours, err := h.holding(ctx, rec)
	if err != nil {
		return nil, err
	}
	r := &Reverted{State: Absent, Findings: []Finding{}, Changed: rec != nil || len(ours) > 0}
	if !r.Changed {
		return r, nil
	}
	if rec == nil || rec.Unknown {
		r.Findings = append(r.Findings, recordLost())
	}
	if rec == nil {
		rec = lostRecord(ours)
	}
	if how.Now {
		r.Remaining, err = kernel.AliveProxied(ctx, nil)
		if err != nil {
			r.Findings = append(r.Findings, finding(Warn, "connections-unknown", "", "proxied connections could not be counted: %v", err))
		} else if r.Remaining > 0 {
			r.Findings = append(r.Findings, finding(Info, "connections-given-up", "", "%d proxied connections are given up, as asked", r.Remaining))
		}
		if err := h.remove(ctx, s, rec, r); err != nil {
			return nil, err
		}
		return r, nil
	}
	if err := h.withdraw(ctx, s, rec, r); err != nil {
		return nil, err
	}
	// Others may change the namespace while connections end, which can take days.
	release()
	release = func() {}
	return r, h.drain(ctx, s, r, how.Drain)
}

// lostRecord stands for a record that is gone: of the services nothing is known.
func lostRecord(ours []held) *record {
	rec := &record{Backend: ours[0].backend.Name(), Unknown: true, Services: []Service{}, Written: time.Now().UTC().Truncate(time.Second)}
	for _, f := range rules.Families {
		if slices.ContainsFunc(ours, func(o held) bool { return o.rules.Uses(f) }) {
			rec.Families = append(rec.Families, f)
		}
	}
	return rec
}

// holding returns the backends that hold anything of ours.
func (h *Host) holding(ctx context.Context, rec *record) ([]held, error) {
	all, err := h.survey(ctx)
	if err != nil {
		return nil, err
	}
	if rec != nil {
		if _, err := find(all, rec.Backend); err != nil {
			return nil, err
		}
	}
	var ours []held
	for _, one := range all {
		if err := conflicts(one.backend.Name(), rules.Compare(one.rules, rules.Ruleset{}), true); err != nil {
			return nil, err
		}
		if !one.rules.Empty() {
			ours = append(ours, one)
		}
	}
	return ours, nil
}

// withdraw ends the protection and leaves what proxied connections need. The
// caller holds the lock.
func (h *Host) withdraw(ctx context.Context, s store, rec *record, r *Reverted) error {
	ours, err := h.holding(ctx, rec)
	if err != nil {
		return err
	}
	back := *rec
	var u undo
	fail := func(err error) error { return u.rollback(ctx, err) }
	next := *rec
	next.Draining, next.Pending = true, nil
	next.Unfinished, next.Unwatched, next.Warming = false, false, false
	if len(ours) > 0 && !slices.ContainsFunc(ours, func(o held) bool { return o.backend.Name() == rec.Backend }) {
		// A move to another backend was cut short before it began.
		next.Backend = ours[0].backend.Name()
	}
	if err := s.save(&next); err != nil {
		return err // the old one is still there
	}
	u.record = func() error {
		if back.Unknown && len(back.Services) == 0 {
			return s.put(nil)
		}
		return s.put(&back)
	}
	if err := h.step(ctx, "record"); err != nil {
		return fail(err)
	}
	if err := h.leaveAnchors(ctx, ours, &next, &u); err != nil {
		return fail(err)
	}
	if err := h.restore(ctx, rec, r, &u); err != nil {
		return fail(err)
	}
	next.Sysctls = nil
	if err := s.save(&next); err != nil {
		return fail(err)
	}
	r.State = Draining
	_ = h.step(ctx, "draining") // from here on, the end of ctx ends a wait
	return nil
}

// leaveAnchors takes everything away but the anchors of the record's backend,
// and that only when they stand and the cookies in flight have landed.
func (h *Host) leaveAnchors(ctx context.Context, ours []held, rec *record, u *undo) error {
	closing := rules.Policy{Closing: policyOf(rec.Services).Services, Anchors: rec.Families}
	anchored := rules.Policy{Anchors: rec.Families}
	closed := false
	now := make([]rules.Ruleset, len(ours))
	for i, o := range ours {
		now[i] = o.rules
		u.push("rules of "+o.backend.Name(), func(ctx context.Context) error { return h.reach(ctx, o.backend, o.rules) })
		if len(rules.Compare(o.rules, anchored.Ruleset(o.backend.Name()))) == 0 {
			continue
		}
		now[i] = closing.Ruleset(o.backend.Name())
		if err := h.reachFrom(ctx, o.backend, &o.rules, now[i]); err != nil {
			return fmt.Errorf("rules: %w", err)
		}
		closed = true
	}
	if closed {
		if err := h.letCookiesLand(ctx, time.Now(), "cookies in flight"); err != nil {
			return err
		}
	}
	for i, o := range ours {
		want := rules.Ruleset{}
		if o.backend.Name() == rec.Backend { // whose anchors stand by now
			want = anchored.Ruleset(rec.Backend)
		}
		if err := h.reachFrom(ctx, o.backend, &now[i], want); err != nil {
			return fmt.Errorf("rules: %w", err)
		}
	}
	return nil
}

// restore gives the settings back.
func (h *Host) restore(ctx context.Context, rec *record, r *Reverted, u *undo) error {
	outcomes, err := h.Sysctl.Restore(rec.Sysctls)
	u.push("kernel settings", func(context.Context) error { return h.reapply(outcomes) })
	if err != nil {
		return fmt.Errorf("kernel settings: %w", err)
	}
	for _, o := range outcomes {
		if o.State == sysctl.Foreign {
			r.Findings = append(r.Findings, finding(Info, "sysctl-foreign", "",
				"%s is %s: somebody else set it since, so it is left alone (before us it was %s)", o.Key, o.Now, o.Before))
		}
	}
	return h.step(ctx, "settings")
}

// drain waits for the end of the proxied connections and then removes what is
// left. It holds the lock only at the end.
func (h *Host) drain(ctx context.Context, s store, r *Reverted, limit *time.Duration) error {
	var timeout <-chan time.Time
	if limit != nil {
		timer := time.NewTimer(*limit)
		defer timer.Stop()
		timeout = timer.C
	}
	const patience = 20 // looks that fail, one after the other
	most, failures := 0, 0
	for {
		began := time.Now()
		done, err := h.drained(ctx, s, r)
		if err == nil {
			failures = 0
		}
		if failures++; done || err != nil && ctx.Err() == nil && failures > patience {
			return err
		}
		most = max(most, r.Remaining)
		h.progress("proxied connections ended", most-r.Remaining, most)
		// Looking through a large table takes a while; nobody waits for us.
		const shortest, longest, share = 250 * time.Millisecond, 10 * time.Second, 20
		pause := time.NewTimer(min(max(shortest, share*time.Since(began)), longest))
		select {
		case <-ctx.Done():
			pause.Stop()
			return Errorf(Interrupted, "they live on, nothing is proxied any more: run synproxyctl revert to go on waiting, or revert --now to give them up",
				"draining, with %s left: %w", count(r.Remaining, "proxied connection"), context.Cause(ctx))
		case <-timeout:
			pause.Stop()
			r.Findings = append(r.Findings, finding(Info, "draining", "run synproxyctl revert again to go on waiting, or revert --now to give them up",
				"%s alive; nothing is proxied any more, and what they need of the rules stays", count(r.Remaining, "proxied connection")))
			return nil
		case <-pause.C:
		}
	}
}

// drained looks whether connections are left, and if not, removes the rest. It
// is done as well if somebody else has ended the draining.
func (h *Host) drained(ctx context.Context, s store, r *Reverted) (done bool, err error) {
	if rec, err := s.load(); err != nil || rec == nil || !rec.Draining {
		return true, errors.Join(err, overtaken(rec, r))
	}
	if err := r.count(ctx); err != nil || r.Remaining > 0 {
		return false, err
	}
	release, err := h.lock(ctx, s)
	if err != nil {
		return false, err
	}
	defer release()
	rec, err := s.load()
	if err != nil || rec == nil || !rec.Draining {
		return true, errors.Join(err, overtaken(rec, r))
	}
	// Once more: cookies may have landed while another instance had the lock.
	if err := r.count(ctx); err != nil || r.Remaining > 0 {
		return false, err
	}
	h.progress("proxied connections ended", 1, 1)
	return true, h.remove(ctx, s, rec, r)
}

// count counts the connections that are left.
func (r *Reverted) count(ctx context.Context) error {
	n, err := kernel.AliveProxied(ctx, nil)
	if err != nil {
		return Errorf(Failed, "the namespace is draining; see what is wrong, and run synproxyctl revert again", "proxied connections could not be counted: %w", err)
	}
	r.Remaining = n
	return nil
}

// overtaken tells what became of a draining that somebody else has ended.
func overtaken(rec *record, r *Reverted) error {
	if rec == nil {
		r.State, r.Remaining = Absent, 0 // another revert was faster
		return nil
	}
	r.State = Active
	return Errorf(Conflict, "see synproxyctl status", "the protection was applied again while connections drained")
}

// remove takes away everything: what diverts first, then what answers, then the
// settings.
func (h *Host) remove(ctx context.Context, s store, rec *record, r *Reverted) error {
	ours, err := h.holding(ctx, rec)
	if err != nil {
		return err
	}
	var u undo
	fail := func(err error) error { return u.rollback(ctx, err) }
	for _, o := range ours {
		u.push("rules of "+o.backend.Name(), func(ctx context.Context) error { return h.reach(ctx, o.backend, o.rules) })
		if err := h.reachFrom(ctx, o.backend, &o.rules, rules.Ruleset{}); err != nil {
			return fail(fmt.Errorf("rules: %w", err))
		}
	}
	if err := h.restore(ctx, rec, r, &u); err != nil {
		return fail(err)
	}
	if rec.Base != nil {
		// If its programs are gone, what is left of its tables is empty.
		if b, err := rules.Find(rules.NFT); err == nil {
			if err := b.Prune(ctx, rec.Base); err != nil {
				return fail(err)
			}
		}
	}
	if err := h.step(ctx, "pruned"); err != nil {
		return fail(err)
	}
	if err := s.put(nil); err != nil {
		return fail(err)
	}
	r.State = Absent
	return nil
}
