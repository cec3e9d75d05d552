package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// TestSignals sends each signal that ends a program at the events of each sequence. What was begun goes back, to the
// last rule; only a revert that waits for connections stays where it is.
func TestSignals(t *testing.T) {
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM}
	var jobs []func()
	for _, seq := range sequences() {
		if strings.Contains(seq.name, "try") || seq.pending != 0 {
			continue
		}
		for b, backend := range backends {
			jobs = append(jobs, func() {
				t.Run(seq.name+"/"+backend, func(t *testing.T) {
					l := newLane(t, seq, backend)
					first, step := 1+b%2, 2 // the backends share most of the events
					if *full {
						first, step = 1, 1
					}
					for n, more := first, true; more; n += step {
						more = l.signal(n, signals[n%len(signals)])
					}
				})
			})
		}
	}
	atOnce(jobs)
}

// signal sends one at an event, and tells whether there was one.
func (l *lane) signal(n int, signal syscall.Signal) bool {
	l.reset()
	d := l.seq.do
	d.Services, d.Backend, d.At, d.Signal = l.seq.to, l.target, n, signal
	got := perform(l.t, l.fw, d)
	what := fmt.Sprintf("%v at %d %v", signal, n, got.events[min(n, len(got.events))-1])
	switch {
	case got.result == nil:
		l.t.Fatalf("%s: it died: %s", what, got.output)
	case len(got.events) <= n && got.result.Code == "":
		return false // it came after all was done, if at all
	case got.result.Code == "" && got.result.State == protect.Draining: // the wait was over at that moment
	case got.result.Code != protect.Interrupted || got.result.Hint == "" || !strings.Contains(got.result.Error, "signal"):
		l.t.Errorf("%s: %+v", what, *got.result)
	}
	l.works(what, !l.seq.lost)
	if got.result.State != "" { // of what is not protected any more
		if state := mustDo(l.t, l.fw, 0, "status")["state"]; state != string(got.result.State) {
			l.t.Errorf("%s: state %v", what, state)
		}
		return true
	}
	sameDump(l.t, l.begun, l.state())
	if l.t.Failed() {
		l.t.Fatal(what)
	}
	return true
}
