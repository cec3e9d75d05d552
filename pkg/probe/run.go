package probe

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
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

// flight is one sample on its way.
type flight struct {
	asked   *asked
	index   int
	segment Segment
	sent    time.Time
	done    bool
}

// offeredScales are the window scales of successive samples, which differ in as many bits as possible so that cookies which
// echo them are told from clocks.
var offeredScales = [...]uint8{10, 5, 9, 6, 12, 3, 11, 4}

// open reserves the ports, makes up the segments, and opens the sockets whose filters know them all.
func (r *run) open() error {
	r.ports = map[netip.Addr][]uint16{}
	want := map[string]*expected{}
	seqs, err := randomWords(2 * len(r.all) * r.cfg.Count)
	if err != nil {
		return err
	}
	for i := range r.cfg.Count {
		for _, a := range r.all {
			if a.open == 0 {
				continue
			}
			port, err := r.port(a.path.source, i)
			if err != nil {
				return err
			}
			f := &flight{asked: a, index: i, segment: offer(a, i, port, seqs[0], seqs[1])}
			seqs = seqs[2:]
			r.queue = append(r.queue, f)
			r.flights[flightKey{a.addr, port}] = f
			name := familyName(a.addr.Addr())
			if want[name] == nil {
				want[name] = &expected{}
			}
			want[name].seqs = append(want[name].seqs, f.segment.Seq)
		}
	}
	r.sockets = map[string]*rawSocket{}
	for source, ports := range r.ports {
		want[familyName(source)].ports = append(want[familyName(source)].ports, ports...)
	}
	for name, expect := range want {
		if err := r.openFamily(name, *expect); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) openFamily(family string, want expected) error {
	tcp, err := openRaw(family, protocolTCP, tcpFilter(family, want), decodeTCP)
	if err != nil {
		return err
	}
	r.sockets[family] = tcp
	r.opened = append(r.opened, tcp)
	protocol := unix.IPPROTO_ICMP
	if family == familyIPv6 {
		protocol = unix.IPPROTO_ICMPV6
	}
	icmp, err := openRaw(family, protocol, icmpFilter(family, want), decodeICMP)
	if err != nil {
		return err
	}
	r.opened = append(r.opened, icmp)
	return nil
}

// offer makes up the SYN of one sample. It offers everything, because a server answers only to options that it was offered.
func offer(a *asked, index int, port uint16, seq, tsval uint32) Segment {
	mss := uint16(min(max(a.path.mtu-headers(familyName(a.addr.Addr())), 536), 0xffff))
	scale := offeredScales[index%len(offeredScales)]
	return Segment{
		SrcPort: port, DstPort: a.addr.Port(), Seq: seq, Flags: SYN, Window: 64240, TSVal: tsval,
		Options: Options{MSS: &mss, WScale: &scale, SACKPerm: true, Timestamps: true},
	}
}

// randomWords returns numbers that nobody can guess, as those that an answer must echo have to be.
func randomWords(n int) ([]uint32, error) {
	b := make([]byte, 4*n)
	if _, err := crand.Read(b); err != nil {
		return nil, fmt.Errorf("random numbers: %w", err)
	}
	words := make([]uint32, n)
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return words, nil
}

// port returns the port of the given sample number on a source address. The samples of one target differ in their ports, so that no
// state of an earlier one, at the server or in a firewall, meets the next; different targets share them.
func (r *run) port(source netip.Addr, index int) (uint16, error) {
	for len(r.ports[source]) <= index {
		fd, port, err := reserve(source)
		if err != nil {
			return 0, fmt.Errorf("reserve a port on %s: %w", source, err)
		}
		r.reserved = append(r.reserved, fd)
		r.ports[source] = append(r.ports[source], port)
	}
	return r.ports[source][index], nil
}

// reserve binds a TCP socket that never listens nor connects. So no other program gets the port, and the kernel finds nobody for the
// SYN+ACK and answers it with the RST that frees the server's memory.
func reserve(source netip.Addr) (fd int, port uint16, err error) {
	fd, err = unix.Socket(domain(source), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	name := unix.Sockaddr(nil)
	if err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0))); err == nil {
		name, err = unix.Getsockname(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, 0, err
	}
	return fd, fromSockaddr(name).Port(), nil
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

// ask sends all SYN segments at the rate and waits until each is answered or given up.
func (r *run) ask(ctx context.Context) error {
	arrivals := make(chan arrival, 256)
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
			return fmt.Errorf("probe: %w", context.Cause(ctx))
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
	s.sent = f.segment
	f.done = true
	f.asked.samples = append(f.asked.samples, s)
	f.asked.open--
	if f.asked.open == 0 && !r.cfg.Connect {
		r.finish(f.asked)
	}
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
