package protect

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/synproxyctl/synproxyctl/internal/live"
)

// Proof is what came of the proof of one service.
type Proof struct {
	Service   string       `json:"service"`
	Verdict   live.Verdict `json:"verdict"`
	Code      string       `json:"code"` // why it is not proven; empty if it is
	Message   string       `json:"message"`
	Connected float64      `json:"connected_ms"` // the slowest handshake
	Data      float64      `json:"data_ms"`      // from there to the proof that data flows
	Forged    int          `json:"forged"`       // forged SYNs
	Answered  int          `json:"forged_answered"`
}

// Live proves each service by real handshakes through the real rules, and adds
// a finding for each that is not proven: without a proof, nothing is ok.
func (v *Verified) Live(ctx context.Context) error {
	v.Proofs = []Proof{}
	var targets []live.Target
	for _, s := range v.services {
		at := netip.AddrPortFrom(s.Destination.Addr(), s.Port)
		if !s.Destination.IsSingleIP() {
			if !s.ProbeAt.IsValid() || s.ProbeAt.Port() != s.Port || !s.Destination.Contains(s.ProbeAt.Addr()) {
				v.Findings = append(v.Findings, finding(Bad, "live-not-possible", "apply it with --probe-at ADDR:PORT, one of its servers",
					"%s: not proven: which address of the network has a server is not known", s))
				v.unproven++
				continue
			}
			at = s.ProbeAt
		}
		targets = append(targets, live.Target{Name: s.String(), Destination: at, Interfaces: s.Interfaces, Hook: s.Hook, First: s.First})
	}
	results, err := live.Prove(ctx, targets)
	for _, r := range results {
		p := Proof{Service: r.Target.Name, Verdict: r.Verdict, Code: string(r.Code), Message: r.Message}
		for _, path := range r.Paths {
			p.Connected = max(p.Connected, milliseconds(path.Connected))
			p.Data = max(p.Data, milliseconds(path.Data))
			p.Forged, p.Answered = p.Forged+path.Forged, p.Answered+path.Answered
		}
		v.Proofs = append(v.Proofs, p)
		if r.Verdict != live.Proven {
			v.unproven++
			v.Findings = append(v.Findings, finding(Bad, "live-"+string(r.Code), hintOfProof(r), "%s: %s: %s", r.Target.Name, r.Verdict, r.Message))
		}
	}
	v.OK = !bad(v.Findings)
	if err != nil {
		return fmt.Errorf("live proof: %w", err)
	}
	v.note(ctx)
	return nil
}

func hintOfProof(r live.Result) string {
	if r.Verdict == live.Unproven {
		return "this is no proof that it fails either: try a client elsewhere, or mend what is named"
	}
	return "run synproxyctl doctor, and apply again"
}
