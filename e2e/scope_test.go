package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// cookies returns how many connections have passed the proxy so far.
func cookies(t testing.TB, fw *lab.Host) float64 {
	t.Helper()
	return number(t, mustDo(t, fw, 0, "status"), "counters", "cookie_valid")
}

// TestInterfaces protects a service only against what comes in by one interface.
func TestInterfaces(t *testing.T) {
	for _, c := range stands() {
		backend, p := c.backend, c.place
		t.Run(c.String(), func(t *testing.T) {
			topo := newTopology(t)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			mustDo(t, topo.Firewall, 0, "apply", web.String(), "--interface", "eth0", "--backend", backend, "--first", "client")
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 5, Mode: lab.ClientFirst})
			if n := cookies(t, topo.Firewall); n != 5 {
				t.Errorf("%v connections of 5 passed the proxy", n)
			}
			allGood(t, topo.Attacker, web, lab.LoadConfig{Connections: 5, Mode: lab.ClientFirst})
			if n := cookies(t, topo.Firewall); n != 5 {
				t.Errorf("connections by the other interface passed the proxy: %v", n)
			}
		})
	}
}

// TestNarrowIngress makes the way of the clients narrower than that of the server: what the proxy announces must fit
// through it, since no clamp on the way sees its SYN+ACK.
func TestNarrowIngress(t *testing.T) {
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			topo := newTopology(t)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			for _, host := range []*lab.Host{topo.Client, topo.Firewall} {
				if err := host.SetMTU("eth0", 1400); err != nil {
					t.Fatal(err)
				}
			}
			want := uint16(1360)
			if p.family == rules.IPv6 {
				want = 1340
			}
			seen := sniff(t, topo.Client, lab.TCPPort(80))
			mustDo(t, topo.Firewall, 0, "apply", web.String(), "--first", "client", "--interface", "eth2", "--interface", "eth0")
			mustDo(t, topo.Firewall, 0, "verify", "--probe")
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 3, Mode: lab.ClientFirst})
			packets, err := seen.Stop()
			if err != nil {
				t.Fatal(err)
			}
			answers := 0
			for _, packet := range packets {
				const synAck = 0x12
				if packet.Segment == nil || packet.Segment.Flags&synAck != synAck {
					continue
				}
				answers++
				if mss, ok := packet.Segment.MSS(); !ok || mss != want {
					t.Errorf("the proxy announced mss %d, want %d", mss, want)
				}
			}
			if answers != 3 {
				t.Errorf("%d SYN+ACKs were seen", answers)
			}
		})
	}
}

// TestPool protects an address behind which two servers answer differently: what is announced must be safe for both,
// and the user be told.
func TestPool(t *testing.T) {
	topo := newTopology(t)
	tune(t, topo.Server, "net.ipv4.tcp_rmem=4096 131072 1073725440")
	for port, wscale := range map[uint16]int{8001: 5, 8002: 9} {
		on4.serve(t, topo, port, lab.ServerConfig{Mode: lab.ClientFirst, WindowClamp: 65535 << wscale, MaxSegment: 1200 + wscale})
	}
	run(t, topo.Server, "nft", "add table ip pool; add chain ip pool in { type nat hook prerouting priority -100; }; "+
		"add rule ip pool in tcp dport 80 redirect to :numgen inc mod 2 map { 0 : 8001, 1 : 8002 }")
	web := netip.AddrPortFrom(lab.ServerV4, 80)
	done := mustDo(t, topo.Firewall, 0, "apply", web.String(), "--first", "client", "--count", "6")
	service := done["services"].([]any)[0].(map[string]any)
	if number(t, service, "options", "wscale") != 9 || number(t, service, "options", "mss") != 1205 {
		t.Errorf("options %v", service["options"])
	}
	if found := codes(done); !slices.Contains(found, "pool-differs") {
		t.Errorf("findings %v", found)
	}
	allGood(t, topo.Client, web, lab.LoadConfig{Connections: 20, Mode: lab.ClientFirst})
}

// TestPrefix protects a network by the options of one of its servers.
func TestPrefix(t *testing.T) {
	topo := newTopology(t)
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	done := mustDo(t, topo.Firewall, 0, "apply", "10.77.2.0/24:80", "--probe-at", web.String())
	service := done["services"].([]any)[0].(map[string]any)
	if service["destination"] != "10.77.2.0/24" || service["source"] != "probed" || number(t, service, "options", "wscale") != 10 {
		t.Errorf("service: %v", service)
	}
	allGood(t, topo.Client, web, lab.LoadConfig{Connections: 5, Mode: lab.ClientFirst})
	if n := cookies(t, topo.Firewall); n != 5 {
		t.Errorf("%v connections of 5 passed the proxy", n)
	}
	mustDo(t, topo.Firewall, 0, "verify", "--probe")
}

// TestPrefixSparesTheFirewall protects a network in which the firewall has an address too. Its own service on the same
// port, behind its own strict rules, is not the prefix's business; and the other way round.
func TestPrefixSparesTheFirewall(t *testing.T) {
	for _, backend := range backends {
		for _, hook := range []rules.Hook{rules.Forward, rules.Input} {
			t.Run(backend+"-"+string(hook), func(t *testing.T) {
				topo := newTopology(t)
				routed := on4.serve(t, topo, 22, lab.ServerConfig{Mode: lab.ServerFirst})
				own := serve(t, topo.Firewall, lab.ServerConfig{Mode: lab.ServerFirst, Address: netip.AddrPortFrom(lab.InsideV4, 22)}).Address()
				for _, chain := range []string{"INPUT", "FORWARD"} {
					run(t, topo.Firewall, on4.program(backend), "-P", chain, "DROP")
					run(t, topo.Firewall, on4.program(backend), "-A", chain, "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
					run(t, topo.Firewall, on4.program(backend), "-A", chain, "-p", "tcp", "--dport", "22", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
				}
				args := append([]string{"apply", "10.77.2.0/24:22", "--hook", string(hook), "--backend", backend, "--first", "server"}, explicit...)
				mustDo(t, topo.Firewall, 0, args...)
				allGood(t, topo.Client, routed, lab.LoadConfig{Connections: 5, Mode: lab.ServerFirst})
				allGood(t, topo.Client, own, lab.LoadConfig{Connections: 5, Mode: lab.ServerFirst})
				if n := cookies(t, topo.Firewall); n != 5 {
					t.Errorf("%v connections passed the proxy, want those of one of the two", n)
				}
			})
		}
	}
}

// TestRawDenials shows that sources which the host denies in the raw table stay out, as the README says.
func TestRawDenials(t *testing.T) {
	for _, c := range stands() {
		backend, p := c.backend, c.place
		t.Run(c.String(), func(t *testing.T) {
			topo := newTopology(t)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			source := lab.ClientV4.String()
			if p.family == rules.IPv6 {
				source = lab.ClientV6.String()
			}
			mustDo(t, topo.Firewall, 0, "apply", web.String(), "--backend", backend, "--first", "client")
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 2, Mode: lab.ClientFirst})
			run(t, topo.Firewall, p.program(backend), "-t", "raw", "-A", "PREROUTING", "-s", source, "-j", "DROP")
			mustDo(t, topo.Firewall, 0, "verify")
			res := load(t, topo.Client, web, lab.LoadConfig{Connections: 2, Concurrency: 2, Mode: lab.ClientFirst, Timeout: time.Second / 2})
			if res.OK != 0 {
				t.Errorf("a denied source got in: %v", res)
			}
			allGood(t, topo.Attacker, web, lab.LoadConfig{Connections: 2, Mode: lab.ClientFirst})
		})
	}
}
