package protect

import (
	"context"
	"fmt"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// Reverted is the outcome of [Host.Revert].
type Reverted struct {
	Changed   bool      `json:"changed"`
	State     State     `json:"state"`
	Remaining int       `json:"remaining"` // proxied connections that were alive
	Findings  []Finding `json:"findings"`
}

// Revert takes the protection away: rules, tables that exist only because of
// them, and settings. It finds the rules by their names, so that it also works
// when the undo record is lost. With giveUp the caller accepts that proxied
// connections end. If it fails or ctx ends, the protection stands as before.
func (h *Host) Revert(ctx context.Context, giveUp bool) (*Reverted, error) {
	if err := CanChange(); err != nil {
		return nil, err
	}
	s, err := h.open()
	if err != nil {
		return nil, err
	}
	release, err := h.lock(ctx, s)
	if err != nil {
		return nil, err
	}
	defer release()
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
	r.countConnections(ctx, giveUp)
	if rec == nil || rec.Unknown {
		r.Findings = append(r.Findings, recordLost())
	}
	return r, h.remove(ctx, s, rec, ours, r)
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
		if err := conflicts(rules.Compare(one.rules, rules.Ruleset{})); err != nil {
			return nil, err
		}
		if !one.rules.Empty() {
			ours = append(ours, one)
		}
	}
	return ours, nil
}

func (r *Reverted) countConnections(ctx context.Context, giveUp bool) {
	n, err := kernel.ProxiedConnections(ctx, nil)
	r.Remaining = n
	switch {
	case err != nil:
		r.Findings = append(r.Findings, finding(Warn, "connections-unknown", "", "proxied connections could not be counted: %v", err))
	case n > 0 && giveUp:
		r.Findings = append(r.Findings, finding(Info, "connections-given-up", "", "%d proxied connections are given up, as asked", n))
	case n > 0:
		r.Findings = append(r.Findings, finding(Warn, "connections-lost", "at another time revert when fewer are open; --now says that they are given up",
			"%d proxied connections were alive; without SYNPROXY they stall or break", n))
	}
}

// remove takes away what diverts first, then what answers, then the settings.
func (h *Host) remove(ctx context.Context, s store, rec *record, ours []held, r *Reverted) error {
	var u undo
	fail := func(err error) error { return u.rollback(ctx, err) }
	for _, o := range ours {
		u.push("rules of "+o.backend.Name(), func(ctx context.Context) error { return reach(ctx, o.backend, o.rules) })
		if err := reach(ctx, o.backend, rules.Ruleset{}); err != nil {
			return fail(fmt.Errorf("rules: %w", err))
		}
	}
	if rec == nil {
		return nil
	}
	outcomes, err := h.Sysctl.Restore(rec.Sysctls)
	u.push("kernel settings", func(context.Context) error { return h.reapply(outcomes) })
	if err != nil {
		return fail(fmt.Errorf("kernel settings: %w", err))
	}
	for _, o := range outcomes {
		if o.State == sysctl.Foreign {
			r.Findings = append(r.Findings, finding(Info, "sysctl-foreign", "",
				"%s is %s: somebody else set it since, so it is left alone (before us it was %s)", o.Key, o.Now, o.Before))
		}
	}
	if rec.Base != nil {
		// If its programs are gone, what is left of its tables is empty.
		if b, err := rules.Find(rules.NFT); err == nil {
			if err := b.Prune(ctx, rec.Base); err != nil {
				return fail(err)
			}
		}
	}
	if err := s.put(nil); err != nil {
		return fail(err)
	}
	return nil
}

// reapply sets again what a revert that failed has given back.
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
