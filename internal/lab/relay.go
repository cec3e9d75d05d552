package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// relayBlock bounds the frames under way in one direction, in bytes: 100 MB/s for 300 ms.
	relayBlock = 32 << 20
	// relayBuffer is asked for as the buffers of a relay's sockets, in bytes. An unprivileged user gets less.
	relayBuffer = 64 << 20
	// vnetHeader is the size of struct virtio_net_hdr, which precedes each frame of a PACKET_VNET_HDR socket. It
	// carries what is still to be done to the frame: the checksum, and the cutting into segments.
	vnetHeader = 10
	// relayFrame is the longest frame that a relay forwards, in bytes.
	relayFrame = vnetHeader + snapshot
)

// RelayConfig says what a [Relay] does to the packets that pass, in both directions. The zero value forwards
// everything at once.
type RelayConfig struct {
	// Delay is how long a packet takes, one way. It is kept to about a millisecond while the machine has a CPU to
	// spare; packets never overtake each other, even when the delay becomes shorter.
	Delay time.Duration
	// Loss is the probability that a packet is lost, from 0 to 1. A segment that the sender left to be cut by the
	// hardware counts as one packet and is lost whole.
	Loss float64
	// Seed makes the same losses again; 0 is a seed like any other.
	Seed uint64
	// Drop, if not nil, is asked about each packet as it arrives, and true loses it. The packet's Outgoing tells
	// that it comes from the relay's first port, the client's in a [Topology]. It is called by one goroutine, must
	// not block, and must keep nothing of the packet: its memory is used again.
	Drop func(Packet) bool
}

// RelayStats counts what a [Relay] did, in both directions.
type RelayStats struct {
	// Forwarded packets reached the other port.
	Forwarded int64
	// Lost were lost by chance, as [RelayConfig.Loss] wants.
	Lost int64
	// Dropped were lost because [RelayConfig.Drop] wanted it.
	Dropped int64
	// Overflowed were lost because the relay had no room or no time for them. A test of connections wants 0.
	Overflowed int64
	// Latest is by how much a packet left too late at worst.
	Latest time.Duration
}

// Relay is a link through a program of the lab: a namespace between two hosts with an interface to each, and a
// thread that takes frames from one and puts them on the other. It stands in for netem, which not every kernel
// has. Offloaded segments and unfinished checksums pass as they are.
type Relay struct {
	host  *Host
	ports [2]int // packet sockets, towards the first and the second port
	wake  int    // eventfd that ends the thread
	cfg   atomic.Pointer[RelayConfig]
	done  chan struct{}

	forwarded, lost, dropped, overflowed, latest atomic.Int64

	mu     sync.Mutex // guards the sockets against Close
	closed bool
	err    error
}

// LinkOver joins two hosts as [Lab.Link] does, by a link that cfg describes. To the two hosts it looks the same: each
// has the other as its neighbour. The relay runs until it or its lab is closed.
func (l *Lab) LinkOver(a, b Port, mtu int, cfg RelayConfig) (*Relay, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	n := l.nextLink()
	host, err := l.Host(fmt.Sprintf("relay%d", n))
	if err == nil {
		// Nobody may hear of the relay, and an interface without IPv6 says nothing of its own.
		err = host.SetSysctl("net.ipv6.conf.default.disable_ipv6", "1")
	}
	if err != nil {
		return nil, err
	}
	near, far := Port{Host: host, Name: "a"}, Port{Host: host, Name: "b"}
	for i, p := range []*Port{&a, &b, &near, &far} {
		p.identify(n, i+1)
	}
	if err := errors.Join(veth(a, near, mtu), veth(far, b, mtu)); err != nil {
		return nil, err
	}
	if err := errors.Join(near.configure(Port{}), far.configure(Port{})); err != nil {
		return nil, err
	}
	r, err := newRelay(host, cfg)
	if err != nil {
		return nil, fmt.Errorf("relay %s:%s to %s:%s: %w", a.Host.name, a.Name, b.Host.name, b.Name, err)
	}
	return r, introduce(a, b)
}

// newRelay starts the relay between the interfaces a and b of its host.
func newRelay(host *Host, cfg RelayConfig) (r *Relay, err error) {
	r = &Relay{host: host, ports: [2]int{-1, -1}, wake: -1, done: make(chan struct{})}
	r.cfg.Store(&cfg)
	defer func() {
		if err != nil {
			r.closeAll()
		}
	}()
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	for i, name := range []string{"a", "b"} {
		p, err := host.port(name)
		if err != nil {
			return nil, err
		}
		if r.ports[i], err = host.openPacket(p.index, unix.ETH_P_ALL, prepareRelay); err != nil {
			return nil, err
		}
	}
	if err := host.own(r); err != nil {
		return nil, err
	}
	lanes := [2]*lane{
		{relay: r, in: r.ports[0], out: r.ports[1], outgoing: true},
		{relay: r, in: r.ports[1], out: r.ports[0]},
	}
	for _, l := range lanes {
		l.line.block = make([]byte, relayBlock)
	}
	go func() {
		defer close(r.done)
		r.err = host.Do(func() error { return r.run(lanes) })
	}()
	return r, nil
}

// prepareRelay sets the options of a packet socket that both reads and writes.
func prepareRelay(fd int) error {
	for _, o := range []struct{ forced, plain int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		// Only the machine's own root may force it; the rest get what net.core.rmem_max and wmem_max allow.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.forced, relayBuffer) != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.plain, relayBuffer); err != nil {
				return fmt.Errorf("socket buffer: %w", err)
			}
		}
	}
	// A queue could drop, and would show our own packets to the socket again.
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_QDISC_BYPASS, unix.PACKET_IGNORE_OUTGOING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
			return fmt.Errorf("packet socket option %d: %w", option, err)
		}
	}
	return nil
}

func (cfg RelayConfig) check() error {
	switch {
	case cfg.Delay < 0:
		return fmt.Errorf("relay: delay %v: must not be negative", cfg.Delay)
	case !(cfg.Loss >= 0 && cfg.Loss <= 1):
		return fmt.Errorf("relay: loss %g: must be from 0 to 1", cfg.Loss)
	}
	return nil
}

// Configure changes what the relay does to the packets that arrive from now on; those under way keep their time.
func (r *Relay) Configure(cfg RelayConfig) error {
	if err := cfg.check(); err != nil {
		return err
	}
	r.cfg.Store(&cfg)
	return nil
}

// Stats returns what the relay did so far.
func (r *Relay) Stats() RelayStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.countOverruns()
	return RelayStats{
		Forwarded: r.forwarded.Load(), Lost: r.lost.Load(), Dropped: r.dropped.Load(),
		Overflowed: r.overflowed.Load(), Latest: time.Duration(r.latest.Load()),
	}
}

// countOverruns asks the kernel what did not fit into the sockets since it was asked before.
func (r *Relay) countOverruns() {
	for _, fd := range r.ports {
		if fd < 0 {
			continue
		}
		if s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			r.overflowed.Add(int64(s.Drops))
		}
	}
}

// Close cuts the link; packets under way are lost. Closing twice is harmless. The error tells why the relay ended
// before, if it did.
func (r *Relay) Close() error {
	r.host.disown(r)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if _, err := unix.Write(r.wake, []byte{0, 0, 0, 0, 0, 0, 0, 1}); err != nil {
		return os.NewSyscallError("eventfd", err) // never: the counter cannot overflow
	}
	<-r.done
	r.countOverruns()
	r.closeAll()
	return r.err
}

func (r *Relay) closeAll() {
	for _, fd := range []*int{&r.ports[0], &r.ports[1], &r.wake} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}
