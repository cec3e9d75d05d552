package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// run is one call of [Probe]. Only the calling goroutine touches it; the receivers send it what they have read.
type run struct {
	cfg     Config
	router  *router
	byAddr  map[netip.AddrPort]*asked
	all     []*asked // in the order in which they were first named
	total   int      // targets
	done    int      // targets that are done
	sockets map[string]*rawSocket
	opened  []*rawSocket
	// reserved holds the sockets that keep our ports from everyone else, ports their numbers, one for each sample.
	reserved []int
	ports    map[netip.Addr][]uint16
	flights  map[flightKey]*flight
	queue    []*flight // in the order of sending
}

func (r *run) close() {
	for _, s := range r.opened {
		s.close()
	}
	for _, fd := range r.reserved {
		_ = unix.Close(fd)
	}
	if r.router != nil {
		r.router.close()
	}
}

// ask sends the segments of the queue at the rate and waits until each is answered or given up.
func (r *run) ask(ctx context.Context) error {
	arrivals := make(chan arrival, 256)
	stop := make(chan struct{})
	var receivers sync.WaitGroup
	for _, s := range r.opened {
		_ = s.file.SetReadDeadline(time.Time{})
		receivers.Go(func() { s.listen(arrivals, stop) })
	}
	defer receivers.Wait()
	defer func() {
		close(stop)
		for _, s := range r.opened {
			_ = s.file.SetReadDeadline(time.Unix(1, 0))
		}
	}()

	interval := time.Second / time.Duration(r.cfg.Rate)
	next, unsent, waiting := time.Now(), r.queue, r.queue
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		for len(unsent) > 0 && !next.After(now) {
			r.launch(unsent[0])
			unsent, next = unsent[1:], next.Add(interval)
		}
		waiting = r.expire(waiting, len(waiting)-len(unsent), now)
		if len(waiting) == 0 {
			return nil
		}
		timer.Reset(r.sleep(waiting[0], len(unsent) > 0, next, now))
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted: %w", context.Cause(ctx))
		case a := <-arrivals:
			r.take(a)
		case <-timer.C:
		}
	}
}

// sleep is the time until the next segment is due or the oldest sample expires.
func (r *run) sleep(oldest *flight, more bool, next, now time.Time) time.Duration {
	wake := next
	if !oldest.sent.IsZero() {
		if expiry := oldest.sent.Add(r.cfg.Timeout); !more || expiry.Before(next) {
			wake = expiry
		}
	}
	return wake.Sub(now)
}

// launch sends one segment. What this machine refuses to send is answered at once.
func (r *run) launch(f *flight) {
	a := f.asked
	f.sent = time.Now()
	bytes := f.segment.Append(nil, a.path.source, a.addr.Addr())
	err := r.sockets[familyName(a.addr.Addr())].send(bytes, a.path.source, a.addr.Addr(), a.path.oif)
	if err != nil {
		r.settle(f, sample{verdict: Unreachable, local: true, reason: localReason(err)})
	}
}

// expire drops the samples that are done from the head of the queue, of which the first sent ones are on their way, and gives up those
// that have waited for too long. All wait equally long, so the queue is in the order of expiry, too.
func (r *run) expire(waiting []*flight, sent int, now time.Time) []*flight {
	for ; sent > 0; sent-- {
		f := waiting[0]
		if !f.done {
			if now.Sub(f.sent) < r.cfg.Timeout {
				break
			}
			r.settle(f, sample{verdict: NoReply})
		}
		waiting = waiting[1:]
	}
	return waiting
}

// settle stores what became of a sample.
func (r *run) settle(f *flight, s sample) {
	a := f.asked
	s.sent = f.segment
	f.done = true
	if f.earlier != nil {
		a.cookies = isCookie(*f.earlier, s)
		return
	}
	a.samples = append(a.samples, s)
	a.open--
	usable := slices.ContainsFunc(a.samples, func(s sample) bool { return s.verdict.Usable() })
	if a.open == 0 && (!usable || !r.cfg.Connect) {
		r.finish(a)
	}
}

// firstDirect returns the first sample that a server answered, or nil.
func (a *asked) firstDirect() *sample {
	i := slices.IndexFunc(a.samples, func(s sample) bool { return s.verdict == Direct })
	if i < 0 {
		return nil
	}
	return &a.samples[i]
}

// repeat asks every server once more from a port that it has answered to, with another sequence number, to find SYN cookies. The
// kernel's RST to the first answer has gone ahead, so that the server has forgotten the first question.
func (r *run) repeat(ctx context.Context) error {
	r.queue = nil
	for _, a := range r.all {
		first := a.firstDirect()
		if first == nil {
			continue
		}
		f := a.repeat
		f.earlier, f.segment.SrcPort = first, first.sent.SrcPort
		r.queue = append(r.queue, f)
		r.flights[f.key()] = f
	}
	return r.ask(ctx)
}

// finish reports the targets that share a as done.
func (r *run) finish(a *asked) {
	a.finished = true
	r.done += a.weight
	r.cfg.Progress(r.done, r.total)
}

// take matches a packet with the sample that it answers, and drops it if there is none, or none any more.
func (r *run) take(a arrival) {
	f := r.flights[a.key]
	if f == nil || f.done || f.sent.IsZero() || a.source != f.asked.path.source.WithZone("") {
		return
	}
	s := sample{ttl: a.ttl, rtt: a.at.Sub(f.sent), problems: a.problems}
	switch {
	case a.icmp != nil && a.icmp.seq == f.segment.Seq:
		s.verdict, s.reason = Unreachable, a.icmp.reason
	case a.segment != nil && a.segment.Ack == f.segment.Seq+1:
		s.verdict, s.answer = judge(*a.segment), *a.segment
	default:
		return
	}
	r.settle(f, s)
}

// conclude classifies the samples of all targets.
func (r *run) conclude() {
	for _, a := range r.all {
		a.result = classify(a.samples, familyName(a.addr.Addr()), a.path.limit)
		a.result.Local = a.path.local
		if a.cookies {
			a.result.SYNCookies = true
			a.result.note("the server is answering with SYN cookies")
		}
	}
}

// listen reads packets until the read deadline is set to the past, and passes those on that have the form of an answer.
func (s *rawSocket) listen(arrivals chan<- arrival, stop <-chan struct{}) {
	buf, control := make([]byte, 65536), make([]byte, 256)
	for {
		p, err := s.receive(buf, control)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			continue // the error of one packet, which says nothing of the next
		}
		a, ok := s.decode(s.family, p)
		if !ok {
			continue
		}
		select {
		case arrivals <- a:
		case <-stop:
			return
		}
	}
}
