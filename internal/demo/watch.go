package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Live is what can be seen while a run goes on.
type Live struct {
	// SYNs is how many frames the attacker has sent so far.
	SYNs uint64
	// Conntrack is how many connections the firewall tracks now.
	Conntrack int
	// SYNQueue is how many half-open connections the server holds now.
	SYNQueue int
	// Served is how many connections the server has accepted so far, of those of this run.
	Served int64
}

// sampling is the time between two looks.
const sampling = 200 * time.Millisecond

// watch looks at the machines until it is stopped, and keeps the worst that it saw.
type watch struct {
	stage *stage
	tell  func(Live)
	quit  chan struct{}
	once  sync.Once
	begin int64 // what the server had accepted before
	done  sync.WaitGroup

	conntrack Conntrack
	synQueue  int
	err       error
}

// watch begins to look.
func (s *stage) watch(ctx context.Context, tell func(Live)) (*watch, error) {
	w := &watch{stage: s, tell: tell, quit: make(chan struct{}), begin: s.server.Accepted()}
	var err error
	if w.conntrack.Max, err = s.number("net.netfilter.nf_conntrack_max"); err != nil {
		return nil, err
	}
	w.done.Go(func() {
		ticks := time.NewTicker(sampling)
		defer ticks.Stop()
		for w.err == nil {
			select {
			case <-ticks.C:
				w.look()
			case <-w.quit:
				return
			case <-ctx.Done():
				return
			}
		}
	})
	return w, nil
}

// stop ends it after a last look, and returns what went wrong. Stopping twice is harmless.
func (w *watch) stop() error {
	w.once.Do(func() {
		close(w.quit)
		w.done.Wait()
		if w.err == nil {
			w.look()
		}
	})
	return w.err
}

// look takes one sample.
func (w *watch) look() {
	var l Live
	count, err1 := w.stage.number("net.netfilter.nf_conntrack_count")
	queue, err2 := w.stage.halfOpen()
	link, err3 := w.stage.topo.Attacker.Netlink().LinkByName("eth0")
	if w.err = errors.Join(err1, err2, err3); w.err != nil {
		return
	}
	if st := link.Attrs().Statistics; st != nil {
		l.SYNs = st.TxPackets
	}
	l.Conntrack, l.SYNQueue, l.Served = count, queue, w.stage.server.Accepted()-w.begin
	w.conntrack.Peak, w.synQueue = max(w.conntrack.Peak, count), max(w.synQueue, queue)
	w.tell(l)
}

// number reads a setting of the firewall that is a number.
func (s *stage) number(key string) (int, error) {
	text, err := s.topo.Firewall.Sysctl(key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("sysctl %s: %w", key, err)
	}
	return n, nil
}

// halfOpen counts the server's connections in the state SYN_RECV, which is 03 in /proc/net/tcp (enum in
// include/net/tcp_states.h, Linux 6.18).
func (s *stage) halfOpen() (int, error) {
	n := 0
	err := s.topo.Server.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/tcp")
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "03" {
				n++
			}
		}
		return err
	})
	return n, err
}
