package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// The activities, in the order in which they are started if several are due: a
// change first. What is to come joins them here.
const (
	reload = iota
	mend
	look
	ask
)

// plan prepares the activities. The first look is at once.
func (d *Daemon) plan() {
	d.activities = []*activity{
		reload: {name: "reload", alone: true, prepare: d.reloading},
		mend:   {name: "mend", alone: true, prepare: d.mending},
		look:   {name: "look", alone: true, due: time.Now(), prepare: d.looking},
		ask:    {name: "ask", prepare: d.asking},
	}
}

// looking compares the rules.
func (d *Daemon) looking(time.Time) work {
	return func(ctx context.Context) func(time.Time) {
		began := time.Now()
		v, err := d.Host().Verify(ctx)
		l := Look{Err: err}
		if err == nil {
			l = Look{State: v.State(), OnTrial: v.OnTrial(), Busy: v.Busy(), Findings: v.Findings}
			if d.Intent != nil && l.State == protect.Active && !l.OnTrial && !l.Busy {
				l.Findings = append(l.Findings, d.Intent(v.Services())...)
			}
		}
		took := time.Since(began)
		return func(now time.Time) {
			if err != nil && d.over() {
				return // we are to end
			}
			d.Log.Debug("looked", "findings", len(l.Findings), "busy", l.Busy, "took", took)
			d.looked(now, l, v)
			d.status()
		}
	}
}

// looked makes something of a look; v is nil if there was none.
func (d *Daemon) looked(now time.Time, l Look, v *protect.Verified) {
	first := d.sum.Looks == 0
	d.sum.Looks++
	if d.Seen != nil {
		d.Seen(now)
	}
	if l.Err != nil && d.Once {
		d.fault = l.Err
		return
	}
	if l.Err == nil && !l.Busy {
		d.protects(v.State(), v.Services())
	}
	verdict := d.Rules.Seen(now, l)
	d.tell(verdict.Events...)
	if first {
		d.notify("READY=1")
		d.begin(now)
	}
	switch {
	case verdict.Mend:
		d.activities[mend].due = now
	case verdict.Again || l.Busy && d.Once && d.sum.Looks < patience:
		d.activities[look].due = now.Add(min(settle, d.Interval))
	}
	if !d.Once && d.activities[look].due.IsZero() {
		d.activities[look].due = now.Add(jitter(d.Interval))
	}
}

// patience is how many looks a single round has while others change something.
const patience = 20

// protects notes what is protected.
func (d *Daemon) protects(state protect.State, services []protect.Service) {
	d.sum.State = state
	d.services, d.total = nil, 0
	if state == protect.Active {
		d.services = services
	}
	for i := range d.services {
		if d.services[i].ProbeAt.IsValid() {
			d.total++
		}
	}
	d.Backends.Keep(d.services)
}

// begin lets the backends be asked for the first time.
func (d *Daemon) begin(now time.Time) {
	switch {
	case d.ProbeInterval == 0:
	case d.Once:
		d.activities[ask].due = now
	default: // a host that boots has enough to do, and many hosts boot together
		d.activities[ask].due = now.Add(jitter(min(d.ProbeInterval, firstQuestion)))
	}
}

// firstQuestion is how long after the start the backends are asked at the latest.
const firstQuestion = 10 * time.Second

// asking asks the backends: all of them if that is due, else those in doubt.
func (d *Daemon) asking(began time.Time) work {
	services, all := d.services, d.asked.IsZero() || !d.Once && began.Sub(d.asked) >= d.ProbeInterval*8/10
	if all {
		d.asked = began
	} else {
		services = d.Backends.Due(began, services)
	}
	return func(ctx context.Context) func(time.Time) {
		answers, err := protect.Reprobe(ctx, d.Probe, services)
		took := time.Since(began)
		if err == nil && all {
			d.Host().NoteProbe(ctx, answers)
		}
		return func(now time.Time) {
			if err != nil && d.over() {
				return
			}
			d.sum.Asked += len(answers)
			d.Log.Debug("asked", "backends", len(answers), "took", took)
			d.heard(now, answers, err)
			d.status()
		}
	}
}

// heard makes something of answers.
func (d *Daemon) heard(now time.Time, answers []protect.Answer, err error) {
	if err != nil {
		if why := err.Error(); why != d.deaf {
			d.deaf = why
			d.tell(event(slog.LevelError, "probe-failed", protect.HintOf(err), "the backends cannot be asked: %v", err))
		}
		if d.Once {
			d.fault = err
			return
		}
	} else {
		d.deaf = ""
	}
	c := d.Backends.Heard(now, answers, d.total)
	d.tell(c.Events...)
	if len(c.Follow) > 0 {
		d.pending = c
		d.activities[mend].due = now
		return // what is asked next is asked after that
	}
	d.askNext(now)
}

// askNext plans the next questions.
func (d *Daemon) askNext(now time.Time) {
	if d.ProbeInterval == 0 {
		return
	}
	next := d.Backends.Next()
	if !d.Once {
		if all := d.asked.Add(jitter(d.ProbeInterval)); next.IsZero() || all.Before(next) {
			next = all
		}
	}
	if !next.IsZero() && next.Before(now) {
		next = now
	}
	d.activities[ask].due = next
}

// mending leads the rules back to what they should be, and to new options.
func (d *Daemon) mending(time.Time) work {
	c := d.pending
	d.pending = Conclusion{}
	return func(ctx context.Context) func(time.Time) {
		done, err := d.Host().Mend(ctx, protect.Mending{Renewed: c.Follow, Force: d.Force, Warmup: d.Warmup})
		var kept []protect.Finding
		if err == nil {
			kept = d.learn(ctx, c.Answers)
		}
		return func(now time.Time) {
			if err != nil && d.over() {
				d.tell(event(slog.LevelWarn, "interrupted", "", "a change was interrupted: %v", err))
				return
			}
			d.mended(now, c, done, err)
			for _, f := range kept {
				d.tell(event(slog.LevelWarn, f.Code, f.Hint, "%s", f.Message))
			}
			d.status()
		}
	}
}

// mended makes something of a change; done is nil if it failed.
func (d *Daemon) mended(now time.Time, c Conclusion, done *protect.Applied, err error) {
	changes, backend := 0, ""
	if err == nil {
		changes, backend = len(done.Changes), done.Backend
		d.protects(protect.Active, done.Services)
	}
	d.sum.Mended += changes
	if d.Once && err != nil && !gaveWay(err) {
		d.fault = err
	}
	switch {
	case len(c.Follow) > 0:
		d.follow(now, c, err)
		d.askNext(now)
	default:
		d.tell(d.Rules.Mended(now, changes, backend, err)...)
	}
	if d.Once && d.sum.Looks < patience && err == nil {
		d.activities[look].due = now // what is there now?
	}
}

// follow tells how following went.
func (d *Daemon) follow(now time.Time, c Conclusion, err error) {
	switch {
	case err == nil:
		c = c.made(d.services)
		d.sum.Followed += len(c.Follow)
		d.tell(d.Backends.Followed(now, c)...)
	case gaveWay(err):
	default:
		d.tell(event(slog.LevelError, "follow-failed", protect.HintOf(err), "the rules do not follow %s: %v", count(len(c.Follow), "backend"), err))
	}
}

// learn keeps the answers for the next boot.
func (d *Daemon) learn(ctx context.Context, answers []protect.Answer) []protect.Finding {
	if d.Memory == nil || len(answers) == 0 {
		return nil
	}
	m, err := d.Memory()
	if err != nil {
		return []protect.Finding{{Severity: protect.Warn, Code: "cache-unwritten", Message: fmt.Sprintf("the answers are not kept: %v", err)}}
	}
	return m.Renew(ctx, d.Probe, answers)
}

var errNothingToRead = errors.New("nothing to read")

// reload asks for a reload.
func (d *Daemon) reload(now time.Time) {
	d.notify("RELOADING=1")
	d.activities[reload].due = now
}

// reloading reads anew what should be.
func (d *Daemon) reloading(time.Time) work {
	return func(ctx context.Context) func(time.Time) {
		var done *protect.Applied
		err := errNothingToRead
		if d.Reload != nil {
			done, err = d.Reload(ctx)
		}
		return func(now time.Time) {
			switch {
			case err == nil:
				d.sum.Mended += len(done.Changes)
				d.protects(protect.Active, done.Services)
				d.tell(event(slog.LevelInfo, "reloaded", "", "the file was read and applied: %s, %s by %s", count(len(done.Services), "service"), count(len(done.Changes), "change"), done.Backend))
			case errors.Is(err, errNothingToRead):
				d.tell(event(slog.LevelInfo, "reloaded", "", "without -c FILE there is nothing to read anew; rules and backends are looked at"))
				d.asked = time.Time{}
				if d.ProbeInterval > 0 {
					d.activities[ask].due = now
				}
			case d.over():
				return
			case protect.CodeOf(err) == protect.NotApplied:
				d.tell(event(slog.LevelWarn, "reloaded", protect.HintOf(err), "the file was read and holds, but is not applied: %v", err))
			default:
				d.tell(event(slog.LevelError, "reload-failed", protect.HintOf(err), "the file is not taken, and what was read before holds: %v", err))
			}
			d.activities[look].due = now
			d.notify("READY=1")
		}
	}
}

// status tells the service manager in a line how things are.
func (d *Daemon) status() {
	line := fmt.Sprintf("STATUS=%s: %s", d.sum.State, count(len(d.services), "service"))
	if n := len(d.Rules.Open()); n > 0 {
		line += fmt.Sprintf("; %s about the rules", count(n, "finding"))
	}
	if differ, silent := d.Backends.Open(); differ+silent > 0 {
		line += fmt.Sprintf("; backends: %d differ, %d silent", differ, silent)
	}
	if d.sum.Mended > 0 || d.sum.Followed > 0 {
		line += fmt.Sprintf("; %s made, %s followed", count(d.sum.Mended, "change"), count(d.sum.Followed, "backend"))
	}
	if line != d.line {
		d.line = line
		d.notify(line)
	}
}
