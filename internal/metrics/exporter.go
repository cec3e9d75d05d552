package metrics

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// Exporter is a [prometheus.Collector] that reads the status when it is asked,
// and once for all who ask within a moment.
type Exporter struct {
	Reader Reader
	Log    *slog.Logger
	// Context ends what is being read.
	Context context.Context //nolint:containedctx // a collector is not given one

	one      sync.Mutex
	last     Snapshot
	read     time.Time // when the last one was
	reads    int
	failures int
	trouble  string // told last; empty: none
}

// The limits of a reading.
const (
	fresh   = time.Second      // for how long a snapshot does
	longest = 10 * time.Second // which Prometheus waits for too
)

// Describe implements [prometheus.Collector].
func (e *Exporter) Describe(ch chan<- *prometheus.Desc) { Snapshot{}.Describe(ch) }

// Collect implements [prometheus.Collector].
func (e *Exporter) Collect(ch chan<- prometheus.Metric) { e.snapshot().Collect(ch) }

// Reads tells how often the status was read, and how often that failed.
func (e *Exporter) Reads() (reads, failures int) {
	e.one.Lock()
	defer e.one.Unlock()
	return e.reads, e.failures
}

func (e *Exporter) snapshot() Snapshot {
	e.one.Lock()
	defer e.one.Unlock()
	if !e.read.IsZero() && time.Since(e.read) < fresh {
		return e.last
	}
	ctx, cancel := context.WithTimeout(e.Context, longest)
	defer cancel()
	s, uncounted, err := e.Reader.Read(ctx)
	e.last, e.read = s, time.Now()
	e.reads++
	if err != nil {
		e.failures++
	}
	if e.Context.Err() == nil {
		e.tell(uncounted, err)
	}
	return s
}

// tell logs trouble once, and its end.
func (e *Exporter) tell(uncounted, err error) {
	now := ""
	switch {
	case err != nil:
		now = err.Error()
	case uncounted != nil:
		now = uncounted.Error()
	}
	switch {
	case now == e.trouble:
	case err != nil:
		e.Log.Error("the status cannot be read: "+now, "code", "unread", "hint", protect.HintOf(err))
	case uncounted != nil:
		e.Log.Warn("how far the counters have got is not kept: "+now, "code", "uncounted", "hint", protect.HintOf(uncounted))
	default:
		e.Log.Info("the status can be read again", "code", "read")
	}
	e.trouble = now
}
