package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// A talker is an open connection to an echo server.
type talker struct {
	name string
	conn *net.TCPConn
	in   *bufio.Reader
}

// dialTalker opens a connection and has a word echoed.
func dialTalker(t *testing.T, name string, host *lab.Host, remote netip.AddrPort) *talker {
	t.Helper()
	conn, err := host.Dial(t.Context(), remote)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() { conn.Close() })
	l := &talker{name: name, conn: conn, in: bufio.NewReader(conn)}
	if err := l.talk(); err != nil {
		t.Fatal(err)
	}
	return l
}

// talk has a word echoed within two seconds.
func (l *talker) talk() error {
	if err := l.conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(l.conn, "hello"); err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	if got, err := l.in.ReadString('\n'); err != nil || got != "hello\n" {
		return fmt.Errorf("%s: echo %q, %w", l.name, got, err)
	}
	return nil
}

// lines opens connections of each kind that a machine has: in and out, IPv4 and IPv6, on a dual-stack socket, with
// different window scales, and to itself.
func lines(t *testing.T, topo *lab.Topology) []*talker {
	t.Helper()
	fw := topo.Firewall
	echo := func(host *lab.Host, addr netip.Addr, buffer int) netip.AddrPort {
		return serve(t, host, lab.ServerConfig{Address: netip.AddrPortFrom(addr, 0), ReceiveBuffer: buffer}).Address()
	}
	dual := echo(fw, netip.IPv6Unspecified(), 0).Port()
	return []*talker{
		dialTalker(t, "in, IPv4", topo.Client, echo(fw, lab.FirewallV4, 8<<10)),
		dialTalker(t, "in, IPv6", topo.Client, echo(fw, lab.FirewallV6, 8<<10)),
		dialTalker(t, "in, IPv4 on a dual-stack socket", topo.Client, netip.AddrPortFrom(lab.FirewallV4, dual)),
		dialTalker(t, "in, IPv6 on a dual-stack socket", topo.Client, netip.AddrPortFrom(lab.FirewallV6, dual)),
		dialTalker(t, "out, IPv4", fw, echo(topo.Server, lab.ServerV4, 8<<10)),
		dialTalker(t, "out, IPv6", fw, echo(topo.Server, lab.ServerV6, 8<<10)),
		dialTalker(t, "loopback, IPv4", fw, echo(fw, netip.MustParseAddr("127.0.0.1"), 0)),
		dialTalker(t, "loopback, IPv6", fw, echo(fw, netip.IPv6Loopback(), 0)),
		dialTalker(t, "to an own address", fw, netip.AddrPortFrom(lab.InsideV4, dual)),
	}
}

// tuple returns the initiator's direction.
func (l *talker) tuple() kernel.Tuple {
	return kernel.Tuple{Src: l.conn.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: l.conn.RemoteAddr().(*net.TCPAddr).AddrPort()}
}

// stream has size bytes echoed within 20 seconds, without waiting for one line before the next.
func (l *talker) stream(size int64) error {
	if err := l.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(l.conn, paper{}, size)
		sent <- err
	}()
	_, err := io.CopyN(io.Discard, l.in, size)
	if err := errors.Join(<-sent, err); err != nil {
		return fmt.Errorf("%s: stream: %w", l.name, err)
	}
	return nil
}

// streamUntil has data echoed until stop is closed.
func (l *talker) streamUntil(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
			if err := l.stream(1 << 20); err != nil {
				return err
			}
		}
	}
}

// paper is lines without end, of 4096 bytes.
type paper struct{}

func (paper) Read(p []byte) (int, error) {
	const width = 4096
	n := max(len(p)/width, 1) * width
	if n > len(p) {
		return 0, io.ErrShortBuffer
	}
	for i := range n {
		p[i] = 'x'
		if i%width == width-1 {
			p[i] = '\n'
		}
	}
	return n, nil
}
