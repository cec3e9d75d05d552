package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// run is one call of [Probe]. Only the calling goroutine touches it; the receivers send it what they have read.
type run struct {
	cfg    Config
	router *router
	byAddr map[netip.AddrPort]int // index in all
	all    []asked                // in the order in which they were first named
	ways   map[path]*way
	asking int // of all, those that are sent something
	rounds int // samples of each, and the repetition
	total  int // targets
	done   int // targets that are done

	sockets  map[string]*rawSocket // for TCP, by family
	opened   []*rawSocket
	reserved []int  // the sockets that keep our ports from everyone else
	guard    *guard // nil if the filters know all sequence numbers
	answers  map[shape]*answer

	// flights of target i are rounds many from i*rounds on; the last of them is the repetition.
	flights []flight
	begin   time.Time
	pacer   pacer
	// round and target are those of the next sample to be sent.
	round, target int
	// once and twice hold the flights that were sent once or twice, and wait; repeats those that are to be sent.
	once, twice, repeats fifo
	arrivals             <-chan []arrival
	grace                time.Duration // nothing is given up before
	unchecked            int           // segments since the receive buffers were looked at
	settled              int           // flights that are done or will never be sent
	overflowed           bool          // whether this machine lacked room for neighbours meanwhile
	results              []Result
}

const (
	// step is how many segments are sent before the answers are looked at.
	step = 64
	// repeatDelay is how long a repetition waits after the last answer, for the kernel's RST to go ahead of it, so that the
	// server has forgotten the first question.
	repeatDelay = 10 * time.Millisecond
	// relief is how long nothing is sent when the receive buffers fill.
	relief = 500 * time.Microsecond
	// tick is how often progress is reported at least.
	tick = 100 * time.Millisecond
)

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

// now is the time since the run began. It is never zero, which stands for never.
func (r *run) now() time.Duration { return time.Since(r.begin) + 1 }

// ask sends all segments at the rate and waits until each is answered or given up.
func (r *run) ask(ctx context.Context) error {
	if r.asking == 0 {
		return nil
	}
	arrivals := make(chan []arrival, 64)
	r.arrivals = arrivals
	stop := make(chan struct{})
	var receivers sync.WaitGroup
	for _, s := range r.opened {
		receivers.Go(func() { s.listen(arrivals, stop) })
	}
	defer receivers.Wait()
	defer func() {
		close(stop)
		for _, s := range r.opened {
			_ = s.file.SetReadDeadline(time.Unix(1, 0))
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := r.now()
		r.expire(now)
		if err := r.transmit(now); err != nil {
			return err
		}
		r.tell()
		if r.idle() {
			return nil
		}
		if wait := r.sleep(r.now()); wait > 0 {
			timer.Reset(min(wait, tick))
			select {
			case <-ctx.Done():
			case got := <-arrivals:
				r.takeAll(got)
			case <-timer.C:
			}
		}
		for len(arrivals) > 0 {
			r.takeAll(<-arrivals)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
	}
}

// settle stores what became of a flight, nil if nothing did.
func (r *run) settle(index int, found *answer) {
	a, f := &r.all[index/r.rounds], &r.flights[index]
	f.answer, f.done = found, true
	r.settled++
	if index%r.rounds == r.cfg.Count {
		a.cookies = isCookie(r.sample(index-r.cfg.Count+a.repeats), r.sample(index))
		return
	}
	if found != nil {
		a.usable = a.usable || found.verdict.Usable()
	}
	if a.open--; a.open > 0 {
		return
	}
	r.repeat(index / r.rounds)
	if !a.usable || !r.cfg.Connect {
		r.finish(a)
	}
}

// repeat asks a server once more from a port that it has answered to, with another sequence number, to find SYN cookies.
func (r *run) repeat(target int) {
	a, first := &r.all[target], target*r.rounds
	round := slices.IndexFunc(r.flights[first:first+r.cfg.Count], func(f flight) bool {
		return f.answer != nil && f.answer.verdict == Direct
	})
	if round < 0 {
		r.settled++
		return
	}
	a.repeats = round
	f := &r.flights[first+r.cfg.Count]
	if r.guard != nil {
		f.seq = r.guard.sequence(f.seq, a.addr.Port(), a.way.ports[round])
	}
	r.repeats.push(first+r.cfg.Count, r.now()+repeatDelay)
}

// tell reports how far the asking has come: what is half done counts half.
func (r *run) tell() {
	r.cfg.Stage("probing", int(int64(r.total)*int64(r.settled)/int64(len(r.flights))), r.total)
}

// finish reports the targets that share a as done.
func (r *run) finish(a *asked) {
	a.finished = true
	r.done += a.weight
	r.cfg.Progress(r.done, r.total)
}

// refused settles a flight that this machine does not send. A lack of buffers passes: then it is as good as lost.
func (r *run) refused(index int, err error) {
	if r.flights[index].done || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
		return
	}
	r.settle(index, r.shared(answer{verdict: Unreachable, local: true, reason: localReason(err)}))
}

func (r *run) takeAll(got []arrival) {
	for _, a := range got {
		r.take(a)
	}
}

// take matches a packet with the flight that it answers, and drops it if there is none, or none any more.
func (r *run) take(got arrival) {
	target, ok := r.byAddr[got.key.remote]
	if !ok {
		return
	}
	a := &r.all[target]
	if a.way == nil || got.source != a.way.source.WithZone("") {
		return
	}
	round := slices.Index(a.way.ports, got.key.port)
	if round < 0 {
		return
	}
	index, first := target*r.rounds+round, target*r.rounds
	if last := &r.flights[first+r.cfg.Count]; last.sent != 0 && a.repeats == round && last.seq == got.seq {
		index = first + r.cfg.Count
	}
	f := &r.flights[index]
	if f.sent == 0 || f.done || f.seq != got.seq {
		return
	}
	// Of a segment that was sent twice nobody knows which one was answered: the round trip is that of the first, and so never too short.
	f.ttl, f.micros = got.ttl, uint32(max(0, got.at.Sub(r.begin)-f.sent).Microseconds())
	if got.icmp != "" {
		r.settle(index, r.shared(answer{verdict: Unreachable, reason: got.icmp}))
		return
	}
	s := &got.segment
	f.ackSeq, f.tsVal, f.tsEcr = s.Seq, s.TSVal, s.TSEcr
	r.settle(index, r.shared(answer{verdict: judge(*s), options: s.Options, window: s.Window, problems: got.problems}))
}

// conclude classifies the samples of all targets.
func (r *run) conclude() {
	words := map[string]string{}
	once := func(word string) string {
		if known, ok := words[word]; ok {
			return known
		}
		words[word] = word
		return word
	}
	samples := make([]sample, r.cfg.Count)
	for i := range r.all {
		a := &r.all[i]
		result := &r.results[a.first]
		if a.way == nil {
			*result = classify([]sample{{verdict: Unreachable, local: true, reason: a.refusal}}, familyName(a.addr.Addr()), limit{})
			continue
		}
		for round := range samples {
			samples[round] = r.sample(i*r.rounds + round)
		}
		*result = classify(samples, familyName(a.addr.Addr()), a.way.limit)
		result.Local = a.way.local
		if r.overflowed && result.Verdict == NoReply {
			result.note("the neighbour table of this machine overflowed: raise net.%s.neigh.default.gc_thresh3, or ask more slowly", result.Family)
		}
		result.IPTables, result.NFT = once(result.IPTables), once(result.NFT)
		if a.cookies {
			result.SYNCookies = true
			result.note("the server is answering with SYN cookies")
		}
	}
}
