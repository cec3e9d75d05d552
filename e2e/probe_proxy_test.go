package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

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
				synproxyRules(t, topo.Firewall, iptables, addr.Port(), c.synproxy)
				addrs = append(addrs, addr)
			}
			// A server that is gone, and one whose host is: the proxy answers for both.
			for i := range 2 {
				dead := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(server, 0)})
				dead.Close()
				port := dead.Address().Port()
				synproxyRules(t, topo.Firewall, iptables, port, c.synproxy)
				if i == 1 {
					run(t, topo.Firewall, iptables, "-A", "OUTPUT", "-p", "tcp", "--dport", fmt.Sprint(port), "-j", "DROP")
				}
				addrs = append(addrs, dead.Address())
			}
		}
		tune(t, topo.Firewall, "net.netfilter.nf_conntrack_tcp_loose=0")
		// Both proxies answer, but nobody stands behind the second.
		mustDo(t, topo.Client, 0, "probe", "--expect", "proxied", "--connect", addrs[0].String())
		mustDo(t, topo.Client, honestNo, "probe", "--expect", "proxied", "--connect", addrs[2].String())
		mustDo(t, topo.Client, 0, "probe", "--connect", addrs[2].String())
		for i, r := range ask(t, topo.Client, probe.Config{Connect: true}, addrs...) {
			c := cases[i/4]
			speaker := []probe.Speaks{probe.Server, probe.Client, "", ""}[i%4]
			if r.Verdict != probe.Proxied || r.NFT != c.nft || !noted(r, c.note) || r.Window == nil || *r.Window != 0 || r.SYNCookies {
				t.Errorf("SYNPROXY %s: %s", c.synproxy, show(r))
			}
			if i%4 == 3 && !noted(r, "no server stands behind it") {
				t.Errorf("SYNPROXY %s before nobody: %s", c.synproxy, show(r))
			}
			if speaks(r) != speaker {
				t.Errorf("SYNPROXY %s: speaks %q, want %q: %s", c.synproxy, speaks(r), speaker, show(r))
			}
			if stands := i%4 < 2; r.Connected == nil || *r.Connected != stands {
				t.Errorf("SYNPROXY %s: connected is not %v: %s", c.synproxy, stands, show(r))
			}
		}
	})
}

// synproxyRules puts the stock recipe's rules before a port.
func synproxyRules(t *testing.T, host *lab.Host, iptables string, port uint16, synproxy string) {
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
