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

// transmit sends what is due, but at most a step.
func (r *run) transmit(now time.Duration) error {
	if r.unchecked >= 4*step {
		for _, s := range r.opened {
			if s.crowded() {
				r.pacer.next = max(r.pacer.next, now+relief)
			}
		}
		r.unchecked = 0
	}
	n := min(r.pacer.due(now), step)
	for range n {
		index, queue, ok := r.pick(now)
		if !ok {
			break
		}
		if err := r.launch(index, queue); err != nil {
			return err
		}
	}
	for _, s := range r.sockets {
		if err := s.flush(r.refused); err != nil {
			return err
		}
	}
	return nil
}

// pick takes the flight that is to be sent next, and says where it will wait: one that was not answered goes before new ones, those before
// repetitions.
func (r *run) pick(now time.Duration) (index int, queue *fifo, ok bool) {
	if !r.once.empty() {
		if w := r.once.first(); !r.flights[w.flight].done && now-w.since >= r.patience() {
			return r.once.pop().flight, &r.twice, true
		}
	}
	for ; r.round < r.cfg.Count; r.round, r.target = r.round+1, 0 {
		for r.target < len(r.all) {
			i := r.target
			r.target++
			if r.all[i].way != nil {
				return i*r.rounds + r.round, &r.once, true
			}
		}
	}
	if !r.repeats.empty() && r.repeats.first().since <= now {
		return r.repeats.pop().flight, &r.once, true
	}
	return 0, nil, false
}

// patience is how long a flight waits until it is sent again, and then until it is given up.
func (r *run) patience() time.Duration { return r.cfg.Timeout / 2 }

// launch puts one segment into the outbox of its socket, and sends what that holds when it is full.
func (r *run) launch(index int, queue *fifo) error {
	a, f := &r.all[index/r.rounds], &r.flights[index]
	now := r.now()
	if f.sent == 0 {
		f.sent = now
	}
	queue.push(index, now)
	r.pacer.sent(1)
	r.unchecked++
	s := r.sockets[familyName(a.addr.Addr())]
	s.out.add(index, r.segment(index), a.way, a.addr.Addr())
	if s.out.used == maxOutbox {
		return s.flush(r.refused)
	}
	return nil
}

// expire drops the flights that are done from the heads of the queues, and gives up those that have waited for too long.
//
// Where this program had to wait for a processor, answers may have come in time that nobody has looked at. Those are looked at
// first, for at most as long again, since forged ones may go on coming.
func (r *run) expire(now time.Duration) {
	quiet := false
	for !r.once.empty() && r.flights[r.once.first().flight].done {
		r.once.pop()
	}
	for !r.twice.empty() {
		w := r.twice.first()
		if !r.flights[w.flight].done {
			overdue := now - w.since - r.patience()
			if overdue < 0 {
				return
			}
			if !quiet && overdue < r.patience() {
				if quiet = r.quiet(); !quiet {
					r.grace = now + relief
					return
				}
			}
			r.settle(w.flight, nil)
		}
		r.twice.pop()
	}
}

// quiet tells whether every packet that has come has been taken. It looks in the order in which they pass: none goes back.
func (r *run) quiet() bool {
	for _, s := range r.opened {
		if used, _, ok := s.memory(); ok && used > 0 || s.reading.Load() {
			return false
		}
	}
	return len(r.arrivals) == 0
}

// idle tells whether nothing is left to be sent or waited for.
func (r *run) idle() bool {
	return r.round == r.cfg.Count && r.once.empty() && r.twice.empty() && r.repeats.empty()
}

// sleep is the time until something is to be sent or given up.
func (r *run) sleep(now time.Duration) time.Duration {
	const never = time.Hour
	send, wake := never, never
	if r.round < r.cfg.Count {
		send = now
	}
	if !r.once.empty() {
		send = min(send, r.once.first().since+r.patience())
	}
	if !r.repeats.empty() {
		send = min(send, r.repeats.first().since)
	}
	if send != never {
		wake = max(send, r.pacer.next)
	}
	if !r.twice.empty() {
		wake = min(wake, max(r.twice.first().since+r.patience(), r.grace))
	}
	return wake - now
}
