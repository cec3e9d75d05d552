package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// LoadResult tells what became of the connections of a [Host.Load].
type LoadResult struct {
	// OK is how many connections gave every answer that they should.
	OK int
	// Failed is how many did not.
	Failed int
	// Errors counts the failures by kind: timeout, refused, reset, unreachable, closed early, wrong answer, local
	// address in use, or the error's own text.
	Errors map[string]int
	// Failures has a line about each of the first hundred failures, with its time of day.
	Failures []string
	// Latencies are those of the good connections, shortest first.
	Latencies []time.Duration
	// Duration is how long the whole load took.
	Duration time.Duration

	mu sync.Mutex
}

func (r *LoadResult) add(latency time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.Failed++
		r.Errors[errKind(err)]++
		if len(r.Failures) < 100 {
			r.Failures = append(r.Failures, time.Now().Format(clock)+": "+err.Error())
		}
		return
	}
	r.OK++
	r.Latencies = append(r.Latencies, latency)
}

func (r *LoadResult) sort() { slices.Sort(r.Latencies) }

// Percentile returns the latency that p percent of the good connections did not exceed (nearest rank; p from 0
// to 100), or 0 when there was no good connection.
func (r *LoadResult) Percentile(p float64) time.Duration { return percentile(r.Latencies, p) }

// percentile returns the nearest rank of sorted durations, or 0 when there are none.
func percentile(sorted []time.Duration, p float64) time.Duration {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	rank := int(p/100*float64(n)+0.999999) - 1
	return sorted[min(max(rank, 0), n-1)]
}

// Max returns the longest latency of a good connection, or 0 when there was none.
func (r *LoadResult) Max() time.Duration { return r.Percentile(100) }

// String gives one line, such as "100 ok, 2 failed (2 timeout), p50 410µs, p99 1.2ms, max 1.3ms".
func (r *LoadResult) String() string {
	var b strings.Builder
	writeCounts(&b, r.OK, r.Failed, r.Errors)
	if r.OK > 0 {
		round := func(d time.Duration) time.Duration { return d.Round(time.Microsecond) }
		fmt.Fprintf(&b, ", p50 %v, p99 %v, max %v", round(r.Percentile(50)), round(r.Percentile(99)), round(r.Max()))
	}
	return b.String()
}

// writeCounts writes "100 ok, 2 failed (2 timeout)".
func writeCounts(b *strings.Builder, ok, failed int, kinds map[string]int) {
	fmt.Fprintf(b, "%d ok, %d failed", ok, failed)
	sep := " ("
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(b, "%s%d %s", sep, kinds[kind], kind)
		sep = ", "
	}
	if failed > 0 {
		b.WriteByte(')')
	}
}
