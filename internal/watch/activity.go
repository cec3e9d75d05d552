package watch

import (
	"context"
	"time"
)

// An activity is something that the daemon does again and again, in a goroutine
// of its own. All of them share one clock, which is the loop's.
type activity struct {
	name string
	// due is when it is to be done next; zero: it waits for something.
	due time.Time
	// alone is set if it changes rules or must see them whole: of those, one at
	// a time is done.
	alone bool
	// prepare takes from the loop what the work needs.
	prepare func(now time.Time) work
	// began is when it was started; zero: it does not run.
	began time.Time
}

// work is done beside the loop, and touches nothing of it. It returns what the
// loop is to make of what was found or done.
type work func(ctx context.Context) func(now time.Time)

// start starts what is due and may run.
func (d *Daemon) start(ctx context.Context, now time.Time) {
	for _, a := range d.activities {
		if a.due.IsZero() || now.Before(a.due) || !a.began.IsZero() || a.alone && d.busy || ctx.Err() != nil {
			continue
		}
		a.due, a.began = time.Time{}, now
		d.busy = d.busy || a.alone
		do := a.prepare(now)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, longestWork)
			defer cancel()
			conclude := do(ctx)
			d.done <- func(now time.Time) {
				a.began = time.Time{}
				if a.alone {
					d.busy = false
				}
				conclude(now)
			}
		}()
	}
}

// next is how long nothing is due.
func (d *Daemon) next(now time.Time) time.Duration {
	wait := time.Hour
	for _, a := range d.activities {
		if !a.due.IsZero() && a.began.IsZero() && (!a.alone || !d.busy) {
			wait = min(wait, a.due.Sub(now))
		}
	}
	return max(wait, 0)
}

// idle reports whether a single round is over: nothing runs, and nothing is to
// be done for it.
func (d *Daemon) idle() bool {
	for _, a := range d.activities {
		if !a.began.IsZero() || !a.due.IsZero() {
			return false
		}
	}
	return true
}

// stuck reports whether something does not end although it was told to.
func (d *Daemon) stuck(now time.Time) bool {
	const grace = time.Minute
	for _, a := range d.activities {
		if !a.began.IsZero() && now.Sub(a.began) > longestWork+grace {
			return true
		}
	}
	return false
}
