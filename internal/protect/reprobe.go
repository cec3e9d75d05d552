package protect

import (
	"context"
	"fmt"

	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// Probe asks the backends again and adds a finding for each whose options are
// no longer those that the rules announce. Services whose options were given
// are asked too, but a difference is then only told, not held to be wrong.
func (v *Verified) Probe(ctx context.Context, cfg probe.Config) error {
	var targets []probe.Target
	var asked []Service
	for _, s := range v.services {
		if at := s.ProbeAt; at.IsValid() {
			targets, asked = append(targets, probe.Target{Name: s.String(), Addr: at}), append(asked, s)
		}
	}
	if len(targets) == 0 {
		return nil
	}
	results, err := probe.Probe(ctx, cfg, targets)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	for i, r := range results {
		v.Findings = append(v.Findings, asked[i].drift(r)...)
	}
	v.OK = !bad(v.Findings)
	return nil
}

// drift compares an answer with what the rules announce.
func (s Service) drift(r probe.Result) []Finding {
	severity := Bad
	if s.Source == Given || s.Source == Configured {
		severity = Warn
	}
	if r.Verdict != probe.Direct {
		return []Finding{finding(severity, "backend-"+string(r.Verdict), "look after the server; the rules stay as they are", "%s: the backend's answer is %s", s, r.Verdict)}
	}
	want, have := probe.Options(s.Options).IPTables(), r.Options.IPTables()
	if want == have {
		return nil
	}
	return []Finding{finding(severity, "options-drift", "run synproxyctl apply again",
		"%s: the backend answers %q, the rules announce %q", s, have, want)}
}
