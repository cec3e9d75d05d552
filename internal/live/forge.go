package live

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

const (
	// forgedSYNs are sent to each service.
	forgedSYNs = 64
	// proxyWindow is the largest window in a proxy's SYN+ACK: 0, or the little
	// that a rule may make of it so that zero-window probes carry a byte.
	proxyWindow = 16
)

// rounds are how long the answers are awaited before those SYNs are sent again
// that have none.
var rounds = []time.Duration{400 * time.Millisecond, 400 * time.Millisecond, 700 * time.Millisecond}

// A forged SYN comes from an address that nobody has.
type forged struct {
	source   netip.AddrPort
	seq      uint32
	answered bool
}

// answers are what came back.
type answers struct {
	byProxy, byOthers, refused int
}

// forge sends SYNs whose clients do not exist. The proxy must answer each, and
// nothing may be left of them.
func (w *way) forge(ctx context.Context, t Target, network netip.Prefix, p *Path) (err error) {
	syns := map[netip.AddrPort]*forged{}
	for i := range forgedSYNs {
		// The last address is not used; the one before is the host's, the
		// second the client's.
		source := netip.AddrPortFrom(nth(network, 2+i%(inUse4-3)), w.port())
		syns[source] = &forged{source: source, seq: rand.Uint32()}
	}
	p.Forged = len(syns)
	defer func() { err = errors.Join(err, w.forget(t, syns, p)) }()
	var got answers
	if got, err = w.flood(ctx, t.Destination, syns); err != nil {
		return err
	}
	p.Answered = got.byProxy
	if err := w.left(t, syns, p); err != nil {
		return err
	}
	switch {
	case got.byOthers > 0:
		return failed(ForgedReached, fmt.Sprintf("%d of %d forged SYNs were answered by something other than a SYNPROXY: they reached the service", got.byOthers, p.Forged))
	case p.Entries > 0:
		return failed(ForgedEntry, fmt.Sprintf("%d of %d forged SYNs left an entry in the conntrack table", p.Entries, p.Forged))
	case p.HalfOpen > 0:
		return failed(ForgedReached, fmt.Sprintf("%d of %d forged SYNs are half-open connections of the service", p.HalfOpen, p.Forged))
	case p.Answered < p.Forged:
		return unproven(ForgedUnanswered, fmt.Sprintf("the proxy answered %d of %d forged SYNs (%d were refused): a limit or a filter of the host takes the others", p.Answered, p.Forged, got.refused))
	}
	return nil
}

// flood sends the SYNs and collects the answers.
func (w *way) flood(ctx context.Context, to netip.AddrPort, syns map[netip.AddrPort]*forged) (answers, error) {
	file, err := w.openPacket(to.Addr().Is4())
	if err != nil {
		return answers{}, err
	}
	defer file.Close()
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Now()) })
	defer stop()
	var got answers
	for _, wait := range rounds {
		for _, s := range syns {
			if s.answered {
				continue
			}
			if _, err := file.Write(w.syn(s, to)); err != nil {
				return got, fmt.Errorf("send a forged SYN: %w", err)
			}
		}
		if err := file.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return got, fmt.Errorf("packet socket: %w", err)
		}
		if err := collect(ctx, file, to, syns, &got); err != nil {
			return got, err
		}
		if got.byProxy+got.byOthers+got.refused == len(syns) {
			break
		}
	}
	return got, nil
}

// syn builds one SYN with the options of a usual client.
func (w *way) syn(s *forged, to netip.AddrPort) []byte {
	mss, wscale := uint16(1440), uint8(7)
	if to.Addr().Is4() {
		mss = 1460
	}
	segment := probe.Segment{
		SrcPort: s.source.Port(), DstPort: to.Port(), Seq: s.seq, Flags: probe.SYN, Window: 64240,
		Options: probe.Options{MSS: &mss, WScale: &wscale, SACKPerm: true, Timestamps: true}, TSVal: s.seq,
	}
	return frame(w.hostMAC, w.clientMAC, s.source.Addr(), to.Addr(), segment)
}

// openPacket opens a packet socket on the client's end. The socket sees the
// answers although no address there is theirs.
func (w *way) openPacket(v4 bool) (*os.File, error) {
	protocol := uint16(unix.ETH_P_IPV6)
	if v4 {
		protocol = unix.ETH_P_IP
	}
	protocol = protocol<<8 | protocol>>8 // network byte order
	fd := -1
	err := w.client.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: w.far})
		}
		return err
	})
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, notPossible(fmt.Errorf("packet socket: %w", err))
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

// collect reads answers until all SYNs have one or the deadline is there.
func collect(ctx context.Context, file *os.File, to netip.AddrPort, syns map[netip.AddrPort]*forged, got *answers) error {
	buf := make([]byte, 2048)
	for got.byProxy+got.byOthers+got.refused < len(syns) {
		n, err := file.Read(buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("packet socket: %w", err)
		}
		got.add(buf[:n], to, syns)
	}
	return nil
}

// add counts an answer, each SYN's first only.
func (a *answers) add(b []byte, service netip.AddrPort, syns map[netip.AddrPort]*forged) {
	src, dst, segment, err := parseFrame(b)
	s := syns[dst]
	if err != nil || src != service || s == nil || s.answered || segment.Flags&probe.ACK == 0 || segment.Ack != s.seq+1 {
		return
	}
	s.answered = true
	switch {
	case segment.Flags&probe.RST != 0:
		a.refused++
	case segment.Flags&probe.SYN != 0 && segment.Window <= proxyWindow:
		a.byProxy++
	default:
		a.byOthers++
	}
}

// left counts what the SYNs left behind.
func (w *way) left(t Target, syns map[netip.AddrPort]*forged, p *Path) error {
	return w.host.do(func() error {
		for source := range syns {
			_, ok, err := kernel.LookupTCP(source, t.Destination)
			if err != nil {
				return err
			}
			if ok {
				p.Entries++
			}
		}
		if t.Hook != rules.Input {
			return nil
		}
		return halfOpen(t.Destination.Addr().Is4(), func(peer netip.AddrPort) {
			if syns[peer] != nil {
				p.HalfOpen++
			}
		})
	})
}

// forget removes the entries, if there are any.
func (w *way) forget(t Target, syns map[netip.AddrPort]*forged, p *Path) error {
	if p.Entries == 0 {
		return nil
	}
	return w.host.do(func() error {
		var errs []error
		for source := range syns {
			errs = append(errs, kernel.ForgetTCP(source, t.Destination))
		}
		return errors.Join(errs...)
	})
}
