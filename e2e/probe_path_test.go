package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// bothFamilies runs a test over IPv4 and IPv6, with the names of the programs and the server's address.
func bothFamilies(t *testing.T, f func(t *testing.T, iptables string, server netip.Addr)) {
	for _, family := range []struct {
		iptables string
		server   netip.Addr
	}{{"iptables-nft", lab.ServerV4}, {"ip6tables-nft", lab.ServerV6}} {
		t.Run(family.iptables, func(t *testing.T) { f(t, family.iptables, family.server) })
	}
}

func noted(r probe.Result, text string) bool {
	return strings.Contains(strings.Join(r.Notes, "\n"), text)
}

func speaks(r probe.Result) probe.Speaks {
	if r.Speaks == nil {
		return ""
	}
	return *r.Speaks
}

// TestProbeSynproxy meets the kernel's own SYNPROXY with several options, in front of a server and of nobody.
func TestProbeSynproxy(t *testing.T) {
	topo := newTopology(t)
	bothFamilies(t, func(t *testing.T, iptables string, server netip.Addr) {
		cases := []struct {
			synproxy string
			nft      string
			note     string
		}{
			{"--mss 1400 --wscale 7 --sack-perm --timestamp", "mss 1400 wscale 7 timestamp sack-perm", "echo of the window scale"},
			{"--mss 1400 --wscale 7 --timestamp", "mss 1400 wscale 7 timestamp", "echo of the window scale"},
			{"--mss 1400 --timestamp", "mss 1400 timestamp", "window 0"},
			{"--mss 1400", "mss 1400", "window 0"},
		}
		var addrs []netip.AddrPort
		for _, c := range cases {
			for _, mode := range []lab.Mode{lab.ServerFirst, lab.ClientFirst} {
				addr := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(server, 0), Mode: mode}).Address()
				protect(t, topo.Firewall, iptables, addr.Port(), c.synproxy)
				addrs = append(addrs, addr)
			}
			dead := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(server, 0)})
			dead.Close()
			protect(t, topo.Firewall, iptables, dead.Address().Port(), c.synproxy)
			addrs = append(addrs, dead.Address())
		}
		tune(t, topo.Firewall, "net.netfilter.nf_conntrack_tcp_loose=0")
		for i, r := range ask(t, topo.Client, probe.Config{Connect: true}, addrs...) {
			c := cases[i/3]
			speaker := []probe.Speaks{probe.Server, probe.Client, ""}[i%3]
			if r.Verdict != probe.Proxied || r.NFT != c.nft || !noted(r, c.note) || r.Window == nil || *r.Window != 0 || r.SYNCookies {
				t.Errorf("SYNPROXY %s: %s", c.synproxy, show(r))
			}
			if speaks(r) != speaker {
				t.Errorf("SYNPROXY %s: speaks %q, want %q: %s", c.synproxy, speaks(r), speaker, show(r))
			}
		}
	})
}

// protect puts the stock recipe's rules before a port.
func protect(t *testing.T, host *lab.Host, iptables string, port uint16, synproxy string) {
	t.Helper()
	match := []string{"-i", "eth0", "-p", "tcp", "--dport", fmt.Sprint(port)}
	for _, rule := range []string{
		"-t raw -A PREROUTING %s --syn -j CT --notrack",
		"-A FORWARD %s -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY " + synproxy,
		"-A FORWARD %s -m conntrack --ctstate INVALID -j DROP",
	} {
		run(t, host, iptables, strings.Fields(fmt.Sprintf(rule, strings.Join(match, " ")))...)
	}
}

// TestProbeSynCookies meets a server that answers with SYN cookies.
func TestProbeSynCookies(t *testing.T) {
	topo := newTopology(t)
	for _, scaling := range []string{"1", "0"} {
		tune(t, topo.Server, "net.ipv4.tcp_window_scaling="+scaling)
		bothFamilies(t, func(t *testing.T, iptables string, server netip.Addr) {
			// The last SYN comes from a port that was used before: a stateful firewall in between must not mind.
			run(t, topo.Firewall, iptables, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
			addr := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(server, 0)}).Address()
			tune(t, topo.Server, "net.ipv4.tcp_syncookies=1")
			plain := ask(t, topo.Client, probe.Config{}, addr)[0]
			tune(t, topo.Server, "net.ipv4.tcp_syncookies=2")
			cookies := ask(t, topo.Client, probe.Config{}, addr)[0]
			if plain.Verdict != probe.Direct || plain.SYNCookies || len(plain.Notes) != 0 {
				t.Errorf("no cookies: %s", show(plain))
			}
			if cookies.Verdict != probe.Direct || !cookies.SYNCookies || cookies.Samples != 3 || !cookies.Consistent {
				t.Errorf("cookies: %s", show(cookies))
			}
			if cookies.Options.WScale == nil != (scaling == "0") {
				t.Errorf("scaling %s: %s", scaling, show(cookies))
			}
		})
	}
}

// TestProbePool asks an address behind which three servers of different settings stand in turn.
func TestProbePool(t *testing.T) {
	topo := newTopology(t)
	old, err := topo.Host("old")
	if err != nil {
		t.Fatal(err)
	}
	old4, old6 := netip.MustParseAddr("10.77.5.2"), netip.MustParseAddr("fd77:5::2")
	in4, in6 := netip.MustParseAddr("10.77.5.1"), netip.MustParseAddr("fd77:5::1")
	far := lab.Port{Host: old, Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(old4, 24), netip.PrefixFrom(old6, 64)}}
	near := lab.Port{Host: topo.Firewall, Name: "eth3", Addresses: []netip.Prefix{netip.PrefixFrom(in4, 24), netip.PrefixFrom(in6, 64)}}
	if err := errors.Join(
		topo.Link(far, near, 0),
		old.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), in4),
		old.AddRoute(netip.MustParsePrefix("::/0"), in6),
	); err != nil {
		t.Fatal(err)
	}
	tune(t, old, "net.ipv4.tcp_window_scaling=0", "net.ipv4.tcp_sack=0")

	for _, family := range []struct {
		nft          string
		vip          netip.Addr
		server, old  netip.Addr
		mss, smaller uint16
	}{
		{"ip", netip.MustParseAddr("10.99.0.1"), lab.ServerV4, old4, 1460, 1200},
		{"ip6", netip.MustParseAddr("fd99::1"), lab.ServerV6, old6, 1440, 1220},
	} {
		members := []netip.AddrPort{
			serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(family.server, 0)}).Address(),
			serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(family.server, 0), ReceiveBuffer: 65536, MaxSegment: int(family.smaller)}).Address(),
			serve(t, old, lab.ServerConfig{Address: netip.AddrPortFrom(family.old, 0)}).Address(),
		}
		var balance strings.Builder
		fmt.Fprintf(&balance, "table %s pool { chain pre { type nat hook prerouting priority dstnat;\n", family.nft)
		for port, n := range map[int]int{80: 3, 81: 2} { // port 81 leaves the old server out
			fmt.Fprintf(&balance, "%s daddr %s tcp dport %d dnat to numgen inc mod %d map {", family.nft, family.vip, port, n)
			for i, m := range members[:n] {
				fmt.Fprintf(&balance, "%d: %s . %d,", i, m.Addr(), m.Port())
			}
			fmt.Fprint(&balance, "}\n")
		}
		fmt.Fprint(&balance, "}\n}\n")
		runInput(t, topo.Firewall, balance.String(), "nft", "-f", "-")

		results := ask(t, topo.Client, probe.Config{Count: 6}, netip.AddrPortFrom(family.vip, 80), netip.AddrPortFrom(family.vip, 81))
		for i, want := range []struct {
			nft      string
			variants int
		}{
			{fmt.Sprintf("mss %d timestamp", family.smaller), 3},
			{fmt.Sprintf("mss %d wscale 10 timestamp sack-perm", family.smaller), 2},
		} {
			r := results[i]
			if r.Verdict != probe.Direct || r.Consistent || len(r.Variants) != want.variants || r.NFT != want.nft || r.Samples != 6 {
				t.Errorf("want %q: %s", want.nft, show(r))
			}
			for _, v := range r.Variants {
				if v.Count != 6/want.variants {
					t.Errorf("%s came %d times, want %d", v.Options.NFT(), v.Count, 6/want.variants)
				}
			}
		}
	}
}

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
	for name, mtu := range map[string]int{"eth0": 1400, "eth1": 1300} {
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

// TestProbeConnect finds who speaks first, and leaves without a RST.
func TestProbeConnect(t *testing.T) {
	topo := newTopology(t)
	wire := sniff(t, topo.Client)
	bothFamilies(t, func(t *testing.T, _ string, server netip.Addr) {
		var addrs []netip.AddrPort
		want := []probe.Speaks{probe.Server, probe.Client}
		for _, mode := range []lab.Mode{lab.ServerFirst, lab.ClientFirst} {
			addrs = append(addrs, serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(server, 0), Mode: mode}).Address())
		}
		addrs = append(addrs, netip.AddrPortFrom(server, 9)) // nobody
		begin := time.Now()
		results := ask(t, topo.Client, probe.Config{Connect: true}, addrs...)
		if elapsed := time.Since(begin); elapsed < 1500*time.Millisecond || elapsed > 3*time.Second {
			t.Errorf("took %v", elapsed)
		}
		for i, speaker := range want {
			if r := results[i]; r.Verdict != probe.Direct || speaks(r) != speaker || len(r.Notes) != 0 {
				t.Errorf("want %q: %s", speaker, show(r))
			}
		}
		if results[2].Verdict != probe.Refused || results[2].Speaks != nil {
			t.Errorf("closed port: %s", show(results[2]))
		}
	})
	packets, err := wire.Stop()
	if err != nil {
		t.Fatal(err)
	}
	resets, finished := map[uint16]bool{}, map[uint16]bool{}
	for _, p := range packets {
		if s := p.Segment; s != nil && p.Outgoing {
			resets[s.Source.Port()] = resets[s.Source.Port()] || s.Flags&lab.RST != 0
			finished[s.Source.Port()] = finished[s.Source.Port()] || s.Flags&lab.FIN != 0
			if len(s.Payload) != 0 {
				t.Errorf("the probe said %q", s.Payload)
			}
		}
	}
	n := 0
	for port, fin := range finished {
		if fin {
			n++
			if resets[port] {
				t.Errorf("the connection from port %d ended in a RST", port)
			}
		}
	}
	if n != 4 {
		t.Errorf("%d connections were closed, want 4", n)
	}
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

// TestProbeLocalRoutes asks what this machine's own routes forbid, and what needs a zone.
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

	// The interface is heeded, even when nobody answers there.
	addr := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 0)}).Address()
	for iface, verdict := range map[string]probe.Verdict{"": probe.Direct, "eth1": probe.Direct, "eth2": probe.NoReply} {
		cfg := probe.Config{Interface: iface, Timeout: 300 * time.Millisecond}
		if r := ask(t, topo.Firewall, cfg, addr)[0]; r.Verdict != verdict {
			t.Errorf("interface %q: want %s: %s", iface, verdict, show(r))
		}
	}

	// Link-local addresses: the same one on two links, told apart by their zones.
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
