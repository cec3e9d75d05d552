package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// SoakKind is what a long-lived connection does.
type SoakKind int

const (
	// Chatty says a line at each interval and wants it back.
	Chatty SoakKind = iota
	// Idle says nothing until the end, when a line must still come back.
	Idle
	// Uploading sends pieces of data, each of which the server must have got whole.
	Uploading
	// Downloading asks for pieces of data, each of which must come whole.
	Downloading
)

// String returns "chatty", "idle", "uploading" or "downloading".
func (k SoakKind) String() string {
	return [...]string{"chatty", "idle", "uploading", "downloading"}[k]
}

// SoakConfig describes long-lived connections to one server.
type SoakConfig struct {
	// Mode is the server's: [ClientFirst] or [ServerFirst].
	Mode Mode
	// Kind is what each connection does.
	Kind SoakKind
	// Connections is how many to open; 0 means 1.
	Connections int
	// Interval is the time from the begin of one exchange, or piece, to the begin of the next, which comes at once
	// if the one took longer. 0 means 100 ms.
	Interval time.Duration
	// Piece is how many bytes an upload or a download moves at an interval; 0 means 256 KiB.
	Piece int64
	// Timeout is how long a connection may wait for its peer before it counts as failed; 0 means 10 s.
	Timeout time.Duration
}

// Soak is a number of long-lived connections at work.
type Soak struct {
	host  *Host
	cfg   SoakConfig
	conns []*soaking
	stop  chan struct{}
	once  sync.Once
	work  sync.WaitGroup
}

// Soak opens connections from the host to remote, proves each with a line and its echo, and puts them to work until
// [Soak.Stop] or until the lab is closed. The context bounds the opening only. An error tells that not all of them
// could be opened; then none is left.
func (h *Host) Soak(ctx context.Context, remote netip.AddrPort, cfg SoakConfig) (*Soak, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("host %s: soak %s: %w", h.name, remote, err)
	}
	s := &Soak{host: h, cfg: cfg, stop: make(chan struct{}), conns: make([]*soaking, cfg.Connections)}
	var opening sync.WaitGroup
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	errs := make([]error, cfg.Connections)
	for i := range s.conns {
		s.conns[i] = &soaking{cfg: cfg, stop: s.stop}
		opening.Go(func() { errs[i] = s.conns[i].open(ctx, h, remote) })
	}
	opening.Wait()
	err := errors.Join(errs...)
	if err == nil {
		err = h.own(s)
	}
	if err != nil {
		s.closeAll()
		return nil, fmt.Errorf("host %s: soak %s: %w", h.name, remote, err)
	}
	for _, c := range s.conns {
		s.work.Go(c.run)
	}
	return s, nil
}

func (cfg *SoakConfig) complete() error {
	if cfg.Mode != ClientFirst && cfg.Mode != ServerFirst {
		return errors.New("mode: neither client-first nor server-first")
	}
	if cfg.Kind < Chatty || cfg.Kind > Downloading {
		return fmt.Errorf("kind %d: unknown", cfg.Kind)
	}
	if cfg.Connections < 0 || cfg.Interval < 0 || cfg.Piece < 0 || cfg.Timeout < 0 {
		return errors.New("negative value")
	}
	if cfg.Connections == 0 {
		cfg.Connections = 1
	}
	if cfg.Interval == 0 {
		cfg.Interval = 100 * time.Millisecond
	}
	if cfg.Piece == 0 {
		cfg.Piece = 256 << 10
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	return nil
}

// Stop lets each connection finish what it does, say a last line, and end; idle ones speak again for the first time.
// It returns what became of all of them, the same when it is called again.
func (s *Soak) Stop() *SoakResult {
	s.once.Do(func() { close(s.stop) })
	s.work.Wait()
	s.host.disown(s)
	s.closeAll()
	res := &SoakResult{Errors: map[string]int{}}
	for _, c := range s.conns {
		res.add(c)
	}
	return res
}

// Close cuts the connections, for a lab that is closed. What that breaks counts as failed.
func (s *Soak) Close() error {
	s.closeAll()
	s.Stop()
	return nil
}

func (s *Soak) closeAll() {
	for _, c := range s.conns {
		if c.conn != nil {
			c.conn.Close()
		}
	}
}
