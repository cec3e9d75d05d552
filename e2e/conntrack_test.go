package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

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
			if on, err := kernel.Tracking(t.Context(), family); on || !errors.Is(err, kernel.ErrCannotTell) || errors.Is(err, os.ErrPermission) {
				return fmt.Errorf("%s: tracking of %s is %t, %w; want ErrCannotTell alone", when, family, on, err)
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
