package protect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Verified is the outcome of [Host.Verify].
type Verified struct {
	OK       bool      `json:"ok"`
	Findings []Finding `json:"findings"`
	Proofs   []Proof   `json:"proofs,omitempty"` // of [Verified.Live]
	services []Service
	state    State // empty: absent
	onTrial  bool
	store    store
	probed   *LastProbe // nil: the backends were not asked
	unproven int        // services without a proof
}

var errNoRecord = errors.New("no protection is applied in this network namespace")

// Services returns what the record says is protected.
func (v *Verified) Services() []Service { return v.services }

// State returns what the record says: [Absent], [Draining] or [Active].
func (v *Verified) State() State { return cmp.Or(v.state, Absent) }

// Busy reports whether another instance was at work, so that nothing was compared.
func (v *Verified) Busy() bool {
	return slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.Code == codeBusy })
}

// OnTrial reports whether a change awaits its confirmation.
func (v *Verified) OnTrial() bool { return v.onTrial }

// Codes of findings that others ask for.
const (
	codeBusy        = "busy" // another instance was at work
	codeSysctl      = "sysctl"
	codeCutShort    = "cut-short"
	codeTwoBackends = "two-backends"
)

// Verify compares what the kernel holds with what was asked for. It changes
// nothing but a note of how it went, see [LastVerify]. While another instance does, there is nothing to compare.
func (h *Host) Verify(ctx context.Context) (*Verified, error) {
	if err := CanChange(); err != nil {
		return nil, err
	}
	rec, found, _, err := h.inspect(ctx)
	if err != nil {
		return nil, err
	}
	v := &Verified{Findings: found}
	if v.store, err = h.open(); err != nil {
		return nil, err
	}
	if rec != nil {
		v.services, v.state, v.onTrial = rec.Services, Active, rec.Pending != nil
		if rec.Draining {
			v.state = Draining
		}
	}
	if i := slices.IndexFunc(found, func(f Finding) bool { return f.Code == codeBusy }); i >= 0 {
		found[i].Severity = Bad // what was not seen is not ok
		return v, nil
	}
	if rec != nil && !rec.Draining {
		out, err := lookOut(ctx, rec.Backend, &h.routes)
		if err != nil {
			return nil, err
		}
		around, err := h.environment(ctx, rec.Services, out)
		if err != nil {
			return nil, err
		}
		for _, f := range append(out.findings(rec.Services), around...) {
			if f.Severity != Info {
				v.Findings = append(v.Findings, f)
			}
		}
	}
	if rec != nil && rec.Draining {
		v.Findings = append(v.Findings, finding(Bad, "draining", "apply again to protect them, or revert to wait for the end",
			"the services are not protected any more; connections that were proxied may be alive"))
	}
	if rec == nil && !bad(found) {
		v.Findings = append(v.Findings, finding(Bad, "not-applied", "use synproxyctl apply", "%v", errNoRecord))
	}
	v.OK = !bad(v.Findings)
	v.note(ctx)
	return v, nil
}

func bad(fs []Finding) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity == Bad })
}

// inspect loads the record and finds everything that is not as it says. It also
// returns what its backend holds, as far as that was looked at.
func (h *Host) inspect(ctx context.Context) (*record, []Finding, rules.Ruleset, error) {
	var holds rules.Ruleset
	s, err := h.open()
	if err != nil {
		return nil, nil, holds, err
	}
	release, busy := h.settled(ctx, s)
	defer release()
	rec, err := s.load()
	if err != nil {
		return nil, nil, holds, err
	}
	if busy {
		return rec, []Finding{finding(Warn, codeBusy, "look again when it has ended",
			"another instance is changing this network namespace: what is there is only half of something")}, holds, nil
	}
	all, err := h.survey(ctx)
	if err != nil {
		return nil, nil, holds, err
	}
	found := []Finding{}
	if rec != nil && rec.Unfinished {
		found = append(found, finding(Bad, codeCutShort, "apply again, or revert", "an apply has begun, and did not come to its end"))
	}
	if rec != nil && rec.Pending != nil && rec.Pending.over() && !rec.Unfinished {
		p := rec.Pending
		found = append(found, finding(Bad, "try-expired", "apply again for good, or revert",
			"a change on trial was not confirmed until %s, and has not been taken back%s", p.Deadline.Format(time.TimeOnly), because(p.Failed)))
	}
	gone := rec != nil
	for _, one := range all {
		mine := rec != nil && one.backend.Name() == rec.Backend
		switch {
		case mine && one.unseen != nil:
			gone = false
			found = append(found, finding(Bad, "backend-unseen", "remove the rule that only nft can show, or look with: nft list ruleset",
				"the rules of %s cannot be seen: %v", rec.Backend, one.unseen))
		case mine:
			gone = false
			holds = one.rules
			fs, err := h.compare(rec, one.rules)
			if err != nil {
				return nil, nil, holds, err
			}
			found = append(found, fs...)
			if rec.Draining {
				continue
			}
			if err := h.routes.ask(ctx, rec.Services); err != nil {
				return nil, nil, holds, err
			}
			found = append(found, places(rec.Services, &h.routes)...)
		case !one.rules.Empty():
			found = append(found, leftOver(rec, one.backend.Name()))
		}
	}
	if gone {
		found = append(found, finding(Bad, "backend-gone", "install the programs of "+rec.Backend+" again", "the programs of the backend %s are gone", rec.Backend))
	}
	return rec, found, holds, nil
}

func leftOver(rec *record, backend string) Finding {
	if rec == nil {
		return finding(Bad, "no-record", "run synproxyctl revert, then apply", "chains of ours stand in %s, but the undo record is gone", backend)
	}
	return finding(Bad, codeTwoBackends, "run synproxyctl apply again", "chains of ours stand in %s too", backend)
}

// compare finds how rules and settings differ from the record.
func (h *Host) compare(rec *record, have rules.Ruleset) ([]Finding, error) {
	const mend = "run synproxyctl apply again, and find out what changed it"
	fs := []Finding{}
	for _, d := range rules.Compare(have, rec.policy().Ruleset(rec.Backend)) {
		hint := mend
		switch d.Fault {
		case rules.ForeignJump:
			hint = "remove that rule, or let it jump elsewhere"
		case rules.SetForeign:
			hint = removeSet(rec.Backend, d)
		}
		fs = append(fs, finding(Bad, string(d.Fault), hint, "%s", d))
	}
	if rec.Draining {
		return fs, nil // settings have been given back
	}
	states, err := h.settings()
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		if !s.OK {
			fs = append(fs, finding(Bad, codeSysctl, mend, "%s is %s, not %s", s.Key, s.Have, s.Want))
		}
	}
	return fs, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// places finds services that no longer are where the rules expect them, by the
// routes to them.
func places(services []Service, to *routes) []Finding {
	var found tally
	there := links{}
	for i := range services {
		s := &services[i]
		found.next()
		for _, name := range s.Interfaces {
			if l := there.of(name); l.err == nil && !l.there {
				found.tell(Warn, "interface-gone", name, func() Finding {
					return finding(Warn, "interface-gone", "bring the interface back, or apply with another",
						"%s: interface %s does not exist; its SYNs are not proxied", s, name)
				})
			}
		}
		if !s.Destination.IsSingleIP() {
			continue
		}
		if hook, err := to.hook(s.Destination.Addr()); err == nil && hook != s.Hook {
			found.tell(Warn, "hook", string(hook), func() Finding {
				return finding(Warn, "hook", "run synproxyctl apply again",
					"%s: the rules are for the hook %s, but the routes lead through %s", s, s.Hook, hook)
			})
		}
	}
	return found.findings()
}

// Setting is a kernel setting that the protection needs.
type Setting struct {
	Key  string `json:"key"`
	Want string `json:"want"`
	Have string `json:"have"`
	OK   bool   `json:"ok"`
}

// settings reads the settings that the protection needs. One that the kernel does
// not have is "absent".
func (h *Host) settings() ([]Setting, error) {
	list := make([]Setting, len(needed))
	for i, n := range needed {
		have, err := h.Sysctl.Get(n.Key)
		if errors.Is(err, fs.ErrNotExist) {
			have, err = "absent", nil
		}
		if err != nil {
			return nil, fmt.Errorf("kernel settings: %w", err)
		}
		list[i] = Setting{n.Key, n.Value, have, have == n.Value}
	}
	return list, nil
}
