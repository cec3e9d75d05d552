package live

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

const (
	// connectLimit lets the client repeat its SYN once, after a second.
	connectLimit = 2200 * time.Millisecond
	// dataLimit is how long the service's first data, or its acknowledgement,
	// may take.
	dataLimit = 3 * time.Second
	// closeLimit is how long conntrack may take to see the end.
	closeLimit = 200 * time.Millisecond
)

// hello is what a client says to a service that does not speak first: an empty
// line, which protocols of lines allow and others refuse, after acknowledging it.
const hello = "\r\n"

// converse opens a connection, has it carry data, and asks conntrack who opened
// it. What it found is in p; it leaves nothing in the conntrack table.
func (w *way) converse(ctx context.Context, t Target, p *Path) (err error) {
	defer func() {
		forget := w.host.do(func() error { return kernel.ForgetTCP(p.Client, t.Destination) })
		err = errors.Join(err, forget)
	}()
	start := time.Now()
	conn, said := w.dial(ctx, p.Client, t.Destination)
	// A RST after the SYN+ACK may come before connect returns; one in its stead
	// is another error.
	if said != nil && !errors.Is(said, unix.ECONNRESET) {
		return connectFault(ctx, said)
	}
	p.Connected = time.Since(start)
	start = time.Now()
	if said == nil {
		said = exchange(ctx, conn, t.First)
	}
	took := time.Since(start)
	var entry kernel.Tracked
	var tracked bool
	lookErr := w.host.do(func() (err error) {
		entry, tracked, err = kernel.LookupTCP(p.Client, t.Destination)
		return err
	})
	if conn != nil {
		_ = conn.Close() // by a RST; a connection that is broken already is no matter
	}
	if said == nil {
		p.Data = took
		lookErr = errors.Join(lookErr, w.settle(ctx, p.Client, t.Destination))
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case lookErr != nil:
		return lookErr
	case tracked && !entry.Proxied:
		return failed(NotProxied, "the connection was opened by the service itself: the SYN did not reach a SYNPROXY rule")
	case said != nil:
		return failed(NoData, noData(said, entry, tracked, t))
	case !tracked:
		return failed(NotProxied, "data flows, and conntrack knows nothing of the connection: no SYNPROXY opened it")
	}
	return nil
}

// dial connects from the client's address by plain TCP. When the process ends
// before the connection does, the kernel ends it by a RST, so that neither the
// service nor conntrack waits for a client that is no more.
func (w *way) dial(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
	dialer := &net.Dialer{
		Timeout: connectLimit, KeepAlive: -1, LocalAddr: net.TCPAddrFromAddrPort(from),
		Control: func(_, _ string, raw syscall.RawConn) error {
			return control(raw, func(fd int) error {
				return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			})
		},
	}
	dialer.SetMultipathTCP(false)
	var conn net.Conn
	err := w.client.do(func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// control runs f on a socket and returns its error.
func control(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

func connectFault(ctx context.Context, err error) error {
	var network net.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.ECONNREFUSED):
		return unproven(Refused, "the SYN was answered by a RST, which no SYNPROXY sends: it is not in the path, or a filter of the host rejects the proof's client")
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES):
		return unproven(Refused, fmt.Sprintf("the SYN was answered by an ICMP error (%v): there is no route to the service, or a filter of the host rejects the proof's client", errno(err)))
	case errors.As(err, &network) && network.Timeout():
		return unproven(NoAnswer, fmt.Sprintf("nothing answered within %v: the rules do not answer, or the host's own filters do not accept the proof's client", connectLimit))
	}
	return fmt.Errorf("connect: %w", err)
}

// errno returns the system's error in err, or err.
func errno(err error) error {
	var n unix.Errno
	if errors.As(err, &n) {
		return n
	}
	return err
}

// errSilent says that nothing came within [dataLimit].
var errSilent = errors.New("no answer in time")

// exchange has the connection carry data one way: connect alone proves nothing
// behind a SYNPROXY, which answers for a service that is down, too.
func exchange(ctx context.Context, conn *net.TCPConn, first rules.First) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(dataLimit)); err != nil {
		return err
	}
	if first == rules.FirstServer {
		_, err := conn.Read(make([]byte, 1))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errSilent
		}
		return err
	}
	return say(ctx, conn)
}

// say sends a few bytes and waits until the peer has acknowledged them all.
// The kernel keeps them back as long as the proxy's window is 0.
func say(ctx context.Context, conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	before, err := acknowledged(raw)
	if err != nil {
		return err
	}
	if _, err := conn.Write([]byte(hello)); err != nil {
		return err
	}
	wait := time.Millisecond
	for end := time.Now().Add(dataLimit); ; wait = min(2*wait, 20*time.Millisecond) {
		now, err := acknowledged(raw)
		if err != nil {
			return err
		}
		if now >= before+uint64(len(hello)) {
			return nil
		}
		if err := broken(raw); err != nil {
			return err
		}
		if time.Now().After(end) {
			return errSilent
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// acknowledged returns how many bytes the peer has acknowledged (RFC 4898,
// tcpEStatsAppHCThruOctetsAcked).
func acknowledged(raw syscall.RawConn) (n uint64, err error) {
	err = control(raw, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Bytes_acked
		}
		return err
	})
	return n, err
}

// broken returns the error that has ended a connection, if any.
func broken(raw syscall.RawConn) error {
	return control(raw, func(fd int) error {
		n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && n != 0 {
			err = unix.Errno(n)
		}
		return err
	})
}

// noData tells why no data may have come.
func noData(said error, entry kernel.Tracked, tracked bool, t Target) string {
	const synSent = 1 // TCP_CONNTRACK_SYN_SENT
	var reason string
	switch {
	case !errors.Is(said, errSilent):
		reason = fmt.Sprintf("the connection was ended (%v): the service is down, or refuses the proof's client", errno(said))
	case !tracked:
		reason = "the client's ACK led to no connection: the rules do not give it to SYNPROXY"
	case entry.State == synSent:
		reason = "the service has not answered the proxy's SYN: it is down, or its answers do not come back through this host, or a filter drops the SYN or them"
	case t.First == rules.FirstServer:
		reason = "the service has said nothing: it is slow, or a filter drops what it says, or its answers do not come back through this host"
	default:
		reason = "the service has not acknowledged data: a filter drops it, or its answers do not come back through this host"
	}
	return "the proxy answers, and no data flows: " + reason
}

// settle waits until conntrack has seen the RST, so that what is removed next is
// not made anew by it.
func (w *way) settle(ctx context.Context, from, to netip.AddrPort) error {
	wait := time.Millisecond
	for end := time.Now().Add(closeLimit); time.Now().Before(end); wait *= 2 {
		var entry kernel.Tracked
		var ok bool
		err := w.host.do(func() (err error) {
			entry, ok, err = kernel.LookupTCP(from, to)
			return err
		})
		if err != nil || !ok || entry.State == kernel.TCPConnClose {
			return err
		}
		if sleep(ctx, wait) != nil {
			return nil
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
