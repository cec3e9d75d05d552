package demo

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// The good client's load and the attacker's flood. The flood begins before the load and ends after its last
// connection can be lost, and holds more SYNs than the usual conntrack table (262,144) has room for. Its rate is one
// that a single slow CPU keeps up with, so that what is lost is not lost to a lack of computing power.
const (
	connections = 100
	loadRate    = 40
	patience    = 3 * time.Second
	packets     = 325_000
	floodRate   = 50_000
	floodSeed   = 1
	longest     = 9 * time.Second        // ends the flood of a machine that cannot keep up
	lead        = 500 * time.Millisecond // how long the flood runs before the load begins

	// backlog is what nginx, Apache and Node.js ask for.
	backlog = 511
)

var target = netip.AddrPortFrom(lab.ServerV4, 80)

// Step is one scene of the story.
type Step string

// The steps, in their order.
const (
	Direct      Step = "no flood"
	Cookies     Step = "flood, SYN cookies"
	Unprotected Step = "flood"
	Probing     Step = "probe"
	Applying    Step = "apply"
	Protected   Step = "flood, protected"
	Reverting   Step = "verify, revert"
	Proving     Step = "nothing left"
)

// steps say what each step does.
var steps = []struct {
	step Step
	do   func(*demo, context.Context) error
}{
	{Direct, (*demo).direct},
	{Cookies, (*demo).cookies},
	{Unprotected, (*demo).unprotected},
	{Probing, (*demo).probe},
	{Applying, (*demo).apply},
	{Protected, (*demo).protected},
	{Reverting, (*demo).revert},
	{Proving, (*demo).prove},
}

// Event tells how the demo goes on.
type Event struct {
	// Step is the current one, the Number-th of Total, counted from 1.
	Step          Step
	Number, Total int
	// Live is set while a run goes on, a few times in a second.
	Live *Live
	// Done is true when the step has ended well; its figures are in Report then.
	Done bool
	// Report is filled up to here. It must only be read, and only until the callback returns.
	Report *Report
}

// demo is a running demo.
type demo struct {
	world  *lab.World
	tell   func(Live)
	report *Report

	stage  *stage // the one that is protected
	before snapshot
}

// Run runs the demo in about 25 seconds, most of which its floods take. It tells progress, which may be nil, how it
// goes; the calls come one at a time. When ctx ends, Run returns its error at once; connections that are just being
// made end by themselves within seconds or with the process, whatever comes first.
//
// An error means that the demo could not be shown, and the Report is nil then; a *[ToolError] is what a command of
// synproxyctl complained about. That the story does not hold is no error but in [Report.Faults].
func Run(ctx context.Context, world *lab.World, progress func(Event)) (*Report, error) {
	if progress == nil {
		progress = func(Event) {}
	}
	d := &demo{world: world, report: newReport()}
	start := time.Now()
	defer func() {
		if d.stage != nil {
			d.stage.close()
		}
	}()
	for i, s := range steps {
		e := Event{Step: s.step, Number: i + 1, Total: len(steps), Report: d.report}
		progress(e)
		d.tell = func(l Live) { e.Live = &l; progress(e) }
		err := s.do(d, ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("step %q: %w", s.step, err)
		}
		e.Live, e.Done = nil, true
		progress(e)
	}
	d.report.Seconds = math.Round(time.Since(start).Seconds()*10) / 10
	d.report.judge()
	return d.report, nil
}

func newReport() *Report {
	r := &Report{
		CPUs: runtime.NumCPU(),
		Flood: Flood{
			Target: target.String(), Packets: packets, Rate: floodRate, Seed: floodSeed, Sources: lab.FloodV4.String(),
		},
		Load: Load{Connections: connections, Rate: loadRate, TimeoutMillis: patience.Milliseconds(), Backlog: backlog},
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		r.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return r
}

// once measures one run on machines built for it alone.
func (d *demo) once(ctx context.Context, o options) (*Measurement, error) {
	s, err := newStage(ctx, d.world, o.cookies)
	if err != nil {
		return nil, err
	}
	m, err := s.measure(ctx, o.flood, d.tell)
	return m, errors.Join(err, s.close())
}

// options say how a run differs from others.
type options struct{ cookies, flood bool }

func (d *demo) direct(ctx context.Context) (err error) {
	d.report.Direct, err = d.once(ctx, options{})
	return err
}

func (d *demo) cookies(ctx context.Context) (err error) {
	d.report.Cookies, err = d.once(ctx, options{cookies: true, flood: true})
	return err
}

func (d *demo) unprotected(ctx context.Context) (err error) {
	d.report.Unprotected, err = d.once(ctx, options{flood: true})
	return err
}

// probe builds the machines of all later steps.
func (d *demo) probe(ctx context.Context) (err error) {
	if d.stage, err = newStage(ctx, d.world, false); err != nil {
		return err
	}
	var out struct {
		Results []Probe `json:"results"`
	}
	if err := d.stage.tool(ctx, &out, "probe", "--connect", target.String()); err != nil {
		return err
	}
	if len(out.Results) != 1 {
		return fmt.Errorf("%d results for one target", len(out.Results))
	}
	d.report.Tool.Probe = out.Results[0]
	d.before, err = d.stage.snapshot(ctx)
	return err
}

func (d *demo) apply(ctx context.Context) error {
	var out struct {
		Apply
		Changes []struct {
			Kind string `json:"kind"`
		} `json:"changes"`
	}
	if err := d.stage.tool(ctx, &out, "apply", target.String()); err != nil {
		return err
	}
	for _, c := range out.Changes {
		if c.Kind == "sysctl" {
			out.Sysctls++
		} else {
			out.Rules++
		}
	}
	d.report.Tool.Apply = out.Apply
	return nil
}

func (d *demo) protected(ctx context.Context) (err error) {
	if d.report.Protected, err = d.stage.measure(ctx, true, d.tell); err != nil {
		return err
	}
	st := &d.report.Tool.Status
	d.report.Protected.SYNPROXY = &st.Counters
	return d.stage.tool(ctx, st, "status")
}

func (d *demo) revert(ctx context.Context) (err error) {
	if err := d.stage.tool(ctx, &d.report.Tool.Verify, "verify"); err != nil {
		return err
	}
	if d.report.Left.Loose[1], err = d.stage.topo.Firewall.Sysctl(loose); err != nil {
		return err
	}
	return d.stage.tool(ctx, &d.report.Tool.Revert, "revert")
}

func (d *demo) prove(ctx context.Context) error {
	after, err := d.stage.snapshot(ctx)
	if err != nil {
		return err
	}
	l := &d.report.Left
	l.Programs, l.Rules, l.Settings = after.programs, len(after.rules), len(after.settings)
	l.Differences = d.before.differences(after)
	l.Loose[0], l.Loose[2] = d.before.loose, after.loose
	return nil
}
