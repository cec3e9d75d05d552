package demo

import (
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
)

// goodReport is one in which the story holds.
func goodReport() *Report {
	run := func(served int) *Measurement {
		return &Measurement{Connections: 100, Served: served, Lost: 100 - served, Conntrack: Conntrack{Peak: 100 + slack, Max: 262144}}
	}
	r := &Report{Direct: run(100), Cookies: run(99), Unprotected: run(99), Protected: run(100)}
	r.Protected.SYNs = 1000
	r.Protected.SYNPROXY = &kernel.SynproxyStats{SYNReceived: 500, CookieValid: 100}
	r.Tool = Tool{
		Probe: Probe{Verdict: "direct"}, Apply: Apply{Verified: true}, Status: Status{State: "active"},
		Verify: Verify{OK: true}, Revert: Revert{Changed: true, State: "absent"},
	}
	r.Left = Left{Programs: []string{"iptables-save"}, Rules: 1, Settings: 1, Loose: [3]string{"1", "0", "1"}}
	return r
}

func TestJudge(t *testing.T) {
	r := goodReport()
	if r.judge(); !r.Holds || r.Faults == nil || len(r.Faults) > 0 {
		t.Fatalf("a good story has the faults %q", r.Faults)
	}
	for want, spoil := range map[string]func(r *Report){
		"without a flood 1 of 100":      func(r *Report) { r.Direct.Lost = 1 },
		"the flood did no harm":         func(r *Report) { r.Unprotected.Lost = 0 },
		"under protection 1 of 100":     func(r *Report) { r.Protected.Lost = 1 },
		"117 conntrack entries":         func(r *Report) { r.Protected.Conntrack.Peak++ },
		"99 valid cookies":              func(r *Report) { r.Protected.SYNPROXY.CookieValid-- },
		"answered 499 SYNs":             func(r *Report) { r.Protected.SYNPROXY.SYNReceived-- },
		`probe found "proxied"`:         func(r *Report) { r.Tool.Probe.Verdict = "proxied" },
		"did not read the rules back":   func(r *Report) { r.Tool.Apply.Verified = false },
		`the state was "drifted"`:       func(r *Report) { r.Tool.Status.State = "drifted" },
		"verify found":                  func(r *Report) { r.Tool.Verify.OK = false },
		`after revert the state was "d`: func(r *Report) { r.Tool.Revert.State = "draining" },
		`after revert the state was "a`: func(r *Report) { r.Tool.Revert.Changed = false },
		"nothing could be compared":     func(r *Report) { r.Left.Rules = 0 },
		"was 1 and is 0":                func(r *Report) { r.Left.Loose[2] = "0" },
		"revert left 1 differences":     func(r *Report) { r.Left.Differences = []string{"+ x"} },
	} {
		r := goodReport()
		spoil(r)
		r.judge()
		if r.Holds || len(r.Faults) != 1 || !strings.Contains(r.Faults[0], want) {
			t.Errorf("want the one fault %q, got %q", want, r.Faults)
		}
	}
}

func TestConntrackFull(t *testing.T) {
	for _, c := range []struct {
		Conntrack
		full bool
	}{
		{Conntrack{262144, 262144}, true},
		{Conntrack{262140, 262144}, true},
		{Conntrack{261000, 262144}, false},
		{Conntrack{262144, 0}, false},
		{Conntrack{0, 0}, false},
	} {
		if got := c.Full(); got != c.full {
			t.Errorf("%+v: full is %t", c.Conntrack, got)
		}
	}
}
