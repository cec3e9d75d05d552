package protect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// RunDir is where the undo records and locks live: a directory that vanishes
// with a reboot, as the rules do.
const RunDir = "/run/synproxyctl"

// Host is the network namespace of the calling thread, seen as something to
// protect. Its methods must be called from a thread that stays in it. The zero
// value is ready to use.
type Host struct {
	// LockTimeout is how long to wait for another instance; 0: not at all.
	LockTimeout time.Duration
	// Wrap, if set, is put around each backend: tests make steps fail with it.
	Wrap func(rules.Backend) rules.Backend
	// Progress, if set, is told how far a wait has come.
	Progress func(phase string, done, total int)
	// Announce, if set, is told what is at risk before the first change.
	Announce func([]Finding)
	// Checkpoint, if set, is called after each effect: tests crash there.
	Checkpoint func(step string)
	// Sysctl is the directory of the kernel's settings; zero: the real one.
	Sysctl sysctl.FS
	routes routes
}

// needed are the settings that the protection does not work without: with
// loose tracking, the ACK that brings a cookie back would start a connection
// instead of being judged by SYNPROXY.
var needed = []sysctl.Setting{{Key: loose, Value: "0"}}

func (h *Host) wrap(b rules.Backend) rules.Backend {
	if h.Wrap != nil {
		return h.Wrap(b)
	}
	return b
}

// CanChange checks that this process may change rules and settings.
func CanChange() error {
	if err := kernel.Require(kernel.NetAdmin, kernel.NetRaw); err != nil {
		return Errorf(Permission, "run it as root (sudo), or grant the capability", "rules and settings of the network: %w", err)
	}
	return nil
}

// Ready checks what an apply by the named backend will need, so that it need not
// probe first to find it missing. An empty name, or "auto", is any backend.
func (h *Host) Ready(backend string) error {
	if err := CanChange(); err != nil {
		return err
	}
	var err error
	if backend == "" || backend == "auto" || backend == AnyIPTables {
		_, err = rules.FindAll()
	} else {
		_, err = rules.Find(backend)
	}
	return err
}

// open returns the store of this namespace.
func (h *Host) open() (store, error) {
	id, err := kernel.NetNSID()
	if err != nil {
		return store{}, fmt.Errorf("network namespace: %w", err)
	}
	return store{dir: RunDir, id: id}, nil
}

// ErrBusy means that another instance had the lock all the time.
var ErrBusy = errors.New("another instance is changing this network namespace")

// lock keeps other instances from this namespace until it is released.
func (h *Host) lock(ctx context.Context, s store) (release func(), err error) {
	if err := s.makeFolder(); err != nil {
		return nil, err
	}
	if err := s.makeLock(); err != nil {
		return nil, err
	}
	l := s.newLock()
	// At once first: with a short timeout the other way may not try at all.
	ok, err := l.TryLock()
	wait := h.LockTimeout
	if err == nil && !ok {
		// Whoever only looks shares it, for a moment, and is no reason to give up.
		const look = 300 * time.Millisecond
		if shared, rerr := l.TryRLock(); rerr == nil && shared {
			_ = l.Unlock() // taken anew below
			wait = max(wait, look)
		}
	}
	if err == nil && !ok && wait > 0 {
		waitCtx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		const poll = 20 * time.Millisecond
		ok, err = l.TryLockContext(waitCtx, poll)
	}
	switch {
	case ok:
		return func() { _ = l.Close() }, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err == nil, errors.Is(err, context.DeadlineExceeded):
		return nil, Errorf(Conflict, "wait for it to end, or give it more time with --lock-timeout",
			"%w; waited %v", ErrBusy, h.LockTimeout)
	}
	return nil, fmt.Errorf("lock %s: %w", l.Path(), err)
}

// begin checks the rights to change this namespace, and keeps other instances
// from it until it is released.
func (h *Host) begin(ctx context.Context) (s store, release func(), err error) {
	if err := CanChange(); err != nil {
		return s, nil, err
	}
	if s, err = h.open(); err != nil {
		return s, nil, err
	}
	release, err = h.lock(ctx, s)
	return s, release, err
}

// settled waits a moment until no instance is changing this namespace, so that a
// look at it does not meet a half-done change, and keeps others from beginning
// one until it is released. An instance that goes on is busy.
func (h *Host) settled(ctx context.Context, s store) (release func(), busy bool) {
	// If nobody has ever changed it, looking makes no file.
	if s.checkFolder() != nil || s.checkLock() != nil {
		return func() {}, false
	}
	const moment = time.Second
	ctx, cancel := context.WithTimeout(ctx, max(min(h.LockTimeout, moment), time.Millisecond))
	defer cancel()
	l := s.newLock()
	const poll = 5 * time.Millisecond
	ok, err := l.TryRLockContext(ctx, poll)
	return func() { _ = l.Close() }, !ok && errors.Is(err, context.DeadlineExceeded)
}

// held is a backend and what of ours it holds.
type held struct {
	backend rules.Backend
	rules   rules.Ruleset
	unseen  error // why that could not be seen: nft uses its tables
}

// find returns what the named backend holds. That it is not on this host, or
// cannot be seen, is an error: its rules could be live all the same.
func find(all []held, name string) (held, error) {
	for _, one := range all {
		if one.backend.Name() == name {
			return one, one.unseen
		}
	}
	if _, err := rules.Find(name); err != nil {
		return held{}, err
	}
	return held{}, fmt.Errorf("backend %s: appeared just now", name)
}

// survey lists what each backend that this host has holds of ours.
func (h *Host) survey(ctx context.Context) ([]held, error) {
	backends, err := rules.FindAll()
	if err != nil {
		return nil, err
	}
	var all []held
	for _, b := range backends {
		b = h.wrap(b)
		one := held{backend: b}
		one.rules, err = b.List(ctx)
		if err != nil {
			err = fmt.Errorf("backend %s: %w", b.Name(), err)
		}
		if errors.Is(err, rules.ErrIncompatible) {
			one.unseen, err = err, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// planSysctls returns the changes that the needed settings still want.
func (h *Host) planSysctls() ([]sysctl.Change, error) {
	changes, err := h.Sysctl.Plan(needed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Errorf(Unsupported, "load the module: modprobe nf_conntrack", "connection tracking is not there: %w", err)
	}
	return changes, err
}
