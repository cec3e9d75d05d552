package demo

import "fmt"

// slack is how many conntrack entries there may be under protection beside one for each good connection: those of
// the tool's own probes, of which a few seconds later some are still there.
const slack = 16

// judge compares what was measured with what the story claims.
func (r *Report) judge() {
	r.Faults = []string{}
	claim := func(holds bool, format string, args ...any) {
		if !holds {
			r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
		}
	}
	claim(r.Direct.Lost == 0, "without a flood %d of %d good connections were lost", r.Direct.Lost, r.Direct.Connections)
	claim(r.Unprotected.Lost > 0, "the flood did no harm: without protection all %d good connections were served", r.Unprotected.Connections)

	p := r.Protected
	claim(p.Lost == 0, "under protection %d of %d good connections were lost", p.Lost, p.Connections)
	limit := p.Connections + slack
	claim(p.Conntrack.Peak <= limit, "under protection there were %d conntrack entries, more than %d", p.Conntrack.Peak, limit)
	claim(p.SYNPROXY.CookieValid >= uint64(p.Served), "SYNPROXY counted %d valid cookies for %d connections", p.SYNPROXY.CookieValid, p.Served)
	// Not each SYN: a machine that cannot keep up drops some at the interface.
	claim(p.SYNPROXY.SYNReceived >= uint64(p.SYNs)/2, "SYNPROXY answered %d SYNs of a flood of %d", p.SYNPROXY.SYNReceived, p.SYNs)

	t := r.Tool
	claim(t.Probe.Verdict == "direct", "probe found %q, not a server that answers itself", t.Probe.Verdict)
	claim(t.Apply.Verified, "apply did not read the rules back")
	claim(t.Status.State == "active", "under the flood the state was %q, not active", t.Status.State)
	claim(t.Verify.OK, "verify found a difference")
	claim(t.Revert.Changed && t.Revert.State == "absent", "after revert the state was %q", t.Revert.State)

	l := r.Left
	claim(len(l.Programs) > 0 && l.Rules > 0 && l.Settings > 0, "nothing could be compared before and after")
	claim(l.Loose[0] == l.Loose[2], "%s was %s and is %s after revert", loose, l.Loose[0], l.Loose[2])
	claim(len(l.Differences) == 0, "revert left %d differences behind, such as %q", len(l.Differences), first(l.Differences))
	r.Holds = len(r.Faults) == 0
}

func first(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[0]
}
