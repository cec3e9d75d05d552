package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// on runs f inside the host's network namespace; f must not end the test.
func on(t *testing.T, host *lab.Host, f func() error) {
	t.Helper()
	if err := host.Do(f); err != nil {
		t.Errorf("on %s: %v", host.Name(), err)
	}
}

// TestKernelCountsProxiedConnections holds proxied and direct connections open
// and compares what the kernel is found to say of them.
func TestKernelCountsProxiedConnections(t *testing.T) {
	topo := newTopology(t)
	for _, family := range []struct {
		iptables string
		server   netip.Addr
	}{{"iptables-nft", lab.ServerV4}, {"ip6tables-nft", lab.ServerV6}} {
		t.Run(family.iptables, func(t *testing.T) {
			var servers [2]*lab.Server
			for i := range servers {
				var err error
				if servers[i], err = topo.Server.Serve(t.Context(), lab.ServerConfig{Address: netip.AddrPortFrom(family.server, 0)}); err != nil {
					t.Fatal(err)
				}
				defer servers[i].Close()
			}
			proxied, direct := servers[0].Address(), servers[1].Address()
			stockRecipe(t, topo.Firewall, family.iptables, proxied.Port())
			var before kernel.SynproxyStats
			on(t, topo.Firewall, func() (err error) {
				before, err = kernel.ReadSynproxyStats()
				return err
			})
			for _, remote := range []netip.AddrPort{proxied, proxied, proxied, direct} {
				hold(t, topo.Client, remote)
			}
			on(t, topo.Firewall, func() error {
				return errors.Join(
					proxiedIs(t, 3, nil),
					proxiedIs(t, 3, func(dst netip.AddrPort) bool { return dst == proxied }),
					proxiedIs(t, 0, func(dst netip.AddrPort) bool { return dst == direct }),
				)
			})
			on(t, topo.Firewall, func() error {
				now, err := kernel.ReadSynproxyStats()
				want := kernel.SynproxyStats{SYNReceived: 3, CookieValid: 3}
				if got := now.Since(before); err == nil && got != want {
					return fmt.Errorf("counters %+v, want %+v", got, want)
				}
				return err
			})
			on(t, topo.Firewall, func() error {
				count, limit, err := kernel.ConntrackCount()
				if err == nil && (count < 4 || limit < count) {
					return fmt.Errorf("conntrack count %d of %d, want at least 4", count, limit)
				}
				return err
			})
		})
		// The connections are closed now, and their entries are still there.
		on(t, topo.Firewall, func() error { return proxiedIs(t, 0, nil) })
	}
}

// stockRecipe puts the rules of iptables-extensions(8) for SYNPROXY on a host.
func stockRecipe(t *testing.T, host *lab.Host, iptables string, port uint16) {
	t.Helper()
	service := []string{"-i", "eth0", "-p", "tcp", "--dport", fmt.Sprint(port)}
	rule := func(table, chain string, rest ...string) {
		run(t, host, iptables, append(append([]string{"-t", table, "-A", chain}, service...), rest...)...)
	}
	rule("raw", "PREROUTING", "--syn", "-j", "CT", "--notrack")
	rule("filter", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID,UNTRACKED",
		"-j", "SYNPROXY", "--sack-perm", "--timestamp", "--wscale", "7", "--mss", "1440")
	rule("filter", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
	if err := host.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
		t.Fatal(err)
	}
}

// hold opens a connection, has a line echoed, and keeps it until the test ends.
func hold(t *testing.T, host *lab.Host, remote netip.AddrPort) {
	t.Helper()
	conn, err := host.Dial(t.Context(), remote)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Until the server's FIN is here the firewall may not have seen both.
		err := errors.Join(conn.CloseWrite(), drain(conn))
		if err := errors.Join(err, conn.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		t.Fatalf("echo %q, %v", line, err)
	}
}

func drain(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func proxiedIs(t *testing.T, want int, match func(netip.AddrPort) bool) error {
	got, err := kernel.ProxiedConnections(context.WithoutCancel(t.Context()), match)
	if err == nil && got != want {
		return fmt.Errorf("%d proxied connections, want %d", got, want)
	}
	return err
}

// TestKernelBeforeAnyRule asks a namespace in which nothing was ever set up.
func TestKernelBeforeAnyRule(t *testing.T) {
	topo := newTopology(t)
	on(t, topo.Client, func() error {
		stats, err := kernel.ReadSynproxyStats()
		// Another namespace may have had the kernel load the module.
		if err != nil && !errors.Is(err, fs.ErrNotExist) || stats != (kernel.SynproxyStats{}) {
			return fmt.Errorf("counters %+v, %w", stats, err)
		}
		return proxiedIs(t, 0, nil)
	})
}

func TestKernelRoute(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	for _, command := range [][]string{
		{"ip", "route", "add", "unreachable", "203.0.113.1"},
		{"ip", "route", "add", "prohibit", "203.0.113.2"},
		{"ip", "route", "add", "blackhole", "203.0.113.3"},
		{"ip", "-6", "route", "add", "unreachable", "2001:db8::1"},
		{"ip", "-6", "route", "add", "prohibit", "2001:db8::2"},
		{"ip", "-6", "route", "add", "blackhole", "2001:db8::3"},
		{"ip", "route", "add", "198.51.100.0/24", "via", lab.ServerV4.String(), "mtu", "1400"},
		{"ip", "-6", "route", "add", "2001:db8:5::/48", "via", lab.ServerV6.String(), "mtu", "1400"},
		{"ip", "route", "add", "198.51.101.0/24", "via", lab.ServerV4.String(), "mtu", "9000"},
		{"ip", "route", "add", "local", "203.0.113.64/26", "dev", "lo"},
		{"ip", "link", "set", "eth0", "mtu", "1450"},
	} {
		run(t, fw, command[0], command[1:]...)
	}
	addr := netip.MustParseAddr
	table := []struct {
		dst, src netip.Addr
		want     kernel.RouteInfo
	}{
		{dst: lab.ServerV4, want: kernel.RouteInfo{Interface: "eth1", MTU: 1500}},
		{dst: lab.ServerV6, want: kernel.RouteInfo{Interface: "eth1", MTU: 1500}},
		{dst: lab.ServerV4, src: lab.FirewallV4, want: kernel.RouteInfo{Interface: "eth1", MTU: 1500}},
		{dst: lab.ClientV4, want: kernel.RouteInfo{Interface: "eth0", MTU: 1450}},
		{dst: lab.FirewallV4, want: kernel.RouteInfo{Local: true, Interface: "eth0", MTU: 1450}},
		{dst: lab.FirewallV6, want: kernel.RouteInfo{Local: true, Interface: "eth0", MTU: 1450}},
		{dst: lab.InsideV4, src: lab.FirewallV4, want: kernel.RouteInfo{Local: true, Interface: "eth1", MTU: 1500}},
		{dst: addr("::ffff:" + lab.FirewallV4.String()), want: kernel.RouteInfo{Local: true, Interface: "eth0", MTU: 1450}},
		{dst: addr("203.0.113.65"), want: kernel.RouteInfo{Local: true, Interface: "lo", MTU: 65536}},
		{dst: addr("198.51.100.1"), want: kernel.RouteInfo{Interface: "eth1", MTU: 1400}},
		{dst: addr("2001:db8:5::1"), want: kernel.RouteInfo{Interface: "eth1", MTU: 1400}},
		{dst: addr("198.51.101.1"), want: kernel.RouteInfo{Interface: "eth1", MTU: 1500}},
		{dst: addr("fe80::1%eth2"), want: kernel.RouteInfo{Interface: "eth2", MTU: 1500}},
		{dst: addr("203.0.113.1"), want: kernel.RouteInfo{Unreachable: "an unreachable route"}},
		{dst: addr("203.0.113.2"), want: kernel.RouteInfo{Unreachable: "a prohibit route"}},
		{dst: addr("203.0.113.3"), want: kernel.RouteInfo{Unreachable: "a blackhole route"}},
		{dst: addr("203.0.113.4"), want: kernel.RouteInfo{Unreachable: "no route"}},
		{dst: addr("2001:db8::1"), want: kernel.RouteInfo{Unreachable: "an unreachable route"}},
		{dst: addr("2001:db8::2"), want: kernel.RouteInfo{Unreachable: "a prohibit route"}},
		{dst: addr("2001:db8::3"), want: kernel.RouteInfo{Unreachable: "a blackhole route"}},
		{dst: addr("2001:db8::4"), want: kernel.RouteInfo{Unreachable: "no route"}},
		{dst: addr("10.77.1.255"), want: kernel.RouteInfo{Unreachable: "not the address of one host"}},
		{dst: addr("224.0.0.1"), want: kernel.RouteInfo{Unreachable: "not the address of one host"}},
		{dst: addr("ff02::1%eth0"), want: kernel.RouteInfo{Unreachable: "not the address of one host"}},
	}
	for _, tt := range table {
		on(t, fw, func() error {
			got, err := kernel.Route(tt.dst, tt.src)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				return fmt.Errorf("route to %s from %s (-want +got):\n%s", tt.dst, tt.src, diff)
			}
			return nil
		})
	}
	// Asked all at once, and many times over, the answers are the same.
	var dsts []netip.Addr
	var wants []kernel.RouteInfo
	for range 20 {
		for _, tt := range table {
			if !tt.src.IsValid() {
				dsts, wants = append(dsts, tt.dst), append(wants, tt.want)
			}
		}
	}
	on(t, fw, func() error {
		answers, err := kernel.RouteAll(t.Context(), dsts)
		if err != nil {
			return err
		}
		for i, a := range answers {
			if a.Err != nil {
				return a.Err
			}
			if a.RouteInfo != wants[i] {
				return fmt.Errorf("route to %s, number %d: %+v, want %+v", dsts[i], i, a.RouteInfo, wants[i])
			}
		}
		return nil
	})
	for name, want := range map[string]bool{"eth2": true, "lo": true, "eth3": false} {
		on(t, fw, func() error {
			got, err := kernel.InterfaceExists(name)
			if err == nil && got != want {
				return fmt.Errorf("InterfaceExists(%q) = %t", name, got)
			}
			return err
		})
	}
}

func TestKernelTellsNamespacesApart(t *testing.T) {
	topo := newTopology(t)
	seen := map[string]string{}
	for _, host := range []*lab.Host{topo.Client, topo.Firewall, topo.Server} {
		on(t, host, func() error {
			id, err := kernel.NetNSID()
			if other := seen[id]; other != "" {
				return fmt.Errorf("%s is also that of %s", id, other)
			}
			seen[id] = host.Name()
			return err
		})
	}
}

// TestKernelWithoutCapabilities gives the privileges of one thread up.
func TestKernelWithoutCapabilities(t *testing.T) {
	topo := newTopology(t)
	on(t, topo.Client, func() error {
		if err := kernel.Require(kernel.NetAdmin, kernel.NetRaw); err != nil {
			return fmt.Errorf("at first: %w", err)
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		if err := kernel.Require(kernel.NetAdmin); !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("Require: %w, want os.ErrPermission", err)
		}
		if _, err := kernel.ProxiedConnections(t.Context(), nil); !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("ProxiedConnections: %w, want fs.ErrPermission", err)
		}
		return nil
	})
}

// TestSysctlOfOneNamespace writes what the kernel takes only in part: it sets
// the first two of three numbers and says nothing. Apply must say so and undo.
func TestSysctlOfOneNamespace(t *testing.T) {
	topo := newTopology(t)
	const loose, rmem = "net.netfilter.nf_conntrack_tcp_loose", "net.ipv4.tcp_rmem"
	on(t, topo.Firewall, func() error {
		tree := sysctl.Default
		before, err := tree.Get(rmem)
		if err != nil {
			return err
		}
		plan, err := tree.Plan([]sysctl.Setting{{Key: loose, Value: "0"}, {Key: rmem, Value: "5000 140000"}})
		if err != nil {
			return err
		}
		done, err := tree.Apply(plan)
		var verr *sysctl.ValueError
		if !errors.As(err, &verr) || verr.Key != rmem || verr.Want != "5000 140000" || !verr.Written {
			return fmt.Errorf("apply: %w, want a ValueError of %s", err, rmem)
		}
		if now, err := tree.Get(rmem); err != nil || now != before {
			return fmt.Errorf("%s is %q, %w; want %q again", rmem, now, err, before)
		}
		if now, err := tree.Get(loose); err != nil || now != "0" {
			return fmt.Errorf("%s is %q, %w; want 0", loose, now, err)
		}
		if _, err := tree.Restore(done); err != nil {
			return err
		}
		if now, err := tree.Get(loose); err != nil || now != "1" {
			return fmt.Errorf("%s is %q, %w; want 1 again", loose, now, err)
		}
		return nil
	})
	if got, err := topo.Client.Sysctl(loose); err != nil || got != "1" {
		t.Errorf("another host's %s is %q, %v", loose, got, err)
	}
}
