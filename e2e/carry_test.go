package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// TestCarry opens connections before anything is tracked, and then makes all depend on it.
func TestCarry(t *testing.T) {
	t.Parallel()
	for _, carry := range []bool{true, false} {
		t.Run(fmt.Sprintf("carry=%t", carry), func(t *testing.T) {
			topo := newTopology(t)
			fw := topo.Firewall
			open := lines(t, topo)
			runInput(t, fw, trackAll, "nft", "-f", "-")
			if carry {
				for _, want := range []int{len(open), 0} { // a second time there is nothing to do
					if got := carryOver(t, fw); got != want {
						t.Errorf("%d connections carried over, want %d", got, want)
					}
				}
				if n := ct(t, fw, func(ctx context.Context) (int, error) { return kernel.AliveProxied(ctx, nil) }); n != 0 {
					t.Errorf("%d connections pass for proxied", n)
				}
			}
			if err := fw.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
				t.Fatal(err)
			}
			runInput(t, fw, dropInvalid, "nft", "-f", "-")
			results := make(chan error, len(open))
			for _, l := range open {
				go func() {
					err := l.talk()
					if !carry {
						switch {
						case err == nil:
							err = fmt.Errorf("%s: lives without being carried over", l.name)
						case errors.Is(err, os.ErrDeadlineExceeded):
							err = nil
						}
					}
					results <- err
				}()
			}
			for range open {
				if err := <-results; err != nil {
					t.Error(err)
				}
			}
			if !carry {
				return
			}
			if strict := run(t, fw, "nft", "list", "table", "inet", "strict"); strings.Count(strict, "packets 0 ") != 2 {
				t.Errorf("packets were invalid:\n%s", strict)
			}
		})
	}
}

// carryOver carries all connections of a host over and returns how many had no entry.
func carryOver(t *testing.T, host *lab.Host) int {
	t.Helper()
	return ct(t, host, func(ctx context.Context) (int, error) {
		sockets, err := kernel.LocalConnections(ctx)
		if err != nil {
			return 0, err
		}
		return kernel.Carry(ctx, sockets)
	})
}

// TestCarriedTransfer moves much data both ways over idle connections that were carried over, and over one that is
// busy meanwhile, and looks whether the entries then have the timeout of an established connection again.
func TestCarriedTransfer(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	topo := newTopology(t)
	fw := topo.Firewall
	echo := func(host *lab.Host, addr netip.Addr) netip.AddrPort {
		return serve(t, host, lab.ServerConfig{Address: netip.AddrPortFrom(addr, 0)}).Address()
	}
	inside, outside := echo(fw, lab.FirewallV4), echo(topo.Server, lab.ServerV6)
	busy := dialTalker(t, "busy", topo.Client, inside)
	idle := []*talker{dialTalker(t, "in", topo.Client, inside), dialTalker(t, "out", fw, outside)}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- busy.streamUntil(stop) }()
	if err := fw.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
		t.Fatal(err)
	}
	runInput(t, fw, trackAll, "nft", "-f", "-")
	if got := carryOver(t, fw); got != 1+len(idle) {
		t.Errorf("%d connections carried over, want %d", got, 1+len(idle))
	}
	runInput(t, fw, dropInvalid, "nft", "-f", "-")
	for _, l := range idle {
		if err := l.stream(size); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, l := range append(idle, busy) {
		var entry kernel.Conn
		for range 20 { // the last acknowledgement may be delayed
			if entry = entries(t, fw)[l.tuple()]; entry.Timeout > 300*time.Second {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if entry.State != kernel.TCPEstablished || entry.Timeout <= 300*time.Second {
			t.Errorf("%s: entry %+v", l.name, entry)
		}
	}
}

// TestCarryHalfClosed carries connections over whose client has closed its half and waits for the rest of the data,
// and one of which the server has closed its half too, with data on its way.
func TestCarryHalfClosed(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	fw := topo.Firewall
	server := serve(t, fw, lab.ServerConfig{Address: netip.AddrPortFrom(lab.FirewallV4, 0), Mode: lab.Bulk}).Address()
	// The client takes little unread, and the first size fits into the server's buffer.
	err := errors.Join(
		topo.Client.SetSysctl("net.ipv4.tcp_rmem", "4096 16384 16384"), fw.SetSysctl("net.ipv4.tcp_wmem", "4096 1048576 1048576"))
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[int64]*net.TCPConn{100 << 10: nil, 8 << 20: nil}
	for size := range sizes {
		conn, err := topo.Client.Dial(t.Context(), server)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sizes[size] = conn
		_, err = fmt.Fprintf(conn, "get %d\n", size)
		if err := errors.Join(err, conn.CloseWrite(), conn.SetDeadline(time.Now().Add(5*time.Second))); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	runInput(t, fw, trackAll, "nft", "-f", "-")
	closing := 0
	for _, s := range ct(t, fw, kernel.LocalConnections) {
		if s.Closing {
			closing++
		}
	}
	if got := carryOver(t, fw); got != 2 || closing != 1 {
		t.Errorf("%d carried over, want 2; %d closing, want 1", got, closing)
	}
	if err := fw.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
		t.Fatal(err)
	}
	runInput(t, fw, dropInvalid, "nft", "-f", "-")
	for size, conn := range sizes {
		if n, err := io.Copy(io.Discard, conn); n != size || err != nil {
			t.Errorf("%d bytes of %d, %v", n, size, err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	for tuple, entry := range entries(t, fw) {
		if entry.State == kernel.TCPEstablished || entry.Timeout > 2*time.Minute {
			t.Errorf("%s: the entry of a closed connection: %+v", tuple, entry)
		}
	}
}

// TestCarryManyConnections says how long it takes.
func TestCarryManyConnections(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	sockets := make([]kernel.Socket, 10_000)
	for i := range sockets {
		peer, local := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), lab.FirewallV4
		if i%2 == 1 {
			peer, local = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)), lab.FirewallV6
		}
		sockets[i] = kernel.Socket{
			Local: netip.AddrPortFrom(local, 443), Remote: netip.AddrPortFrom(peer, 40000), Inbound: true,
			WindowScale: true, LocalWScale: 10, RemoteWScale: 255, // more than RFC 7323 allows
		}
	}
	for _, want := range []int{len(sockets), 0} {
		start := time.Now()
		got := ct(t, topo.Firewall, func(ctx context.Context) (int, error) { return kernel.Carry(ctx, sockets) })
		took := time.Since(start)
		t.Logf("%d of %d in %v: %.0f a second", got, len(sockets), took, float64(len(sockets))/took.Seconds())
		if got != want || took > 5*time.Second {
			t.Errorf("carried %d in %v, want %d in 2 s or so", got, took, want)
		}
	}
	start := time.Now()
	n := ct(t, topo.Firewall, func(ctx context.Context) (int, error) { return kernel.RoutedConnections(ctx, nil) })
	t.Logf("counted in %v", time.Since(start))
	if n != len(sockets) {
		t.Errorf("%d entries, want %d", n, len(sockets))
	}
}
