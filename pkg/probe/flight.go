package probe

import (
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// flight is one sample, or the repetition of one, from its making to its answer. A hundred thousand targets have hundreds of thousands of
// them, so it holds numbers only; [run.sample] makes the whole of it again.
type flight struct {
	seq, tsval uint32
	sent       time.Duration // since the run began; zero until it is sent
	// answer is what came back, nil while nothing did. The next three are the numbers of a segment that came back.
	answer               *answer
	ackSeq, tsVal, tsEcr uint32
	micros               uint32 // the round trip
	ttl                  uint8
	done                 bool // answered or given up
}

// answer is what many samples have in common.
type answer struct {
	verdict  Verdict
	reason   string
	local    bool
	options  Options
	window   uint16
	problems []string
}

// offeredScales are the window scales of successive samples, which differ in as many bits as possible so that cookies which
// echo them are told from clocks.
var offeredScales = [...]uint8{10, 5, 9, 6, 12, 3, 11, 4}

// way is the path of many targets and what is the same for all segments on it.
type way struct {
	path
	control []byte   // of the messages that carry the segments
	ports   []uint16 // ours, one for each sample
	mss     uint16   // that is offered
}

// open reserves the ports, makes up the sequence numbers, and opens the sockets whose filters know them all.
func (r *run) open() error {
	want := map[string]*expected{familyIPv4: {}, familyIPv6: {}}
	ports := map[netip.Addr][]uint16{}
	for i := range r.all {
		w := r.all[i].way
		if w == nil || w.ports != nil {
			continue
		}
		if ports[w.source] == nil {
			reserved, err := r.reserve(w.source)
			if err != nil {
				return err
			}
			ports[w.source] = reserved
			expect := want[familyName(w.source)]
			expect.ports = append(expect.ports, reserved...)
		}
		w.ports = ports[w.source]
	}
	if err := r.prepare(want); err != nil {
		return err
	}
	for _, family := range []string{familyIPv4, familyIPv6} {
		if len(want[family].ports) == 0 {
			continue
		}
		want[family].guard = r.guard
		if err := r.openFamily(family, *want[family]); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes up the numbers of all segments, those of the repetitions included.
func (r *run) prepare(want map[string]*expected) error {
	const chunk = 256 // targets
	r.flights = make([]flight, len(r.all)*r.rounds)
	if r.asking*r.rounds > maxListed {
		key, err := randomWords(4)
		if err != nil {
			return err
		}
		g := newGuard(key)
		r.guard = &g
	}
	var words []uint32
	for i := range r.all {
		a := &r.all[i]
		if a.way == nil {
			continue
		}
		for round := range r.rounds {
			if len(words) == 0 {
				var err error
				if words, err = randomWords(2 * r.rounds * chunk); err != nil {
					return err
				}
			}
			f := &r.flights[i*r.rounds+round]
			f.seq, f.tsval = words[0], words[1]
			words = words[2:]
			switch {
			case r.guard == nil:
				expect := want[familyName(a.addr.Addr())]
				expect.seqs = append(expect.seqs, f.seq)
			case round < r.cfg.Count:
				f.seq = r.guard.sequence(f.seq, a.addr.Port(), a.way.ports[round])
			} // the port of a repetition is not known yet
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

// segment is the SYN of a flight. It offers everything, because a server answers only to options that it was offered.
func (r *run) segment(index int) Segment {
	a, round, f := &r.all[index/r.rounds], index%r.rounds, &r.flights[index]
	port := round
	if round == r.cfg.Count {
		port = a.repeats
	}
	return Segment{
		SrcPort: a.way.ports[port], DstPort: a.addr.Port(), Seq: f.seq, Flags: SYN, Window: 64240, TSVal: f.tsval,
		Options: Options{
			MSS: &a.way.mss, WScale: &offeredScales[round%len(offeredScales)], SACKPerm: true, Timestamps: true,
		},
	}
}

// sample is all that became of a flight.
func (r *run) sample(index int) sample {
	f := &r.flights[index]
	s := sample{sent: r.segment(index), verdict: NoReply}
	if f.answer == nil {
		return s
	}
	s.verdict, s.reason, s.local, s.problems = f.answer.verdict, f.answer.reason, f.answer.local, f.answer.problems
	s.ttl, s.rtt = f.ttl, time.Duration(f.micros)*time.Microsecond
	s.answer = Segment{Seq: f.ackSeq, Window: f.answer.window, Options: f.answer.options, TSVal: f.tsVal, TSEcr: f.tsEcr}
	return s
}

// shape tells answers apart.
type shape struct {
	verdict          Verdict
	reason, problems string
	local, sack, ts  bool
	mss, wscale      int // -1 if there is none
	window           uint16
}

// shared returns the answer that equals a, so that equal ones take their memory once.
func (r *run) shared(a answer) *answer {
	key := shape{
		verdict: a.verdict, reason: a.reason, problems: fmt.Sprint(a.problems), local: a.local, sack: a.options.SACKPerm,
		ts: a.options.Timestamps, mss: -1, wscale: -1, window: a.window,
	}
	if a.options.MSS != nil {
		key.mss = int(*a.options.MSS)
	}
	if a.options.WScale != nil {
		key.wscale = int(*a.options.WScale)
	}
	known, ok := r.answers[key]
	if !ok {
		known = &a
		r.answers[key] = known
	}
	return known
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

// reserve gets a port of a source address for each sample. The samples of one target differ in their ports, so that no
// state of an earlier one, at the server or in a firewall, meets the next; different targets share them.
func (r *run) reserve(source netip.Addr) ([]uint16, error) {
	var ports []uint16
	for range r.cfg.Count {
		fd, port, err := reserve(source)
		if err != nil {
			return nil, fmt.Errorf("reserve a port on %s: %w", source, err)
		}
		r.reserved = append(r.reserved, fd)
		ports = append(ports, port)
	}
	return slices.Clip(ports), nil
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
