package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// TestProbeOwnAddress asks addresses of the machine itself, which answer through lo and its huge MTU.
func TestProbeOwnAddress(t *testing.T) {
	topo := newTopology(t)
	for vip, bits := range map[string]int{"10.98.0.1": 32, "fd98::1": 128} {
		if err := topo.Client.AddAddress("lo", netip.PrefixFrom(netip.MustParseAddr(vip), bits)); err != nil {
			t.Fatal(err)
		}
		if err := topo.Firewall.AddAddress("lo", netip.PrefixFrom(netip.MustParseAddr(vip), bits)); err != nil {
			t.Fatal(err)
		}
	}
	shared := netip.MustParseAddr("10.98.0.2")
	for name, mtu := range map[string]int{"eth0": 1400, "eth1": 1300} {
		if err := topo.Firewall.AddAddress(name, netip.PrefixFrom(shared, 32)); err != nil {
			t.Fatal(err)
		}
		if err := topo.Firewall.SetMTU(name, mtu); err != nil {
			t.Fatal(err)
		}
	}
	if err := topo.Client.SetMTU("eth0", 1380); err != nil {
		t.Fatal(err)
	}
	port := uint16(8080)
	for _, host := range []*lab.Host{topo.Firewall, topo.Client} {
		serve(t, host, lab.ServerConfig{Address: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
	}
	for _, tt := range []struct {
		host   *lab.Host
		iface  string
		addr   string
		mss    int
		source string
	}{
		{topo.Firewall, "", lab.FirewallV4.String(), 1360, ""},
		{topo.Firewall, "", lab.FirewallV6.String(), 1340, ""},
		{topo.Firewall, "", lab.InsideV4.String(), 1260, ""},
		{topo.Firewall, "", lab.InsideV4.String(), 1260, lab.FirewallV4.String()},
		{topo.Firewall, "", shared.String(), 1260, ""}, // eth0 and eth1 have it: the smaller MTU
		{topo.Firewall, "eth1", lab.FirewallV4.String(), 1260, ""},
		{topo.Firewall, "eth2", lab.FirewallV6.String(), 1440, ""},
		// An address on lo: clients come by the default route, of which the firewall has none.
		{topo.Client, "", "10.98.0.1", 1340, ""},
		{topo.Client, "", "fd98::1", 1320, ""},
		{topo.Firewall, "", "10.98.0.1", 1460, ""},
		{topo.Firewall, "eth1", "fd98::1", 1240, ""},
		// Nobody else can reach these, so that nothing limits them.
		{topo.Firewall, "", "127.0.0.1", 65495, ""},
		{topo.Firewall, "", "::1", 65476, ""},
	} {
		cfg := probe.Config{Interface: tt.iface, Connect: true, BannerWait: 50 * time.Millisecond}
		if tt.source != "" {
			cfg.Source = netip.MustParseAddr(tt.source)
		}
		r := ask(t, tt.host, cfg, netip.AddrPortFrom(netip.MustParseAddr(tt.addr), port))[0]
		if r.Verdict != probe.Direct || !r.Local || told(r).MSS != tt.mss || r.Samples != 3 || speaks(r) != probe.Client {
			t.Errorf("%s on %s through %q: want mss %d: %s", tt.addr, tt.host.Name(), tt.iface, tt.mss, show(r))
		}
	}
}

// TestProbeSource asks from a second address, to which the server's route has another MTU.
func TestProbeSource(t *testing.T) {
	topo := newTopology(t)
	bothFamilies(t, func(t *testing.T, _ string, server netip.Addr) {
		second, via, bits, headers := netip.MustParseAddr("10.77.1.50"), lab.InsideV4, 24, 40
		if server.Is6() {
			second, via, bits, headers = netip.MustParseAddr("fd77:1::50"), lab.InsideV6, 64, 60
		}
		// Of a preferred life of 0 seconds, so that it is only used when asked for.
		run(t, topo.Client, "ip", "address", "add", netip.PrefixFrom(second, bits).String(), "dev", "eth0", "nodad", "preferred_lft", "0")
		run(t, topo.Server, "ip", "route", "add", second.String(), "via", via.String(), "mtu", "1300")
		addr := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(server, 0)}).Address()
		wire := sniff(t, topo.Client, lab.TCPPort(addr.Port()))
		first := ask(t, topo.Client, probe.Config{}, addr)[0]
		other := ask(t, topo.Client, probe.Config{Source: second, Interface: "eth0", Connect: true, BannerWait: 20 * time.Millisecond}, addr)[0]
		if told(first).MSS != 1500-headers || told(other).MSS != 1300-headers || speaks(other) != probe.Client {
			t.Errorf("usual source: %s\nsecond source: %s", show(first), show(other))
		}
		packets, err := wire.Stop()
		if err != nil {
			t.Fatal(err)
		}
		syns := map[netip.Addr]int{}
		for _, p := range packets {
			if p.Segment.Flags&synAck == lab.SYN {
				syns[p.Segment.Source.Addr()]++
			}
		}
		if syns[second] != 5 || len(syns) != 2 {
			t.Errorf("SYNs came from %v, want 5 from %s", syns, second)
		}
	})
}

// TestProbeBehindOwnFirewall asks from a machine that lets only answers in, and translates addresses.
func TestProbeBehindOwnFirewall(t *testing.T) {
	topo := newTopology(t)
	bothFamilies(t, func(t *testing.T, iptables string, server netip.Addr) {
		public := netip.MustParseAddrPort("203.0.113.7:443")
		if server.Is6() {
			public = netip.MustParseAddrPort("[2001:db8::7]:443")
		}
		addr := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(server, 0)}).Address()
		for _, rule := range []string{
			"-P INPUT DROP",
			"-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
			fmt.Sprintf("-t nat -A OUTPUT -p tcp -d %s --dport %d -j DNAT --to-destination %s", public.Addr(), public.Port(), addr),
			"-t nat -A POSTROUTING -p tcp -j MASQUERADE --to-ports 50000-50999",
			"-A OUTPUT -p tcp --dport 666 -j DROP",
		} {
			run(t, topo.Client, iptables, strings.Fields(rule)...)
		}
		results := ask(t, topo.Client, probe.Config{}, addr, public, netip.AddrPortFrom(server, 666))
		for _, r := range results[:2] {
			if r.Verdict != probe.Direct || r.Samples != 3 || !r.Consistent {
				t.Errorf("behind a firewall with NAT: %s", show(r))
			}
		}
		if r := results[2]; r.Verdict != probe.Unreachable || r.Reason != "local-firewall" || r.Sent != 0 {
			t.Errorf("dropped in OUTPUT: %s", show(r))
		}
	})
}

// TestProbeLocalRoutes asks what this machine's own routes forbid, and what lacks a zone.
func TestProbeLocalRoutes(t *testing.T) {
	topo := newTopology(t)
	for _, kind := range []string{"unreachable", "prohibit", "blackhole"} {
		for _, prefix := range []string{"10.66.%d.0/24", "fd66:%d::/64"} {
			run(t, topo.Client, "ip", "route", "add", kind, fmt.Sprintf(prefix, len(kind)))
		}
	}
	for addr, reason := range map[string]string{
		"10.66.11.1:80":    "local-host-unreachable",
		"10.66.8.1:80":     "local-prohibited",
		"10.66.9.1:80":     "local-blackhole",
		"[fd66:11::1]:80":  "local-host-unreachable",
		"[fd66:8::1]:80":   "local-prohibited",
		"[fd66:9::1]:80":   "local-blackhole",
		"[fe80::1]:80":     "no-zone",
		"[fe80::1%eth9]:1": "no-zone",
	} {
		r := ask(t, topo.Client, probe.Config{}, netip.MustParseAddrPort(addr))[0]
		if r.Verdict != probe.Unreachable || r.Reason != reason || r.Sent != 0 {
			t.Errorf("%s: want %q: %s", addr, reason, show(r))
		}
	}
	run(t, topo.Attacker, "ip", "route", "del", "default")
	if r := ask(t, topo.Attacker, probe.Config{}, netip.MustParseAddrPort("203.0.113.1:80"))[0]; r.Reason != "local-no-route" {
		t.Errorf("no route: %s", show(r))
	}
}

// TestProbeInterface asks by interfaces that the routes would not choose.
func TestProbeInterface(t *testing.T) {
	topo := newTopology(t)
	// The interface is heeded, even when nobody answers there: the SYN leaves by it, with the address that it has.
	if err := topo.Firewall.AddNeighbour("eth2", lab.ServerV4, net.HardwareAddr{2, 0, 0, 0, 0, 1}); err != nil {
		t.Fatal(err)
	}
	astray := sniff(t, topo.Attacker)
	addr := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 0)}).Address()
	for iface, verdict := range map[string]probe.Verdict{"": probe.Direct, "eth1": probe.Direct, "eth2": probe.NoReply} {
		cfg := probe.Config{Interface: iface, Timeout: 300 * time.Millisecond}
		if r := ask(t, topo.Firewall, cfg, addr)[0]; r.Verdict != verdict {
			t.Errorf("interface %q: want %s: %s", iface, verdict, show(r))
		}
	}

	packets, err := astray.Stop()
	sources := map[netip.Addr]int{}
	for _, p := range packets {
		if p.Segment != nil && p.Segment.Destination == addr {
			sources[p.Segment.Source.Addr()]++
		}
	}
	if len(sources) != 1 || sources[lab.OutsideV4] != 6 || err != nil {
		t.Errorf("SYNs on eth2 came from %v, error %v, want 3 from %s, each sent again once", sources, err, lab.OutsideV4)
	}

	// An interface that the routes would not choose.
	moved := netip.MustParseAddr("10.97.0.1")
	if err := errors.Join(
		topo.Server.AddAddress("eth0", netip.PrefixFrom(moved, 32)),
		topo.Firewall.AddRoute(netip.PrefixFrom(moved, 32), lab.ClientV4),
	); err != nil {
		t.Fatal(err)
	}
	port := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(moved, 0)}).Address().Port()
	cfg := probe.Config{Interface: "eth1", Connect: true, BannerWait: 50 * time.Millisecond}
	if r := ask(t, topo.Firewall, cfg, netip.AddrPortFrom(moved, port))[0]; r.Verdict != probe.Direct || speaks(r) != probe.Client {
		t.Errorf("against the routes: %s", show(r))
	}
}

// TestProbeLinkLocal asks the same address on two links, told apart by their zones.
func TestProbeLinkLocal(t *testing.T) {
	topo := newTopology(t)
	near := netip.MustParsePrefix("fe80::77/64")
	if err := errors.Join(topo.Client.AddAddress("eth0", near), topo.Server.AddAddress("eth0", near)); err != nil {
		t.Fatal(err)
	}
	serve(t, topo.Client, lab.ServerConfig{Address: netip.MustParseAddrPort("[::]:80"), MaxSegment: 1000})
	serve(t, topo.Server, lab.ServerConfig{Address: netip.MustParseAddrPort("[::]:80"), MaxSegment: 1100})
	results := ask(t, topo.Firewall, probe.Config{Connect: true, BannerWait: 50 * time.Millisecond, Timeout: 2 * time.Second},
		netip.MustParseAddrPort("[fe80::77%eth0]:80"), netip.MustParseAddrPort("[fe80::77%eth1]:80"), netip.MustParseAddrPort("[fe80::77%eth0]:81"))
	if told(results[0]).MSS != 1000 || told(results[1]).MSS != 1100 || results[2].Verdict != probe.Refused {
		t.Errorf("link-local:\n%s\n%s\n%s", show(results[0]), show(results[1]), show(results[2]))
	}
	if results[0].Address != "fe80::77%eth0" || speaks(results[1]) != probe.Client {
		t.Errorf("link-local:\n%s\n%s", show(results[0]), show(results[1]))
	}
	r := ask(t, topo.Firewall, probe.Config{Interface: "eth1"}, netip.MustParseAddrPort("[fe80::77]:80"))[0]
	if told(r).MSS != 1100 {
		t.Errorf("the interface for a zone: %s", show(r))
	}
}

// TestProbeWithoutRights gives the one capability up that the probe needs.
func TestProbeWithoutRights(t *testing.T) {
	topo := newTopology(t)
	target := []probe.Target{{Addr: netip.AddrPortFrom(lab.ServerV4, 80)}}
	err := topo.Client.Do(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capget(&header, &caps[0]); err != nil {
			return err
		}
		caps[0].Effective &^= 1 << unix.CAP_NET_RAW // of this thread only, which ends with Do
		if err := unix.Capset(&header, &caps[0]); err != nil {
			return err
		}
		_, err := probe.Probe(t.Context(), probe.Config{}, target)
		return err
	})
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("error %v, want one of permission that names CAP_NET_RAW", err)
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	topo := newTopology(t)
	run(t, topo.Firewall, "iptables-nft", "-P", "FORWARD", "DROP")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := topo.Client.Do(func() error {
		_, err := probe.Probe(ctx, probe.Config{Timeout: time.Minute}, []probe.Target{{Addr: netip.AddrPortFrom(lab.ServerV4, 80)}})
		return err
	})
	if elapsed := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || elapsed > time.Second {
		t.Errorf("error %v after %v", err, elapsed)
	}
}
