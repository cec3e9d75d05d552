package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

var statusCommand = command{
	name: "status", usage: "show what is protected and how it goes",
	help: `Exits 0 whatever the state; use verify to act on it.

With --prometheus it writes metrics to a file for the textfile collector of node_exporter, which must end in .prom. The file is
replaced in one step, and stays as it was if anything fails. What they mean is in docs/metrics.md.`,
	examples: `
  watch -n 1 synproxyctl status
  synproxyctl status --json | jq .counters
  synproxyctl status --prometheus /var/lib/node_exporter/synproxyctl.prom
`,
	flags: []cli.Flag{
		allFlag(),
		&cli.StringFlag{Name: "prometheus", Usage: "write metrics to `FILE`, instead of showing anything; -: to standard output"},
		maxServicesFlag(),
	},
	do: runStatus,
}

func runStatus(_ env, c *cli.Context) (*answer, error) {
	if c.IsSet("prometheus") {
		return runStatusMetrics(c)
	}
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	st, err := h.Status(c.Context)
	if err != nil {
		return nil, err
	}
	return &answer{result: st, text: func(w io.Writer, p paint) { writeStatus(w, p, st, c.Bool("all")) }}, nil
}

func writeStatus(w io.Writer, p paint, st *protect.Status, all bool) {
	state := string(st.State)
	switch st.State {
	case protect.Active:
		state = p.good(state)
	case protect.Drifted:
		state = p.of(protect.Bad, state)
	case protect.Draining:
		state = p.of(protect.Warn, state) + fmt.Sprintf(": %d proxied connections left", st.Connections.Proxied)
	}
	rows := [][]string{{"state", state}}
	if st.Backend != "" {
		rows = append(rows, []string{"backend", st.Backend})
	}
	if st.Pending != nil {
		rows = append(rows, []string{"on trial", "until " + st.Pending.Deadline.Local().Format(time.TimeOnly) + ", then back unless confirmed"})
	}
	if st.Watch != nil {
		rows = append(rows, []string{"watched", fmt.Sprintf("by process %d, last at %s", st.Watch.PID, st.Watch.LastRound.Local().Format(time.TimeOnly))})
	}
	if v := st.LastVerify; v != nil {
		how := p.good("ok")
		if !v.OK {
			how = p.of(protect.Bad, plural(v.Findings.Bad, "error"))
		}
		rows = append(rows, []string{"last verified", v.Time.Local().Format(time.DateTime) + ", " + how})
	}
	for _, s := range st.Sysctls {
		have := s.Have
		if !s.OK {
			have += " (protection needs " + s.Want + ")"
		}
		rows = append(rows, []string{s.Key, have})
	}
	limit := strconv.Itoa(st.Conntrack.Max)
	if st.Conntrack.Max == 0 {
		limit = "no limit"
	}
	k := st.Counters
	rows = append(rows,
		[]string{"SYNs answered", strconv.FormatUint(k.SYNReceived, 10)},
		[]string{"cookies", fmt.Sprintf("%d valid, %d invalid, %d repeated", k.CookieValid, k.CookieInvalid, k.CookieRetrans)},
		[]string{"proxied connections", strconv.Itoa(st.Connections.Proxied)},
		[]string{"conntrack entries", fmt.Sprintf("%d of %s", st.Conntrack.Count, limit)})
	table(w, rows...)
	if len(st.Services) > 0 {
		fmt.Fprintln(w)
		writeServices(w, st.Services, all)
	}
	writeFindings(w, p, st.Findings)
}

var verifyCommand = command{
	name: "verify", usage: "compare what the kernel holds with what was asked for",
	help: "Compares every rule, jump and setting, and exits 3 if anything differs. With --probe it also asks the backends again. With --live it opens real connections from a network namespace of its own, through the rules to the servers, and sends forged SYNs: what is not proven so is not ok. A server sees one connection from a test address with an empty line.",
	examples: `
  synproxyctl verify || synproxyctl apply @services.txt
  synproxyctl verify --probe --json | jq .findings
  synproxyctl verify --live                           prove it with real packets
`,
	flags: append(probeFlags(),
		&cli.BoolFlag{Name: "live", DisableDefaultText: true, Usage: "prove the protection by real handshakes and forged SYNs through the real rules"},
		&cli.BoolFlag{Name: "probe", DisableDefaultText: true, Usage: "ask the backends again, to see whether their options have changed"}),
	do: runVerify,
}

func runVerify(e env, c *cli.Context) (*answer, error) {
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	b := newBar(e.err)
	defer b.wipe()
	cfg, err := probeConfig(c, "", b)
	if err != nil {
		return nil, err
	}
	v, err := h.Verify(c.Context)
	if err != nil {
		return nil, err
	}
	if c.Bool("probe") {
		if err := v.Probe(c.Context, cfg); err != nil {
			return nil, err
		}
	}
	if c.Bool("live") {
		if err := v.Live(c.Context); err != nil {
			return nil, err
		}
	}
	return &answer{result: v, no: !v.OK, text: func(w io.Writer, p paint) {
		for _, proof := range v.Proofs {
			if proof.Code == "" {
				fmt.Fprintf(w, "%s: %s: handshake %.1f ms, data %.1f ms, %d of %d forged SYNs answered and forgotten\n",
					p.good("proven"), proof.Service, proof.Connected, proof.Data, proof.Answered, proof.Forged)
			}
		}
		writeFindings(w, p, v.Findings)
		if v.OK {
			fmt.Fprintln(w, p.good("ok")+": rules and settings are as they should be")
		}
	}}, nil
}

var revertCommand = command{
	name: "revert", usage: "take the protection away without a trace",
	help: `New connections go to the servers at once; those that the proxy has opened live on, and
the command waits for their end. Then the last rules go. Settings are given back, except
those that somebody else has set since. Interrupted or run again, it goes on from where it
was. Twice is the same as once.`,
	examples: `
  synproxyctl revert              wait for the end of proxied connections
  synproxyctl revert --drain 10m  wait no longer; what they need stays
  synproxyctl revert --now        never mind the connections
`,
	flags: []cli.Flag{
		&cli.DurationFlag{Name: "drain", DefaultText: "without limit", Usage: "how long to wait for proxied connections to end; 0: not at all"},
		&cli.BoolFlag{Name: "now", DisableDefaultText: true, Usage: "proxied connections that are alive are given up"},
	},
	do: runRevert,
}

// revertedNote promises no more than the findings leave true.
func revertedNote(r *protect.Reverted) string {
	if slices.ContainsFunc(r.Findings, func(f protect.Finding) bool { return f.Code == "no-record" || f.Code == "sysctl-foreign" }) {
		return "the rules are gone; for the settings see above"
	}
	return "rules and settings are as they were before"
}

func runRevert(e env, c *cli.Context) (*answer, error) {
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	how := protect.Removal{Now: c.Bool("now")}
	if c.IsSet("drain") {
		d := c.Duration("drain")
		switch {
		case how.Now:
			return nil, protect.Errorf(protect.Usage, "give one of them", "--now and --drain exclude each other")
		case d < 0:
			return nil, outOfRange("drain", d, "0s, which means not to wait, or more")
		}
		how.Drain = &d
	}
	b := newBar(e.err)
	defer b.wipe()
	h.Progress = b.show
	r, err := h.Revert(c.Context, how)
	if err != nil {
		return revertedAnswer(r), err
	}
	return revertedAnswer(r), nil
}

// revertedAnswer tells what became of it; nil if nothing did.
func revertedAnswer(r *protect.Reverted) *answer {
	if r == nil {
		return nil
	}
	return &answer{result: r, text: func(w io.Writer, p paint) {
		writeFindings(w, p, r.Findings)
		switch {
		case !r.Changed:
			fmt.Fprintln(w, "nothing to revert")
		case r.State == protect.Draining:
			fmt.Fprintf(w, "draining: %d proxied connections are left, nothing new is proxied\n", r.Remaining)
		default:
			fmt.Fprintln(w, p.good("reverted")+": "+revertedNote(r))
		}
	}}
}
