package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// place is where a service is, seen from the firewall.
type place struct {
	hook   rules.Hook
	family rules.Family
}

var places = []place{
	{rules.Input, rules.IPv4}, {rules.Input, rules.IPv6}, {rules.Forward, rules.IPv4}, {rules.Forward, rules.IPv6},
}

func (p place) String() string { return fmt.Sprintf("%s-%s", p.hook, p.family) }

// host returns the host that the service runs on, and its address.
func (p place) host(topo *lab.Topology) (*lab.Host, netip.Addr) {
	if p.hook == rules.Input {
		return topo.Firewall, p.address()
	}
	return topo.Server, p.address()
}

func (p place) address() netip.Addr {
	switch p {
	case place{rules.Input, rules.IPv4}:
		return lab.FirewallV4
	case place{rules.Input, rules.IPv6}:
		return lab.FirewallV6
	case place{rules.Forward, rules.IPv4}:
		return lab.ServerV4
	}
	return lab.ServerV6
}

// serve starts a server at the place and returns its address.
func (p place) serve(t testing.TB, topo *lab.Topology, port uint16, cfg lab.ServerConfig) netip.AddrPort {
	t.Helper()
	host, addr := p.host(topo)
	cfg.Address = netip.AddrPortFrom(addr, port)
	return serve(t, host, cfg).Address()
}

// program returns "iptables" or "ip6tables" of the variant.
func (p place) program(backend string) string {
	if backend == rules.NFTables {
		backend = rules.NFT // has the tables that are the host's own
	}
	if p.family == rules.IPv6 {
		return strings.Replace(backend, "ip", "ip6", 1)
	}
	return backend
}

// mustDo runs the program under test with --json, expects the exit status, and returns the object.
func mustDo(t testing.TB, host *lab.Host, exit int, args ...string) map[string]any {
	t.Helper()
	stdout, stderr, got := synproxyctl(t, host, append(args, "--json")...)
	if got != exit {
		t.Fatalf("synproxyctl %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, exit, stdout, stderr)
	}
	return oneObject(t, stdout)
}

// oneObject parses standard output, which must be exactly one JSON object.
func oneObject(t testing.TB, stdout string) map[string]any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(stdout))
	var object map[string]any
	if err := dec.Decode(&object); err != nil {
		t.Fatalf("standard output is no JSON object: %v\n%s", err, stdout)
	}
	if dec.More() {
		t.Fatalf("standard output has more than one object:\n%s", stdout)
	}
	if object["schema"] != 1.0 || object["command"] == nil {
		t.Fatalf("schema and command are missing:\n%s", stdout)
	}
	return object
}

// dropBareSYNs adds a last rule on the firewall that drops SYNs to the server that come from outside, so that a
// connection proves that the proxy was in its path: the proxied SYN passes OUTPUT, or comes in by lo.
func dropBareSYNs(t testing.TB, topo *lab.Topology, p place, backend string, server netip.AddrPort) {
	t.Helper()
	if backend == rules.NFTables {
		run(t, topo.Firewall, "nft", fmt.Sprintf("add table inet witness; add chain inet witness last { type filter hook %s priority 250; }; "+
			"add rule inet witness last iifname != lo tcp dport %d tcp flags & (syn|ack|rst|fin) == syn drop", p.hook, server.Port()))
		return
	}
	chain := strings.ToUpper(string(p.hook))
	run(t, topo.Firewall, p.program(backend), "-t", "security", "-A", chain, "-p", "tcp", "--syn", "-d", server.Addr().String(),
		"--dport", fmt.Sprint(server.Port()), "!", "-i", "lo", "-j", "DROP")
}

// allGood makes connections and wants every one of them good and quick.
func allGood(t testing.TB, client *lab.Host, server netip.AddrPort, cfg lab.LoadConfig) {
	t.Helper()
	res := load(t, client, server, cfg)
	if res.OK != cfg.Connections || res.Failed != 0 {
		t.Errorf("%s: %v", server, res)
	}
	if res.Max() > slow {
		t.Errorf("%s: the slowest connection took %v: %v", server, res.Max(), res)
	}
}

// TestEveryCombination protects a server that speaks first and one that does not, in each place and by each backend.
// In short each two of backend, hook and family meet.
func TestEveryCombination(t *testing.T) {
	for _, c := range stands() {
		backend, p := c.backend, c.place
		t.Run(c.String(), func(t *testing.T) {
			topo := newTopology(t)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			mail := p.serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
			foreignRules(t, topo.Firewall)
			dropBareSYNs(t, topo, p, backend, web)
			dropBareSYNs(t, topo, p, backend, mail)
			before := dump(t, topo.Firewall)

			done := mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), "--backend", backend)
			checkApplied(t, done, p, backend)
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 100, Mode: lab.ClientFirst})
			allGood(t, topo.Client, mail, lab.LoadConfig{Connections: 100, Mode: lab.ServerFirst})
			// The same port again: the last connection's TIME_WAIT or CLOSE entry is still there.
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 5, LocalPort: 40000, Mode: lab.ClientFirst})
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 5, LocalPort: 40001, Mode: lab.ClientFirst, Reset: true})
			allGood(t, topo.Client, mail, lab.LoadConfig{Connections: 5, LocalPort: 40002, Mode: lab.ServerFirst})
			// Clients on the firewall itself are not proxied.
			allGood(t, topo.Firewall, web, lab.LoadConfig{Connections: 5, Mode: lab.ClientFirst})
			allGood(t, topo.Firewall, mail, lab.LoadConfig{Connections: 5, Mode: lab.ServerFirst})

			status := mustDo(t, topo.Firewall, 0, "status")
			if n := number(t, status, "counters", "cookie_valid"); n != 215 {
				t.Errorf("%v cookies came back, want those of 215 connections", n)
			}
			if status["state"] != "active" {
				t.Errorf("state %v", status["state"])
			}
			unchanged(t, topo.Firewall, web, mail, backend)
			mustDo(t, topo.Firewall, 0, "verify", "--probe")
			if r := mustDo(t, topo.Firewall, 0, "revert"); r["changed"] != true || r["state"] != "absent" {
				t.Errorf("revert: %v", r)
			}
			sameDump(t, before, dump(t, topo.Firewall))
			if r := mustDo(t, topo.Firewall, 0, "revert"); r["changed"] != false {
				t.Errorf("second revert: %v", r)
			}
		})
	}
}

// unchanged applies the same again, which must change nothing and say so.
func unchanged(t *testing.T, fw *lab.Host, web, mail netip.AddrPort, backend string) {
	t.Helper()
	active := dump(t, fw)
	again := mustDo(t, fw, 0, "apply", web.String(), mail.String(), "--backend", backend)
	if again["changed"] != false || len(again["changes"].([]any)) != 0 {
		t.Errorf("the second apply changed something: %v", again)
	}
	sameDump(t, active, dump(t, fw))
}

func checkApplied(t *testing.T, done map[string]any, p place, backend string) {
	t.Helper()
	if done["changed"] != true || done["verified"] != true || done["backend"] != backend {
		t.Errorf("apply: %v", done)
	}
	first := map[float64]string{80: "client", 25: "server"}
	for _, each := range done["services"].([]any) {
		s := each.(map[string]any)
		if s["hook"] != string(p.hook) || s["family"] != string(p.family) || s["source"] != "probed" ||
			s["first"] != first[s["port"].(float64)] {
			t.Errorf("service: %v", s)
		}
	}
}

// number returns a number of a JSON object by the path of its keys.
func number(t testing.TB, object map[string]any, path ...string) float64 {
	t.Helper()
	var v any = object
	for _, key := range path {
		v = v.(map[string]any)[key]
	}
	n, ok := v.(float64)
	if !ok {
		t.Fatalf("%v is %v, no number", path, v)
	}
	return n
}

// foreignRules puts rules of somebody else into every table of all four programs, and some ipsets.
func foreignRules(t testing.TB, host *lab.Host) {
	t.Helper()
	run(t, host, "ipset", "create", "somebody", "hash:ip")
	for _, program := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		for table, chain := range map[string]string{
			"raw": "PREROUTING", "mangle": "FORWARD", "filter": "INPUT", "nat": "POSTROUTING", "security": "OUTPUT",
		} {
			run(t, host, program, "-t", table, "-N", "SOMEBODY")
			run(t, host, program, "-t", table, "-A", chain, "-p", "udp", "--dport", "9", "-m", "comment", "--comment", `it's "theirs"`, "-j", "SOMEBODY")
		}
		run(t, host, program, "-A", "OUTPUT", "-p", "udp", "--dport", "9", "-m", "limit", "--limit", "5/min", "-j", "LOG", "--log-prefix", "x y ")
	}
}

func sameDump(t testing.TB, before, after string) {
	t.Helper()
	if before != after {
		t.Errorf("not as it was:\n%s", firstDifference(before, after))
	}
}

// firstDifference shows where two texts part.
func firstDifference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			lo, hi := max(0, i-3), i+8
			return fmt.Sprintf("line %d\n--- before\n%s\n--- after\n%s", i+1,
				strings.Join(as[lo:min(hi, len(as))], "\n"), strings.Join(bs[lo:min(hi, len(bs))], "\n"))
		}
	}
	return fmt.Sprintf("one is longer: %d and %d lines\n%s", len(as), len(bs), strings.Join(append(as, bs...)[min(len(as), len(bs)):], "\n"))
}
