package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// deaf makes a host drop SYNs to two ports, so that whoever asks stays half open.
const deaf = `table inet deaf {
	chain in { type filter hook input priority 0; tcp dport { 81, 82 } tcp flags syn drop; }
}
`

// knock tries to connect to a deaf port from a local port for some milliseconds.
func knock(t *testing.T, host *lab.Host, port uint16, remote netip.AddrPort) {
	t.Helper()
	on(t, host, func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: int(port)}, Timeout: 50 * time.Millisecond}
		_, err := d.DialContext(t.Context(), "tcp", remote.String())
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
			return fmt.Errorf("dial %s: %w, want a timeout", remote, err)
		}
		return nil
	})
}

func to(dst ...netip.AddrPort) func(netip.AddrPort) bool {
	return func(a netip.AddrPort) bool {
		for _, d := range dst {
			if a == d {
				return true
			}
		}
		return false
	}
}

func halfOpen(t *testing.T, host *lab.Host, match func(netip.AddrPort) bool) []kernel.Conn {
	t.Helper()
	return ct(t, host, func(ctx context.Context) ([]kernel.Conn, error) { return kernel.HalfOpen(ctx, match) })
}

func forget(t *testing.T, host *lab.Host, conns []kernel.Conn) int {
	t.Helper()
	return ct(t, host, func(ctx context.Context) (int, error) { return kernel.Forget(ctx, conns) })
}

// TestForgetHitsOnlyTheHalfOpen forgets entries of which some have changed since they were listed.
func TestForgetHitsOnlyTheHalfOpen(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	runInput(t, fw, trackAll, "nft", "-f", "-")
	runInput(t, topo.Server, deaf, "nft", "-f", "-")
	v4, v6 := netip.AddrPortFrom(lab.ServerV4, 81), netip.AddrPortFrom(lab.ServerV6, 81)
	other := netip.AddrPortFrom(lab.ServerV4, 82)
	for i, remote := range []netip.AddrPort{v4, v6, other} {
		knock(t, topo.Client, 2001+uint16(i), remote)
	}
	list := halfOpen(t, fw, to(v4, v6))
	if len(list) != 2 || len(halfOpen(t, fw, nil)) != 3 {
		t.Fatalf("half open: %+v, of all %+v", list, halfOpen(t, fw, nil))
	}
	if n := forget(t, fw, list); n != 2 {
		t.Errorf("%d forgotten, want 2", n)
	}
	if n := forget(t, fw, list); n != 0 {
		t.Errorf("%d forgotten the second time", n)
	}
	if left := halfOpen(t, fw, nil); len(left) != 1 || left[0].Original.Dst != other {
		t.Errorf("left: %+v", left)
	}

	// The same addresses and ports, but the identity of another connection.
	knock(t, topo.Client, 2001, v4)
	knock(t, topo.Client, 2004, v4)
	list = halfOpen(t, fw, to(v4))
	if len(list) != 2 {
		t.Fatalf("half open: %+v", list)
	}
	list[0].Original = list[1].Original
	if n := forget(t, fw, list[:1]); n != 0 {
		t.Errorf("%d of another identity forgotten", n)
	}

	// The handshake goes on after the list was made.
	server := serve(t, topo.Server, lab.ServerConfig{Address: v4})
	result := make(chan error, 1)
	conn := new(*net.TCPConn)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var err error
		*conn, err = topo.Client.Dial(ctx, server.Address())
		result <- err
	}()
	time.Sleep(100 * time.Millisecond)
	list = halfOpen(t, fw, to(v4))
	run(t, topo.Server, "nft", "delete", "table", "inet", "deaf")
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	defer (*conn).Close()
	if n := forget(t, fw, list); len(list) != 3 || n != 2 {
		t.Errorf("%d forgotten of %d, want 2 of 3", n, len(list))
	}
	if n := ct(t, fw, func(ctx context.Context) (int, error) { return kernel.RoutedConnections(ctx, to(v4)) }); n != 1 {
		t.Errorf("%d established, want 1", n)
	}
}

// TestForgetManyHalfOpen fills the table with SYNs that nobody answers.
func TestForgetManyHalfOpen(t *testing.T) {
	const packets = 20_000
	topo := newTopology(t)
	fw := topo.Firewall
	runInput(t, fw, trackAll, "nft", "-f", "-")
	runInput(t, topo.Server, deaf, "nft", "-f", "-")
	service, other := netip.AddrPortFrom(lab.ServerV4, 81), netip.AddrPortFrom(lab.ServerV4, 82)
	for _, dst := range []netip.AddrPort{service, other} {
		if _, err := topo.Attacker.Flood(t.Context(), lab.FloodConfig{Destination: dst, Packets: packets, Rate: packets}); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		count, _, err := kernel.ConntrackCount()
		if err != nil {
			t.Error(err)
		}
		return count
	}
	var before, after, deleted int
	on(t, fw, func() error { before = count(); return nil })
	if list := halfOpen(t, fw, to(service)); len(list) != kernel.MaxHalfOpen {
		t.Errorf("%d listed of %d, want %d", len(list), before, kernel.MaxHalfOpen)
	}
	start := time.Now()
	deleted = ct(t, fw, func(ctx context.Context) (int, error) { return kernel.ForgetHalfOpen(ctx, to(service)) })
	t.Logf("%d of %d entries forgotten in %v", deleted, before, time.Since(start))
	on(t, fw, func() error { after = count(); return nil })
	if left := halfOpen(t, fw, to(service)); len(left) != 0 || deleted < packets*9/10 || after < packets*9/10 {
		t.Errorf("%d of %d entries forgotten, %d left; %d of them should be gone", deleted, before, after, len(left))
	}
}

// TestHalfProxied has connections that a SYNPROXY opens on the one side only, or that are closed on one side only.
func TestHalfProxied(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	dead, server := netip.AddrPortFrom(lab.ServerV4, 81), serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 80)})
	runInput(t, topo.Server, deaf, "nft", "-f", "-")
	for _, port := range []uint16{dead.Port(), server.Address().Port()} {
		stockRecipe(t, fw, "iptables-nft", port)
	}
	talker := dialTalker(t, "proxied", topo.Client, server.Address())
	conn, err := topo.Client.Dial(t.Context(), dead) // the proxy answers
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	time.Sleep(50 * time.Millisecond)
	proxied := 0
	for _, c := range entries(t, fw) {
		if c.Proxied && c.Original.Dst == dead && c.State == kernel.TCPSynSent {
			proxied++
		}
	}
	if left := halfOpen(t, fw, nil); proxied != 1 || len(left) != 0 {
		t.Errorf("%d entries of the proxy's SYN; those of others: %+v", proxied, left)
	}
	counts := func(when string, established, alive int) {
		t.Helper()
		for name, count := range map[string]struct {
			ask  func(context.Context, func(netip.AddrPort) bool) (int, error)
			want int
		}{"established": {kernel.ProxiedConnections, established}, "alive": {kernel.AliveProxied, alive}, "routed": {kernel.RoutedConnections, 0}} {
			if got := ct(t, fw, func(ctx context.Context) (int, error) { return count.ask(ctx, nil) }); got != count.want {
				t.Errorf("%s: %d %s, want %d", when, got, name, count.want)
			}
		}
	}
	counts("open", 1, 1)
	// The client closes its half, and the server's FIN is lost.
	runInput(t, topo.Server, "table inet mute { chain out { type filter hook output priority 0; tcp flags fin drop; }; }\n", "nft", "-f", "-")
	if err := talker.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	counts("half closed", 0, 1)
}

// TestConnectionsWithoutCapabilities asks for everything with the one capability that is needed, and without it.
func TestConnectionsWithoutCapabilities(t *testing.T) {
	topo := newTopology(t)
	runInput(t, topo.Client, trackAll, "nft", "-f", "-")
	on(t, topo.Client, func() error {
		ctx := context.WithoutCancel(t.Context())
		many := make([]kernel.Socket, 40)
		for i := range many {
			remote := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(i+1))
			many[i] = kernel.Socket{Local: netip.MustParseAddrPort("192.0.2.2:1"), Remote: remote}
		}
		for _, set := range []uint32{1 << unix.CAP_NET_ADMIN, 0} {
			data := [2]unix.CapUserData{{Effective: set, Permitted: set}}
			if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
				return err
			}
			_, tracking := kernel.Tracking(ctx, kernel.IPv4)
			_, carry := kernel.Carry(ctx, many)
			_, forget := kernel.ForgetHalfOpen(ctx, nil)
			_, list := kernel.HalfOpen(ctx, nil)
			for name, err := range map[string]error{"Tracking": tracking, "Carry": carry, "ForgetHalfOpen": forget, "HalfOpen": list} {
				if set != 0 && err != nil || set == 0 && !errors.Is(err, os.ErrPermission) {
					return fmt.Errorf("%s with capabilities %#x: %w", name, set, err)
				}
			}
		}
		_, err := kernel.LocalConnections(ctx)
		return err
	})
}
