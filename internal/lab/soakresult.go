package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// SoakResult tells what became of the connections of one [Soak], or of several.
type SoakResult struct {
	// OK is how many connections worked to their end.
	OK int
	// Failed is how many did not.
	Failed int
	// Errors counts the failures by kind, as in a [LoadResult].
	Errors map[string]int
	// Failures has a line about each failure, with its time of day.
	Failures []string
	// Exchanges is how many lines came back and pieces arrived.
	Exchanges int64
	// Bytes is how many of them were uploaded or downloaded.
	Bytes int64
	// Gaps has the longest wait of each connection, shortest first: for a line's echo, for the next bytes of a
	// download, for the next bytes of an upload to be acknowledged. The pauses that a connection makes of its own
	// accord are not in it, a round trip is.
	Gaps []time.Duration
	// WorstAt is when the longest of them ended.
	WorstAt time.Time
}

// clock is how a result tells a time of day.
const clock = "15:04:05.000"

func (r *SoakResult) add(c *soaking) {
	if c.err != nil {
		r.Failed++
		r.Errors[errKind(c.err)]++
		r.Failures = append(r.Failures, fmt.Sprintf("%s: %s connection: %v", c.errAt.Format(clock), c.cfg.Kind, c.err))
	} else {
		r.OK++
	}
	r.Exchanges += c.done
	r.Bytes += c.bytes
	if c.gap > r.Max() {
		r.WorstAt = c.gapAt
	}
	r.Gaps = append(r.Gaps, c.gap)
	r.sort()
}

func (r *SoakResult) sort() { slices.Sort(r.Gaps) }

// Add counts another result into this one.
func (r *SoakResult) Add(other *SoakResult) {
	if r.Errors == nil {
		r.Errors = map[string]int{}
	}
	for kind, n := range other.Errors {
		r.Errors[kind] += n
	}
	if other.Max() > r.Max() {
		r.WorstAt = other.WorstAt
	}
	r.OK, r.Failed = r.OK+other.OK, r.Failed+other.Failed
	r.Exchanges, r.Bytes = r.Exchanges+other.Exchanges, r.Bytes+other.Bytes
	r.Failures, r.Gaps = append(r.Failures, other.Failures...), append(r.Gaps, other.Gaps...)
	r.sort()
}

// Percentile returns the gap that p percent of the connections did not exceed (nearest rank; p from 0 to 100), or 0
// when there are none.
func (r *SoakResult) Percentile(p float64) time.Duration { return percentile(r.Gaps, p) }

// Max returns the longest gap of all connections, or 0 when there are none.
func (r *SoakResult) Max() time.Duration { return r.Percentile(100) }

// String gives one line, such as "8 ok, 0 failed, 900 exchanges, 12.5 MB, gaps p50 61ms, p99 70ms, max 70ms at
// 12:00:01.234".
func (r *SoakResult) String() string {
	var b strings.Builder
	writeCounts(&b, r.OK, r.Failed, r.Errors)
	fmt.Fprintf(&b, ", %d exchanges, %.1f MB", r.Exchanges, float64(r.Bytes)/1e6)
	if len(r.Gaps) > 0 {
		round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
		fmt.Fprintf(&b, ", gaps p50 %v, p99 %v, max %v", round(r.Percentile(50)), round(r.Percentile(99)), round(r.Max()))
	}
	if !r.WorstAt.IsZero() {
		fmt.Fprintf(&b, " at %s", r.WorstAt.Format(clock))
	}
	return b.String()
}
