package probe

import (
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// flight is one sample on its way.
type flight struct {
	asked   *asked
	segment Segment
	sent    time.Time
	done    bool
	// earlier is the sample that this one repeats, if it does. Then it is no sample itself.
	earlier *sample
}

func (f *flight) key() flightKey { return flightKey{f.asked.addr, f.segment.SrcPort} }

// offeredScales are the window scales of successive samples, which differ in as many bits as possible so that cookies which
// echo them are told from clocks.
var offeredScales = [...]uint8{10, 5, 9, 6, 12, 3, 11, 4}

// open reserves the ports, makes up the segments, and opens the sockets whose filters know them all.
func (r *run) open() error {
	r.ports, r.sockets = map[netip.Addr][]uint16{}, map[string]*rawSocket{}
	want := map[string]*expected{familyIPv4: {}, familyIPv6: {}}
	if err := r.prepare(want); err != nil {
		return err
	}
	for source, ports := range r.ports {
		expect := want[familyName(source)]
		expect.ports = append(expect.ports, ports...)
	}
	for _, family := range []string{familyIPv4, familyIPv6} {
		if len(want[family].seqs) == 0 {
			continue
		}
		if err := r.openFamily(family, *want[family]); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes up all segments, those of the repetitions included, and collects what can be expected of their answers.
func (r *run) prepare(want map[string]*expected) error {
	rounds := r.cfg.Count + 1
	words, err := randomWords(2 * len(r.all) * rounds)
	if err != nil {
		return err
	}
	for i := range rounds {
		for _, a := range r.all {
			if a.open == 0 {
				continue
			}
			f := &flight{asked: a, segment: offer(a, i, words[0], words[1])}
			words = words[2:]
			expect := want[familyName(a.addr.Addr())]
			expect.seqs = append(expect.seqs, f.segment.Seq)
			if i == r.cfg.Count {
				a.repeat = f
				continue
			}
			if f.segment.SrcPort, err = r.port(a.path.source, i); err != nil {
				return err
			}
			r.queue = append(r.queue, f)
			r.flights[f.key()] = f
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
// Our port is still missing.
func offer(a *asked, index int, seq, tsval uint32) Segment {
	mss := uint16(min(max(a.path.mtu-headers(familyName(a.addr.Addr())), 536), 0xffff))
	scale := offeredScales[index%len(offeredScales)]
	return Segment{
		DstPort: a.addr.Port(), Seq: seq, Flags: SYN, Window: 64240, TSVal: tsval,
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
