package metrics

import (
	"context"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// Reader reads snapshots of the network namespace of the calling thread. If the
// counters cannot be counted on beside the undo record, it does so in memory.
// It is for one goroutine at a time.
type Reader struct {
	Host        *protect.Host
	Version     string
	MaxServices int // see [Snapshot]
	total       kernel.SynproxyTotal
}

// Read returns a snapshot. The snapshot of a failure tells that there was one.
// If uncounted is not nil, the snapshot is whole, but counts from memory alone.
func (r *Reader) Read(ctx context.Context) (s Snapshot, uncounted, err error) {
	s = Snapshot{Version: r.Version, MaxServices: r.MaxServices}
	began := time.Now()
	st, err := r.Host.Status(ctx)
	if err != nil {
		return s, nil, err
	}
	total, uncounted := r.Host.CountOn(ctx)
	if uncounted == nil {
		r.total = total
	} else {
		r.total.Add(st.Counters)
	}
	s.Status, s.At, s.Took, s.Counters = st, began, time.Since(began), r.total.Total
	return s, uncounted, nil
}
