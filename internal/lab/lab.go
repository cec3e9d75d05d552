package lab

import (
	"errors"
	"fmt"
	"sync"
)

// Lab owns hosts, and whatever runs on them. Its methods may be used by several goroutines at once.
type Lab struct {
	id       int64
	outerNet uint64

	mu     sync.Mutex
	hosts  []*Host
	links  int
	closed bool
}

// NewLab returns an empty network. Close it when done.
func (w *World) NewLab() *Lab {
	return &Lab{id: w.labs.Add(1), outerNet: w.outerNet}
}

// Host makes a host: a network namespace with lo up and nothing else. Names are unique within a lab.
func (l *Lab) Host(name string) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("host %s: %w", name, errClosed)
	}
	for _, h := range l.hosts {
		if h.name == name {
			return nil, fmt.Errorf("host %s: exists already", name)
		}
	}
	h, err := newHost(l, name)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	l.hosts = append(l.hosts, h)
	return h, nil
}

// Close stops every server, capture and command of every host, and gives the namespaces back. Closing twice is
// harmless.
func (l *Lab) Close() error {
	l.mu.Lock()
	hosts := l.hosts
	l.hosts, l.closed = nil, true
	l.mu.Unlock()
	// Each host's own work can depend on another host, so all are told to stop before any namespace goes.
	errs := make([]error, 0, 2*len(hosts))
	for _, h := range hosts {
		errs = append(errs, h.stop())
	}
	for _, h := range hosts {
		errs = append(errs, h.release())
	}
	return errors.Join(errs...)
}

// nextLink returns a number that no other link of the lab has, for its MAC addresses.
func (l *Lab) nextLink() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links++
	return l.links
}
