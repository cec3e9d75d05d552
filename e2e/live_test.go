package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/internal/live"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// prove runs the proof on a host, and checks that nothing is left of it.
func prove(t testing.TB, host *lab.Host, targets ...live.Target) []live.Result {
	t.Helper()
	before, entries := network(t, host), conntrackCount(t, host)
	start := time.Now()
	var results []live.Result
	err := host.Do(func() (err error) {
		results, err = live.Prove(t.Context(), targets)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		t.Logf("%s: %s %s %s; all in %v: %+v", r.Target.Destination, r.Verdict, r.Code, r.Message, time.Since(start), r.Paths)
	}
	if diff := cmp.Diff(before, network(t, host)); diff != "" {
		t.Errorf("the proof left:\n%s", diff)
	}
	if now := conntrackCount(t, host); now > entries {
		t.Errorf("conntrack has %d entries, %d before", now, entries)
	}
	return results
}

// network lists all that the proof could leave on a host.
func network(t testing.TB, host *lab.Host) string {
	t.Helper()
	var b strings.Builder
	for _, c := range []string{"-details link", "address", "-4 route show table all", "-6 route show table all", "rule", "-6 rule"} {
		fmt.Fprintf(&b, "== ip %s\n%s", c, run(t, host, "ip", strings.Fields(c)...))
	}
	b.WriteString(run(t, host, "tc", "qdisc"))
	b.WriteString(run(t, host, "ip", "neighbour", "show", "nud", "permanent"))
	text := strings.ReplaceAll(b.String(), "tentative ", "") // the lab's links were made a moment ago
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, " expires ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "") + sysctls(t, host)
}

// proveOne proves one service, and wants this to come of it.
func proveOne(t testing.TB, host *lab.Host, target live.Target, verdict live.Verdict, code live.Code) live.Result {
	t.Helper()
	r := prove(t, host, target)[0]
	if r.Verdict != verdict || r.Code != code || (r.Message == "") != (verdict == live.Proven) {
		t.Errorf("%s: %s %s %q, want %s %s", target.Destination, r.Verdict, r.Code, r.Message, verdict, code)
	}
	return r
}

func (p place) target(to netip.AddrPort, first rules.First, interfaces ...string) live.Target {
	return live.Target{Name: p.String(), Destination: to, Hook: p.hook, First: first, Interfaces: interfaces}
}

// TestLiveProof proves what is protected, for each place, backend and kind of server, and denies it when a part of
// the rules is gone.
func TestLiveProof(t *testing.T) {
	t.Parallel()
	for _, c := range stands() {
		backend, p := c.backend, c.place
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			topo := newTopology(t)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			mail := p.serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
			targets := []live.Target{p.target(web, rules.FirstClient), p.target(mail, rules.FirstServer), p.target(mail, rules.FirstUnknown)}
			for _, r := range prove(t, topo.Firewall, targets...) {
				if r.Verdict != live.Failed || r.Code != live.NotProxied {
					t.Errorf("before apply: %s %s %s", r.Verdict, r.Code, r.Message)
				}
			}
			mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), "--backend", backend, "--mode", "tracked")
			for _, r := range prove(t, topo.Firewall, targets...) {
				if backend == rules.NFTables && p.family == rules.IPv6 { // see TestIPv6Checksums
					if r.Verdict != live.Unproven || r.Code != live.ForgedUnanswered {
						t.Errorf("%s %s %s", r.Verdict, r.Code, r.Message)
					}
					continue
				}
				checkProven(t, r)
			}
			mustDo(t, topo.Firewall, 0, "verify")
			if backend == rules.NFTables {
				unprovenWithoutRules(t, topo.Firewall, p, targets, func() {
					mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), "--backend", backend, "--mode", "tracked")
				})
				return
			}
			chain := strings.ToUpper(string(p.hook))
			unhook(t, topo.Firewall, p.program(backend), "security", chain)
			proveOne(t, topo.Firewall, targets[0], live.Failed, live.NotProxied)
			mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), "--backend", backend, "--mode", "tracked")
			unhook(t, topo.Firewall, p.program(backend), "mangle", chain)
			// SYNs are answered, but nobody judges the cookies that come back.
			if r := prove(t, topo.Firewall, targets[1])[0]; r.Verdict == live.Proven {
				t.Errorf("proven without a rule for the ACK: %+v", r)
			}
		})
	}
}

// unprovenWithoutRules takes rules from our table of nft, which must not be proven then.
func unprovenWithoutRules(t *testing.T, fw *lab.Host, p place, targets []live.Target, apply func()) {
	t.Helper()
	table := map[rules.Family]string{rules.IPv4: "ip", rules.IPv6: "ip6"}[p.family] + " synproxyctl "
	hook := strings.ToUpper(string(p.hook))
	run(t, fw, "nft", "flush chain "+table+"SYNPROXYCTL_SECURITY_"+hook)
	proveOne(t, fw, targets[0], live.Failed, live.NotProxied)
	apply()
	run(t, fw, "nft", "flush chain "+table+"SYNPROXYCTL_MANGLE_"+hook)
	if r := prove(t, fw, targets[1])[0]; r.Verdict == live.Proven {
		t.Errorf("proven without a rule for the ACK: %+v", r)
	}
}

// proveGood wants one service to be proven.
func proveGood(t testing.TB, host *lab.Host, target live.Target) {
	t.Helper()
	checkProven(t, prove(t, host, target)[0])
}

func checkProven(t testing.TB, r live.Result) {
	t.Helper()
	if r.Verdict != live.Proven || len(r.Paths) != max(1, len(r.Target.Interfaces)) {
		t.Errorf("%s: %s %s %s", r.Target.Destination, r.Verdict, r.Code, r.Message)
	}
	for _, p := range r.Paths {
		if p.Connected <= 0 || p.Data <= 0 || p.Forged != 64 || p.Answered != 64 || p.Entries != 0 || p.HalfOpen != 0 || p.Counters.SYNReceived < 65 {
			t.Errorf("%s: proven by %+v", r.Target.Destination, p)
		}
	}
}

// unhook removes the jumps from a built-in chain to ours.
func unhook(t testing.TB, host *lab.Host, program, table, chain string) {
	t.Helper()
	removed := 0
	for line := range strings.Lines(run(t, host, program, "-t", table, "-S", chain)) {
		if words := strings.Fields(line); words[0] == "-A" && strings.Contains(line, "-j SYNPROXYCTL") {
			run(t, host, program, append([]string{"-t", table, "-D"}, words[1:]...)...)
			removed++
		}
	}
	if removed == 0 {
		t.Fatalf("%s has no jump to us in %s", table, chain)
	}
}

// TestLiveByInterface proves protection that is bound to interfaces, and says what stands in the way of a proof.
func TestLiveByInterface(t *testing.T) {
	t.Parallel()
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			topo := newTopology(t)
			fw := topo.Firewall
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			mustDo(t, fw, 0, "apply", web.String(), "--first", "client", "--interface", "eth0", "--interface", "eth2")
			both := p.target(web, rules.FirstClient, "eth0", "eth2")
			proveGood(t, fw, both)
			proveOne(t, fw, p.target(web, rules.FirstClient), live.Failed, live.NotProxied)
			proveOne(t, fw, p.target(web, rules.FirstClient, "eth1"), live.Failed, live.NotProxied)
			proveOne(t, fw, p.target(web, rules.FirstClient, "eth0", "none"), live.Unproven, live.NoInterface)
			run(t, fw, "ip", "link", "set", "eth2", "down")
			proveOne(t, fw, both, live.Unproven, live.NoInterface)
			run(t, fw, "ip", "link", "set", "eth2", "up")
			until(t, "eth2 works", func() bool {
				return strings.Contains(run(t, fw, "ip", "link", "show", "eth2"), "state UP") && strings.Contains(run(t, fw, "ip", "-6", "address", "show", "eth2", "-tentative"), "fe80::")
			})
			if p.family == rules.IPv4 {
				for _, at := range []string{"all", "eth0"} {
					tune(t, fw, "net.ipv4.conf."+at+".rp_filter=1")
					r := proveOne(t, fw, both, live.Unproven, live.ReversePath)
					if !strings.Contains(r.Message, "net.ipv4.conf."+at+".rp_filter=1") {
						t.Errorf("message %q", r.Message)
					}
					tune(t, fw, "net.ipv4.conf.eth0.rp_filter=2")
					proveGood(t, fw, p.target(web, rules.FirstClient, "eth0"))
					tune(t, fw, "net.ipv4.conf."+at+".rp_filter=0")
				}
			}
			proveGood(t, fw, both)
		})
	}
}

// TestLiveObstacles proves nothing where a proof cannot be had, or the service behind the proxy does not work.
func TestLiveObstacles(t *testing.T) {
	t.Parallel()
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			topo := newTopology(t)
			fw := topo.Firewall
			host, _ := p.host(topo)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			target := p.target(web, rules.FirstClient)
			mustDo(t, fw, 0, "apply", web.String(), "--first", "client")
			program := p.program(rules.NFT)

			t.Run("the host's filter denies", func(t *testing.T) {
				denied := "198.18.0.0/15,192.0.2.0/24,198.51.100.0/24,203.0.113.0/24"
				if p.family == rules.IPv6 {
					denied = "fd00::/8"
				}
				run(t, fw, program, "-t", "raw", "-I", "PREROUTING", "-s", denied, "-i", "synproxyctl+", "-j", "DROP")
				r := proveOne(t, fw, target, live.Unproven, live.NoAnswer)
				if !strings.Contains(r.Message, "filters") {
					t.Errorf("message %q", r.Message)
				}
				run(t, fw, program, "-t", "raw", "-D", "PREROUTING", "-i", "synproxyctl+", "-j", "DROP", "-s", denied)
			})
			t.Run("the host's filter rejects", func(t *testing.T) {
				// Before our jump, and before conntrack is asked.
				chain := strings.ToUpper(string(p.hook))
				run(t, fw, program, "-I", chain, "-i", "synproxyctl+", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
				proveOne(t, fw, target, live.Unproven, live.Refused)
				run(t, fw, program, "-D", chain, "-i", "synproxyctl+", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
			})
			t.Run("the service is silent", func(t *testing.T) {
				run(t, host, program, "-I", "INPUT", "-p", "tcp", "--dport", "80", "-i", map[rules.Hook]string{rules.Input: "lo", rules.Forward: "eth0"}[p.hook], "-j", "DROP")
				r := proveOne(t, fw, target, live.Failed, live.NoData)
				if !strings.Contains(r.Message, "has not answered the proxy's SYN") {
					t.Errorf("message %q", r.Message)
				}
				run(t, host, program, "-D", "INPUT", "1")
			})
			if p.hook == rules.Forward {
				t.Run("the way back leads elsewhere", func(t *testing.T) {
					run(t, host, "ip", ipVersion(p), "route", "replace", "default", "dev", "lo")
					proveOne(t, fw, target, live.Failed, live.NoData)
				})
				t.Run("no forwarding", func(t *testing.T) {
					key := map[rules.Family]string{rules.IPv4: "net.ipv4.conf.default.forwarding", rules.IPv6: "net.ipv6.conf.all.forwarding"}[p.family]
					tune(t, fw, key+"=0")
					proveOne(t, fw, target, live.Unproven, live.NotForwarding)
					tune(t, fw, key+"=1")
				})
			}
		})
	}
}

func ipVersion(p place) string {
	if p.family == rules.IPv6 {
		return "-6"
	}
	return "-4"
}

// TestLiveDown asks for a service that nothing listens at, behind a proxy that answers for it.
func TestLiveDown(t *testing.T) {
	t.Parallel()
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			topo := newTopology(t)
			_, addr := p.host(topo)
			web := netip.AddrPortFrom(addr, 80)
			mustDo(t, topo.Firewall, 0, "apply", web.String(), "--first", "client",
				"--mss", "1400", "--wscale", "7", "--sack-perm", "--timestamps")
			r := proveOne(t, topo.Firewall, p.target(web, rules.FirstClient), live.Failed, live.NoData)
			if !strings.Contains(r.Message, "refused") && !strings.Contains(r.Message, "reset") {
				t.Errorf("message %q", r.Message)
			}
			r = proveOne(t, topo.Firewall, p.target(netip.AddrPortFrom(addr, 81), rules.FirstClient), live.Unproven, live.Refused)
			if len(r.Paths) != 1 || r.Paths[0].Forged != 0 {
				t.Errorf("an unprotected port was flooded: %+v", r.Paths)
			}
		})
	}
}
