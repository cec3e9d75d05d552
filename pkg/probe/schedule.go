package probe

import "time"

// pacer spreads what is sent over time. All times are since the run began.
type pacer struct {
	interval time.Duration // between two segments
	next     time.Duration // when the next one is due
}

// burst is how much of a delay, of this program or its machine, is caught up with: no network is to get in one burst what it was to get in a second.
const burst = 100 * time.Millisecond

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

// defaultRate is the rate for a number of segments, if none was given: that at which they take about three seconds, but neither less
// than 500 a second nor more than 15,000. So ten thousand targets take less than five seconds.
//
// It is safe for a network, as a SYN and what follows it are some 200 bytes: 15,000 are less than 15 Mbit/s each way. It is safe for the
// targets, since no address and port gets more than its own few segments, in rounds that are as long as the list. What it does load are firewalls on
// the way that remember each connection that is tried: for some 10 seconds if it is reset, up to two minutes if nobody answers. Four segments for
// 10,000 targets are 30,000 connections, where tables of today hold 65,536 or more; for smaller ones, and for longer lists of addresses that do not answer, there is
// [Config.Rate].
func defaultRate(segments int) int { return min(max(500, segments/3), 15_000) }

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
