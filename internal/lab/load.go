package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// LoadConfig describes many short connections to one server.
type LoadConfig struct {
	// Connections is how many to make in all; 0 means as many as fit until the context ends.
	Connections int
	// Concurrency is how many at a time; 0 means 1. Each costs a thread.
	Concurrency int
	// Mode is the server's: [ClientFirst] or [ServerFirst].
	Mode Mode
	// Timeout bounds one connection from connect to close; 0 means 5 s.
	Timeout time.Duration
	// LocalPort is the source port of every connection; 0 lets the kernel choose. It needs a Concurrency of 1.
	LocalPort uint16
	// Reset ends each connection by RST (SO_LINGER 0) right after the answer. Otherwise the server closes first,
	// so that the client keeps no TIME_WAIT either way, and runs out of no ports.
	Reset bool
	// Services is how many successive addresses, from the remote one on, take turns in no particular order; 0 means 1.
	// They differ in their last 32 bits only.
	Services int
	// Rate is how many connections to begin in a second at most; 0 means no limit.
	Rate float64
}

// Load makes connections from the host to remote and checks every byte that comes back. A latency runs from the
// begin of connect to the first useful answer: the banner, or the echo of what the client said. That is the proof;
// connect alone proves nothing behind a SYNPROXY, which answers for a server that is down.
//
// A context that ends stops new connections only; those begun are finished within their Timeout. The error is for
// a wrong config; connections that fail are in the result.
func (h *Host) Load(ctx context.Context, remote netip.AddrPort, cfg LoadConfig) (*LoadResult, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("host %s: load %s: %w", h.name, remote, err)
	}
	var wg sync.WaitGroup
	res := &LoadResult{Errors: map[string]int{}}
	tickets := make(chan int)
	start := time.Now()
	errs := make([]error, cfg.Concurrency)
	for i := range cfg.Concurrency {
		wg.Go(func() {
			errs[i] = h.Do(func() error {
				for n := range tickets {
					latency, err := once(cfg.turn(remote, n), cfg, n)
					res.add(latency, err)
				}
				return nil
			})
			for range tickets { // a worker that could not begin must not block the others
				res.add(0, errs[i])
			}
		})
	}
	cfg.issue(ctx, tickets)
	wg.Wait()
	res.Duration = time.Since(start)
	res.sort()
	return res, errors.Join(errs...)
}

func (cfg *LoadConfig) complete() error {
	if cfg.Mode != ClientFirst && cfg.Mode != ServerFirst {
		return errors.New("mode: neither client-first nor server-first")
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 1
	}
	if cfg.LocalPort != 0 && cfg.Concurrency > 1 {
		return errors.New("a fixed local port needs a concurrency of 1")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Services < 0 || cfg.Connections < 0 || cfg.Concurrency < 0 || cfg.Timeout < 0 || cfg.Rate < 0 {
		return errors.New("negative value")
	}
	return nil
}

// turn returns the service of connection n: jumps of a large prime visit all services before any a second time.
func (cfg *LoadConfig) turn(remote netip.AddrPort, n int) netip.AddrPort {
	if cfg.Services < 2 {
		return remote
	}
	b := remote.Addr().AsSlice()
	last := b[len(b)-4:]
	jump := uint64(n) * 2_654_435_761 % uint64(cfg.Services)
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(jump))
	at, _ := netip.AddrFromSlice(b) // as long as it was
	return netip.AddrPortFrom(at, remote.Port())
}

// issue hands out the numbers of the connections to make, at the asked rate, and closes tickets.
func (cfg *LoadConfig) issue(ctx context.Context, tickets chan<- int) {
	defer close(tickets)
	start := time.Now()
	for n := 0; cfg.Connections == 0 || n < cfg.Connections; n++ {
		if cfg.Rate > 0 {
			due := start.Add(time.Duration(float64(n) / cfg.Rate * float64(time.Second)))
			if !sleep(ctx, time.Until(due)) {
				return
			}
		}
		select {
		case tickets <- n:
		case <-ctx.Done():
			return
		}
	}
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

var errAnswer = errors.New("not the answer that the server gives")

// once makes one connection, number n, from the calling thread's namespace.
func once(remote netip.AddrPort, cfg LoadConfig, n int) (time.Duration, error) {
	start := time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), start.Add(cfg.Timeout))
	defer cancel()
	conn, err := dialer(remote, cfg.LocalPort).DialContext(ctx, "tcp", remote.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(start.Add(cfg.Timeout)); err != nil {
		return 0, err
	}
	r := bufio.NewReaderSize(conn, maxLine)
	latency, err := converse(conn, r, cfg.Mode, start, fmt.Sprintf("hello %d\n", n))
	if err != nil {
		return 0, err
	}
	if cfg.Reset {
		return latency, conn.(*net.TCPConn).SetLinger(0)
	}
	if err := exchange(conn, r, Bye); err != nil {
		return 0, err
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("after the end: %w", errors.Join(errAnswer, err))
	}
	return latency, nil
}

// converse proves the connection, both ways, and returns when the first answer came.
func converse(conn net.Conn, r *bufio.Reader, mode Mode, start time.Time, line string) (time.Duration, error) {
	if mode == ServerFirst {
		banner, err := r.ReadString('\n')
		latency := time.Since(start)
		if err != nil {
			return 0, err
		}
		if banner != Banner {
			return 0, fmt.Errorf("banner %q: %w", banner, errAnswer)
		}
		return latency, exchange(conn, r, line)
	}
	err := exchange(conn, r, line)
	return time.Since(start), err
}

// exchange says a line and expects it back.
func exchange(conn net.Conn, r *bufio.Reader, line string) error {
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	answer, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	if answer != line {
		return fmt.Errorf("answer %q to %q: %w", answer, line, errAnswer)
	}
	return nil
}
