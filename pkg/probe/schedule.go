package probe

import "time"

// pacer spreads what is sent over time. All times are since the run began.
type pacer struct {
	interval time.Duration // between two segments
	next     time.Duration // when the next one is due
}

// burst is how much of a delay, of this program or its machine, is caught up with: no network is to get in one burst what it was to get in a second.
const burst = 25 * time.Millisecond

// due is how many segments may be sent now.
func (p *pacer) due(now time.Duration) int {
	if earliest := now - max(burst, p.interval); p.next < earliest {
		p.next = earliest
	}
	if p.next > now {
		return 0
	}
	return int((now-p.next)/p.interval) + 1
}

func (p *pacer) sent(n int) { p.next += time.Duration(n) * p.interval }

// defaultRate is the rate for a number of segments, if none was given: that at which they take about four seconds, but neither less than 500
// a second nor more than 10,000. A SYN and what follows it are some 200 bytes, so the highest rate is below 10 Mbit/s each way, and no target gets more than its own few segments.
// But firewalls on the way remember each connection that is tried, for 10 seconds if it is reset and up to two minutes if nobody answers.
func defaultRate(segments int) int { return min(max(500, segments/4), 10_000) }

// waiting is a flight and since when it has been waiting.
type waiting struct {
	flight int
	since  time.Duration
}

// fifo holds flights in the order of their times. The zero value is empty.
type fifo struct {
	items []waiting
	head  int
}

func (q *fifo) push(flight int, since time.Duration) {
	if q.head > 1024 && q.head > len(q.items)/2 {
		q.items, q.head = append(q.items[:0], q.items[q.head:]...), 0
	}
	q.items = append(q.items, waiting{flight, since})
}

func (q *fifo) empty() bool { return q.head == len(q.items) }

// first returns the oldest item of a queue that is not empty.
func (q *fifo) first() waiting { return q.items[q.head] }

func (q *fifo) pop() waiting {
	w := q.items[q.head]
	q.head++
	return w
}
