package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/demo"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

var demoCommand = command{
	name: "demo", usage: "show a flood with and without protection, on machines of its own",
	help: `Builds a client, a firewall, a server and an attacker in network namespaces that
vanish with the command: the rules, settings and interfaces of this machine are
not touched, and no packet leaves it. For some 25 seconds it measures good
connections without a flood, under a flood, and under the same flood with what
probe and apply do on the firewall; then it reverts, and compares the firewall
with what it was before. Exits 1 if anything is not as it claims. Needs root, or
a kernel that lets users make namespaces.`,
	examples: `
  synproxyctl demo           the story, with its figures
  synproxyctl demo --json    the figures alone`,
	do: runDemo,
}

// runDemo runs twice: outside it only starts the same command line in
// namespaces of its own and passes on what comes out of there.
func runDemo(e env, c *cli.Context) (*answer, error) {
	world, status, err := lab.Isolate(c.Context)
	if err != nil {
		return nil, notIsolated(err)
	}
	if world == nil {
		return relayed(status)
	}
	show := newShow(e.err)
	report, err := demo.Run(c.Context, world, show.event)
	if err != nil {
		show.clear()
		return nil, demoFault(err)
	}
	a := &answer{result: report, text: func(w io.Writer, p paint) { writeDemo(w, p, report) }}
	if !report.Holds {
		return a, protect.Errorf(protect.Failed, "run it again when the machine is less busy; if it stays so, please report it, with the output of --json",
			"demo: the story does not hold here: %s", strings.Join(report.Faults, "; "))
	}
	return a, nil
}

// relayed is the answer of the inner process. One that was killed has not given any.
func relayed(status int) (*answer, error) {
	const killed = 128 // the kernel's signal number comes on top, as in a shell
	if status > killed && status != exitStatus[protect.Interrupted] {
		return nil, protect.Errorf(protect.Failed, "nothing is left of it; the kernel's log (dmesg) may say why",
			"demo: its process was killed by signal %d", status-killed)
	}
	return &answer{relayed: &status}, nil
}

// notIsolated says why there are no namespaces. The lab's message ends with the hint.
func notIsolated(err error) error {
	if !errors.Is(err, lab.ErrRefused) {
		return fmt.Errorf("demo: %w", err)
	}
	message, hint, _ := strings.Cut(err.Error(), "; hint: ")
	return protect.Errorf(protect.Permission, hint, "demo: %s", message)
}

// demoFault gives an error of the demo its code: that of the command that failed inside, if one did.
func demoFault(err error) error {
	var inside *demo.ToolError
	switch {
	case errors.Is(err, context.Canceled):
		return protect.Errorf(protect.Interrupted, "nothing is left: all of it was in namespaces that are gone", "demo: interrupted")
	case errors.As(err, &inside):
		return protect.Errorf(protect.Code(inside.Code), inside.Next, "demo: %w", err)
	}
	if code := protect.CodeOf(err); code != protect.Failed {
		return protect.Errorf(code, protect.HintOf(err), "demo: %w", err)
	}
	return protect.Errorf(protect.Failed, "nothing is left: all of it was in namespaces that are gone", "demo: %w", err)
}

// show tells on standard error how the demo goes on: a line for each step, and
// on a terminal a running one.
type show struct {
	w     io.Writer
	paint paint
	live  bool
}

func newShow(w io.Writer) *show { return &show{w, painter(w), isTerminal(w)} }

// clear removes the running line.
func (s *show) clear() {
	if s.live {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
}

func (s *show) event(e demo.Event) {
	if e.Number == 1 && e.Live == nil && !e.Done {
		writeScene(s.w, e.Report)
	}
	if !s.live && !e.Done {
		return
	}
	s.clear()
	fmt.Fprintf(s.w, "%s %-18s  ", s.paint.of(protect.Info, fmt.Sprintf("[%d/%d]", e.Number, e.Total)), e.Step)
	switch {
	case e.Done:
		fmt.Fprintln(s.w, summary(e.Step, e.Report))
	case e.Live != nil && e.Step == demo.Direct:
		fmt.Fprintf(s.w, "%d served", e.Live.Served)
	case e.Live != nil:
		fmt.Fprintf(s.w, "%s SYNs, conntrack %s, %d served", grouped(e.Live.SYNs), grouped(e.Live.Conntrack), e.Live.Served)
	default:
		fmt.Fprint(s.w, "...")
	}
}

// summary says in at most 53 characters what a step found.
func summary(step demo.Step, r *demo.Report) string {
	switch step {
	case demo.Direct:
		return summaryOf(r.Direct)
	case demo.Cookies:
		return summaryOf(r.Cookies)
	case demo.Unprotected:
		return summaryOf(r.Unprotected)
	case demo.Protected:
		return summaryOf(r.Protected)
	case demo.Probing:
		return printable(r.Tool.Probe.IPTables)
	case demo.Applying:
		a := r.Tool.Apply
		s := fmt.Sprintf("%d rules, %d sysctl by %s", a.Rules, a.Sysctls, printable(a.Backend))
		if a.Verified {
			s += ", read back"
		}
		return s
	case demo.Reverting:
		verdict := "ok"
		if !r.Tool.Verify.OK {
			verdict = "drift"
		}
		return fmt.Sprintf("verify: %s; after revert: %s", verdict, printable(r.Tool.Revert.State))
	case demo.Proving:
		if n := len(r.Left.Differences); n > 0 {
			return fmt.Sprintf("%d differences", n)
		}
		return fmt.Sprintf("%d lines of rules, %s settings: all as before", r.Left.Rules, grouped(r.Left.Settings))
	}
	return ""
}

func summaryOf(m *demo.Measurement) string {
	s := served(m) + " served"
	if m.Served > 0 {
		s += fmt.Sprintf(" (p99 %s)", millis(m, m.Latency.P99))
	}
	return s + ", conntrack " + grouped(m.Conntrack.Peak)
}
