package protect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// pending is a change that stands only until its deadline unless it is
// confirmed. It is written before the first change, so that whatever is killed,
// the way back is known.
type pending struct {
	Name     string    `json:"name"` // tells this change from later ones
	Deadline time.Time `json:"deadline"`
	Before   *record   `json:"before"`           // what it goes back to; nil: nothing was protected
	Failed   string    `json:"failed,omitempty"` // why going back did not succeed
}

// longestApply is added to the first deadline, which is set anew when the change is made.
const longestApply = 5 * time.Minute

// newPending prepares the way back to old. From a change that was itself not
// confirmed it leads back to what was there before that.
func newPending(try time.Duration, old *record) *pending {
	if old != nil && old.Pending != nil {
		old = old.Pending.Before
	}
	now := time.Now()
	return &pending{Name: fmt.Sprintf("%x", now.UnixNano()), Deadline: now.Add(try + longestApply), Before: old}
}

// Pending tells of a change that awaits its confirmation.
type Pending struct {
	Deadline time.Time `json:"deadline"`
	Seconds  float64   `json:"seconds_left"` // negative: it is over
}

func (p *pending) view() *Pending {
	if p == nil {
		return nil
	}
	return &Pending{p.Deadline.UTC().Truncate(time.Second), time.Until(p.Deadline).Round(time.Second).Seconds()}
}

func (p *pending) over() bool { return time.Now().After(p.Deadline) }

// Confirmed is the outcome of [Host.Confirm].
type Confirmed struct {
	Services Services `json:"services"`
}

// Confirm makes a change on trial permanent. The error is [NotApplied] if none is
// pending, and [Conflict] if its time is over.
func (h *Host) Confirm(ctx context.Context) (*Confirmed, error) {
	s, release, err := h.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	rec, err := s.load()
	switch {
	case err != nil:
		return nil, err
	case rec == nil || rec.Pending == nil:
		return nil, Errorf(NotApplied, "only an apply --try awaits a confirmation; see synproxyctl status", "nothing is pending in this network namespace")
	case rec.Unfinished:
		return nil, Errorf(Conflict, "apply again", "the change on trial did not come to its end")
	case rec.Pending.over():
		return nil, Errorf(Conflict, "apply again, and confirm in time", "the time to confirm was over at %s", rec.Pending.Deadline.Format(time.TimeOnly))
	}
	rec.Pending = nil
	if err := s.save(rec); err != nil {
		return nil, err
	}
	return &Confirmed{rec.Services}, h.step(ctx, "confirmed")
}

// Await waits until the named change is confirmed, replaced or taken back, and
// then returns nil; or until its time is over, or the apply that makes it has
// died, and then takes it back, as a guard does. Proxied connections live on:
// what was not there before drains. What fails is tried again.
func (h *Host) Await(ctx context.Context, name string) error {
	s, err := h.open()
	if err != nil {
		return err
	}
	w := watch{store: s}
	const poll, longest = 200 * time.Millisecond, time.Minute
	pause := poll
	for {
		over, err := h.overdue(&w, name)
		if err == nil && over {
			err = h.expire(ctx, s, name)
		}
		switch {
		case errors.Is(err, errNotMine):
			return nil
		case err == nil:
			pause = poll
		default:
			pause = min(2*pause, longest)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// errNotMine tells that a change on trial is one no more.
var errNotMine = errors.New("nothing to guard")

// overdue tells whether the named change may have to be taken back. As long as
// its apply holds the lock, it does not; the error is errNotMine if there is no
// such change.
func (h *Host) overdue(w *watch, name string) (bool, error) {
	rec, err := w.load()
	if err != nil {
		return false, err
	}
	mine := rec.tries(name)
	if mine && !rec.Unfinished {
		return rec.Pending.over(), nil
	}
	l := w.newLock()
	defer l.Close()
	if free, err := l.TryLock(); err != nil || !free {
		return false, err
	}
	// Whoever was to make it has ended, and has noted everything.
	if rec, err = w.store.load(); err == nil && !rec.tries(name) {
		err = errNotMine
	}
	return rec.tries(name) && (rec.Unfinished || rec.Pending.over()), err
}

// watch looks at a record again and again, and reads it only when it is another:
// each change makes a new file.
type watch struct {
	store
	file os.FileInfo // that was read last; nil: none
	rec  *record     // what it says, without services
}

func (w *watch) load() (*record, error) {
	file, err := os.Lstat(w.path())
	if err == nil && w.file != nil && os.SameFile(file, w.file) && file.ModTime().Equal(w.file.ModTime()) && file.Size() == w.file.Size() {
		return w.rec, nil
	}
	rec, lerr := w.store.load()
	w.file = nil
	if err != nil || lerr != nil || rec == nil {
		return rec, lerr
	}
	rec.Services = nil
	if rec.Pending != nil {
		rec.Pending.Before = nil
	}
	w.file, w.rec = file, rec
	return rec, nil
}

// tries reports whether the named change is on trial.
func (r *record) tries(name string) bool {
	return r != nil && r.Pending != nil && r.Pending.Name == name
}

// expire takes back the named change.
func (h *Host) expire(ctx context.Context, s store, name string) error {
	release, err := h.lock(ctx, s)
	if err != nil {
		return err
	}
	defer func() { release() }()
	rec, err := s.load()
	switch {
	case err != nil:
		return err
	case !rec.tries(name):
		return errNotMine
	case !rec.Unfinished && !rec.Pending.over():
		return nil
	}
	before := rec.Pending.Before
	if before != nil && !before.Draining {
		_, err = h.apply(ctx, s, Order{Services: before.Services, Backend: before.Backend, Force: true})
	} else {
		r := &Reverted{}
		if err = h.withdraw(ctx, s, rec, r); err == nil {
			release()
			release = func() {}
			err = h.drain(ctx, s, r, nil)
		}
	}
	if err != nil {
		rec.Pending.Failed = err.Error()
		if now, lerr := s.load(); lerr == nil && now.tries(name) {
			_ = s.save(rec) // what is wrong is told by the error
		}
	}
	return err
}
