package protect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// Watching tells who watches over a network namespace.
type Watching struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
	// LastRound is when it has compared the rules last.
	LastRound time.Time `json:"last_round"`
}

// A Watcher is the only one that watches over its network namespace, until it is
// closed or its process ends.
type Watcher struct {
	lock *flock.Flock
	path string
}

func (s store) watchPath() string { return filepath.Join(s.dir, s.id+".watch") }

// Watch makes this process the only one that watches. The error is [Conflict]
// if another one does.
func (h *Host) Watch(ctx context.Context) (*Watcher, error) {
	if err := CanChange(); err != nil {
		return nil, err
	}
	s, err := h.open()
	if err != nil {
		return nil, err
	}
	if err := s.makeFolder(); err != nil {
		return nil, err
	}
	if err := checkPlain(s.watchPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l := flock.New(s.watchPath(), flock.SetFlag(os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK), flock.SetPermissions(0o600))
	// Whoever looks at the status has it for a moment.
	const moment, poll = 200 * time.Millisecond, 10 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	ok, err := l.TryLockContext(ctx, poll)
	switch {
	case err != nil && !errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("lock %s: %w", s.watchPath(), err)
	case !ok:
		by := "another process"
		if w := s.watching(); w != nil && w.PID > 0 {
			by = fmt.Sprintf("process %d, since %s", w.PID, w.Since.Local().Format(time.DateTime))
		}
		return nil, Errorf(Conflict, "let that one do it, or stop it first; see also: synproxyctl status", "this network namespace is watched by %s", by)
	}
	w := &Watcher{l, s.watchPath()}
	text, err := json.Marshal(Watching{PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		// In place: another file would not be the one that is locked.
		err = os.WriteFile(w.path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", w.path, err), l.Close())
	}
	return w, nil
}

// Seen notes when the rules were compared last, for [Status].
func (w *Watcher) Seen(at time.Time) {
	_ = os.Chtimes(w.path, at, at) // if it cannot be noted, status tells an older time
}

// Close lets others watch.
func (w *Watcher) Close() error { return w.lock.Close() }

// watching returns who watches; nil if nobody does.
func (s store) watching() *Watching {
	if s.checkFolder() != nil || checkPlain(s.watchPath()) != nil {
		return nil
	}
	l := flock.New(s.watchPath(), flock.SetFlag(os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK))
	free, err := l.TryRLock()
	_ = l.Close()
	if free || err != nil {
		return nil
	}
	f, err := os.OpenFile(s.watchPath(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	const longest = 1024
	text, err := io.ReadAll(io.LimitReader(f, longest))
	if err != nil {
		return nil
	}
	w := &Watching{}
	_ = json.Unmarshal(text, w) // it is being written: who watches is told the next time
	if fi, err := f.Stat(); err == nil {
		w.LastRound = fi.ModTime().UTC().Truncate(time.Second)
	}
	return w
}
