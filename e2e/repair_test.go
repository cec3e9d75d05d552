package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestStockRecipeStalls shows the fault that the repairs are for: with a server that speaks first, each connection of
// the stock recipe waits a second for the server's retransmission. It also shows that the bar of [allGood] would
// notice.
func TestStockRecipeStalls(t *testing.T) {
	topo := newTopology(t)
	p := place{rules.Forward, rules.IPv4}
	mail := p.serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
	stockRecipe(t, topo.Firewall, rules.NFT, mail.Port())
	res := load(t, topo.Client, mail, lab.LoadConfig{Connections: 3, Concurrency: 3, Mode: lab.ServerFirst})
	if res.OK != 3 || res.Latencies[0] < 900*time.Millisecond {
		t.Fatalf("the stock recipe took %v: this kernel does not have the fault any more; see what the repairs are still for", res)
	}
	rejected := nstat(t, topo.Server, "TcpExtTSEcrRejected")
	if rejected == 0 {
		t.Error("the server did not reject a timestamp echo, so the delay has another cause than the one known")
	}
	t.Logf("stock recipe, server first: %v, TSEcrRejected %d", res, rejected)
}

// nstat returns a counter of the host's kernel.
func nstat(t testing.TB, host *lab.Host, name string) int {
	t.Helper()
	var n int
	for line := range strings.Lines(run(t, host, "nstat", "-asz", name)) {
		_, _ = fmt.Sscanf(line, name+" %d", &n)
	}
	return n
}

// TestThirdACKIsNotRejected looks at the packets: with the repair, the server rejects no timestamp echo, and the
// entry of a server-first connection is established although the client has sent nothing.
func TestThirdACKIsNotRejected(t *testing.T) {
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			topo := newTopology(t)
			host, _ := p.host(topo)
			mail := p.serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
			mustDo(t, topo.Firewall, 0, "apply", mail.String())
			allGood(t, topo.Client, mail, lab.LoadConfig{Connections: 20, Mode: lab.ServerFirst})
			if n := nstat(t, host, "TcpExtTSEcrRejected"); n != 0 {
				t.Errorf("the server rejected %d timestamp echoes", n)
			}
		})
	}
}

// TestBackendWithSYNCookies protects servers that answer with SYN cookies of their own (tcp_syncookies=2). Such a
// server keeps the client's options in the timestamp, so the repair must not remove it; and a local one sends its
// SYN+ACK without a socket, as the proxy does.
func TestBackendWithSYNCookies(t *testing.T) {
	for _, c := range stands() {
		backend, p := c.backend, c.place
		t.Run(c.String(), func(t *testing.T) {
			topo := newTopology(t)
			host, _ := p.host(topo)
			if err := host.SetSysctl("net.ipv4.tcp_syncookies", "2"); err != nil {
				t.Fatal(err)
			}
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			mail := p.serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
			bulk := p.serve(t, topo, 90, lab.ServerConfig{Mode: lab.Bulk})
			dropBareSYNs(t, topo, p, backend, web)
			dropBareSYNs(t, topo, p, backend, mail)
			done := mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), bulk.String(), "--backend", backend)
			if s := done["services"].([]any)[0].(map[string]any); s["third_ack"] != string(rules.RepairNotrack) {
				t.Errorf("service: %v", s)
			}
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 30, Mode: lab.ClientFirst})
			allGood(t, topo.Client, mail, lab.LoadConfig{Connections: 30, Mode: lab.ServerFirst})
			for _, d := range []lab.Direction{lab.Upload, lab.Download} {
				transfer(t, topo.Client, bulk, d, 20<<20)
			}
		})
	}
}

// strictOutput tells that a firewall lets only go what its own rules know. Rules of ours for iptables come before those,
// in the same chains. Those of nf_tables cannot: the protection must be refused until the firewall's own rules let go
// what the proxy sends.
func strictOutput(t testing.TB, fw *lab.Host, p place, backend string, args ...string) {
	t.Helper()
	if backend != rules.NFTables {
		return
	}
	before := dump(t, fw)
	refused := mustDo(t, fw, 5, slices.Concat([]string{"apply", "--backend", backend}, explicit, args)...)
	if message := fmt.Sprint(refused["error"]); !strings.Contains(strings.ToLower(message), "output") {
		t.Errorf("refused: %s", message)
	}
	sameDump(t, before, dump(t, fw))
	addr := p.address().String()
	for _, rule := range [][]string{
		{"OUTPUT", "-s", addr, "--sports", "25,80,8025,8080"},
		{"OUTPUT", "-d", addr, "--dports", "25,80,8025,8080"},
		{"INPUT", "-d", addr, "--dports", "25,80", "-i", "lo"},
	} {
		run(t, fw, p.program(backend), slices.Concat([]string{"--wait", "5", "-I", rule[0], "-p", "tcp", "-m", "multiport"}, rule[1:], []string{"-j", "ACCEPT"})...)
	}
}

// TestRestrictiveFirewall protects services on a firewall whose policies are all DROP, which accepts established
// connections, drops invalid packets and has rules for new ones.
func TestRestrictiveFirewall(t *testing.T) {
	for _, c := range stands() {
		backend, p := c.backend, c.place
		t.Run(c.String(), func(t *testing.T) {
			topo := newTopology(t)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			mail := p.serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
			program := p.program(backend)
			foreignRules(t, topo.Firewall)
			for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
				run(t, topo.Firewall, program, "-A", chain, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
				run(t, topo.Firewall, program, "-A", chain, "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
				if p.family == rules.IPv6 {
					run(t, topo.Firewall, program, "-A", chain, "-p", "ipv6-icmp", "-j", "ACCEPT")
				}
			}
			for _, server := range []netip.AddrPort{web, mail} {
				run(t, topo.Firewall, program, "-A", strings.ToUpper(string(p.hook)), "-p", "tcp", "-d", server.Addr().String(),
					"--dport", fmt.Sprint(server.Port()), "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
			}
			// Its own programs, the probe among them, may go out.
			run(t, topo.Firewall, program, "-A", "OUTPUT", "-m", "addrtype", "--src-type", "LOCAL", "-j", "ACCEPT")
			run(t, topo.Firewall, program, "-A", "INPUT", "-i", "lo", "-m", "addrtype", "--src-type", "LOCAL", "-j", "ACCEPT")
			for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
				run(t, topo.Firewall, program, "-P", chain, "DROP")
			}
			strictOutput(t, topo.Firewall, p, backend, web.String(), mail.String())
			before := dump(t, topo.Firewall)
			mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), "--backend", backend)
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 20, Mode: lab.ClientFirst})
			allGood(t, topo.Client, mail, lab.LoadConfig{Connections: 20, Mode: lab.ServerFirst})
			allGood(t, topo.Firewall, web, lab.LoadConfig{Connections: 3, Mode: lab.ClientFirst})
			mustDo(t, topo.Firewall, 0, "revert")
			sameDump(t, before, dump(t, topo.Firewall))
		})
	}
}

// TestStrictOutput protects services on a firewall that lets go only what belongs to sockets of its own: not even
// packets of established connections. What the proxy sends must go all the same, the ACK that opens the window too:
// without it a client waits 200 ms.
func TestStrictOutput(t *testing.T) {
	for _, c := range combinations() {
		backend, p, mode := c.backend, c.place, c.mode
		t.Run(c.String(), func(t *testing.T) {
			topo := newTopology(t)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			mail := p.serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
			program := p.program(backend)
			run(t, topo.Firewall, program, "-A", "OUTPUT", "-m", "owner", "--socket-exists", "-j", "ACCEPT")
			run(t, topo.Firewall, program, "-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "ACCEPT")
			if p.family == rules.IPv6 {
				run(t, topo.Firewall, program, "-A", "OUTPUT", "-p", "ipv6-icmp", "-j", "ACCEPT")
			}
			run(t, topo.Firewall, program, "-P", "OUTPUT", "DROP")
			strictOutput(t, topo.Firewall, p, backend, web.String(), mail.String(), "--mode", string(mode))
			mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), "--backend", backend, "--mode", string(mode))
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 20, Mode: lab.ClientFirst})
			allGood(t, topo.Client, mail, lab.LoadConfig{Connections: 20, Mode: lab.ServerFirst})
			if n := cookies(t, topo.Firewall); n != 40 {
				t.Errorf("%v of 40 connections passed the proxy", n)
			}
		})
	}
}
