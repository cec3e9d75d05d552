package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// trackAll is a rule that hooks connection tracking on, in a chain that nothing calls.
const trackAll = "table inet watch { chain unhooked { ct state new; }; }\n"

// dropInvalid makes what connection tracking says of a packet matter.
const dropInvalid = `table inet strict {
	chain in { type filter hook input priority 0; ct state invalid counter drop; }
	chain out { type filter hook output priority 0; ct state invalid counter drop; }
}
`

// ct asks one number of the kernel on a host, which must succeed.
func ct[T any](t *testing.T, host *lab.Host, ask func(context.Context) (T, error)) T {
	t.Helper()
	var got T
	on(t, host, func() (err error) {
		got, err = ask(context.WithoutCancel(t.Context()))
		return err
	})
	return got
}

func TestTrackingIsFoundPerFamily(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	expect := func(when string, v4, v6 bool) {
		t.Helper()
		for family, want := range map[kernel.Family]bool{kernel.IPv4: v4, kernel.IPv6: v6} {
			if got := ct(t, fw, func(ctx context.Context) (bool, error) { return kernel.Tracking(ctx, family) }); got != want {
				t.Errorf("%s: tracking of %s is %t, want %t", when, family, got, want)
			}
		}
	}
	cannotTell := func(when string, family kernel.Family) {
		t.Helper()
		on(t, fw, func() error {
			if on, err := kernel.Tracking(t.Context(), family); on || !errors.Is(err, kernel.ErrCannotTell) {
				return fmt.Errorf("%s: tracking of %s is %t, %w; want ErrCannotTell", when, family, on, err)
			}
			return nil
		})
	}
	expect("at first", false, false)
	runInput(t, fw, "table ip watch4 { chain unhooked { ct state new; }; }\n", "nft", "-f", "-")
	expect("with a rule of IPv4", true, false)
	runInput(t, fw, "table ip6 watch6 { chain unhooked { ct state new; }; }\n", "nft", "-f", "-")
	expect("with rules of both", true, true)
	if left := run(t, fw, "conntrack", "-L", "-p", "udp") + run(t, fw, "conntrack", "-L", "-f", "ipv6", "-p", "udp"); left != "" {
		t.Errorf("entries are left:\n%s", left)
	}
	run(t, fw, "nft", "delete", "table", "ip", "watch4")
	expect("without the rule of IPv4", false, true)
	runInput(t, fw, "table inet watch { chain in { type filter hook input priority 0; iif lo drop; ct state new; }; }\n", "nft", "-f", "-")
	expect("with what comes in by lo dropped", true, true)
	runInput(t, fw, "table inet mute { chain out { type filter hook output priority 0; oif lo drop; }; }\n", "nft", "-f", "-")
	cannotTell("with what goes out by lo dropped", kernel.IPv4)
	cannotTell("with what goes out by lo dropped", kernel.IPv6)
	run(t, fw, "nft", "delete", "table", "inet", "mute")
	run(t, fw, "ip", "link", "set", "lo", "down")
	run(t, fw, "ip", "addr", "flush", "dev", "lo")
	cannotTell("with lo down", kernel.IPv4)
	cannotTell("with lo down", kernel.IPv6)
	run(t, fw, "ip", "link", "set", "lo", "up")
	if err := fw.SetSysctl("net.ipv6.conf.all.disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	expect("without IPv6", true, false)
}

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

// entries returns the conntrack table's TCP connections by their original direction.
func entries(t *testing.T, host *lab.Host) map[kernel.Tuple]kernel.Conn {
	t.Helper()
	return ct(t, host, func(ctx context.Context) (map[kernel.Tuple]kernel.Conn, error) {
		all := map[kernel.Tuple]kernel.Conn{}
		return all, kernel.WalkTCP(ctx, func(c kernel.Conn) error {
			all[c.Original] = c
			return nil
		})
	})
}

// TestSocketsAgreeWithConntrack lets the kernel see the handshakes, and compares what it learned of them with what
// the sockets say.
func TestSocketsAgreeWithConntrack(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	runInput(t, fw, trackAll, "nft", "-f", "-")
	open := lines(t, topo)
	table := entries(t, fw)
	ends := map[kernel.Tuple]kernel.Socket{}
	for _, s := range ct(t, fw, kernel.LocalConnections) {
		ends[kernel.Tuple{Src: s.Local, Dst: s.Remote}] = s
	}
	for _, l := range open {
		conn, ok := table[l.tuple()]
		if !ok {
			t.Errorf("%s: %s is not among the entries", l.name, l.tuple())
			continue
		}
		for inbound, end := range map[bool]kernel.Tuple{true: l.tuple().Reverse(), false: l.tuple()} {
			s, ok := ends[end]
			loopback := !strings.HasPrefix(l.name, "in,") && !strings.HasPrefix(l.name, "out,")
			if !loopback && inbound != strings.HasPrefix(l.name, "in,") {
				if ok {
					t.Errorf("%s: the peer's socket is among those of this host", l.name)
				}
				continue
			}
			local, remote := conn.WScaleOriginal, conn.WScaleReply
			if inbound {
				local, remote = remote, local
			}
			want := kernel.Socket{
				Local: end.Src, Remote: end.Dst, Inbound: inbound, Loopback: loopback, Timestamps: true,
				WindowScale: conn.FlagsOriginal&conn.FlagsReply&kernel.FlagWindowScale != 0,
				SACK:        conn.FlagsOriginal&conn.FlagsReply&kernel.FlagSACKPermitted != 0,
				LocalWScale: local, RemoteWScale: remote,
			}
			if s != want || !s.WindowScale || !s.SACK {
				t.Errorf("%s:\nsocket    %+v\nconntrack %+v", l.name, s, want)
			}
			if !loopback && !strings.Contains(l.name, "dual") && s.LocalWScale == s.RemoteWScale {
				t.Errorf("%s: both scales are %d, so the test proves little", l.name, s.LocalWScale)
			}
		}
	}
	toServer := func(dst netip.AddrPort) bool { return dst.Addr() == lab.ServerV4 }
	if got := ct(t, fw, func(ctx context.Context) (int, error) { return kernel.RoutedConnections(ctx, toServer) }); got != 1 {
		t.Errorf("%d connections to the server, want 1", got)
	}
}

// TestCarry opens connections before anything is tracked, and then makes all depend on it.
func TestCarry(t *testing.T) {
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
						case errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "timeout"):
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

// TestCarryReplacesWhatWasPickedUp lets the kernel see connections first in their middle, so that it takes their
// windows for too small and waits for an acknowledgement that it saw.
func TestCarryReplacesWhatWasPickedUp(t *testing.T) {
	const size = 32 << 20
	topo := newTopology(t)
	fw := topo.Firewall
	echo := serve(t, fw, lab.ServerConfig{Address: netip.AddrPortFrom(lab.FirewallV4, 0)}).Address()
	outside := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV6, 0)}).Address()
	picked := []*talker{dialTalker(t, "in", topo.Client, echo), dialTalker(t, "out", fw, outside)}
	runInput(t, fw, "table inet paint { chain in { type filter hook input priority 0; ct mark set 42; }; }\n", "nft", "-f", "-")
	seen := dialTalker(t, "seen", topo.Client, echo)
	for _, l := range append(picked, seen) {
		if err := l.stream(size); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	for i, l := range append(picked, seen) {
		if entry := entries(t, fw)[l.tuple()]; (entry.Timeout <= 300*time.Second) != (i < len(picked)) {
			t.Errorf("%s: at first %+v", l.name, entry)
		}
	}
	for _, want := range []int{len(picked), 0} {
		if got := carryOver(t, fw); got != want {
			t.Errorf("%d carried over, want %d", got, want)
		}
	}
	if marks := run(t, fw, "conntrack", "-L", "-p", "tcp", "-m", "42"); strings.Count(marks, "mark=42") != 3 {
		t.Errorf("entries with the mark:\n%s", marks)
	}
	if err := fw.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
		t.Fatal(err)
	}
	runInput(t, fw, dropInvalid, "nft", "-f", "-")
	for _, l := range append(picked, seen) {
		if err := l.stream(size); err != nil {
			t.Error(err)
		}
		time.Sleep(100 * time.Millisecond)
		if entry := entries(t, fw)[l.tuple()]; entry.Timeout <= 300*time.Second {
			t.Errorf("%s: at last %+v", l.name, entry)
		}
	}
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

// TestCarryManyConnections says how long it takes.
func TestCarryManyConnections(t *testing.T) {
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
