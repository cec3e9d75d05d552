package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

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
	for _, backend := range backends {
		for _, p := range places {
			t.Run(backend+"-"+p.String(), func(t *testing.T) {
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
				mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), "--backend", backend)
				for _, r := range prove(t, topo.Firewall, targets...) {
					checkProven(t, r)
				}
				mustDo(t, topo.Firewall, 0, "verify")
				unhook(t, topo.Firewall, p.program(backend), "raw", "PREROUTING")
				proveOne(t, topo.Firewall, targets[0], live.Failed, live.NotProxied)
				mustDo(t, topo.Firewall, 0, "apply", web.String(), mail.String(), "--backend", backend)
				unhook(t, topo.Firewall, p.program(backend), "filter", strings.ToUpper(string(p.hook)))
				// The SYN is not tracked and goes to the server; what answers it is not the proxy.
				proveOne(t, topo.Firewall, targets[1], live.Failed, live.NotProxied)
			})
		}
	}
}

// proveGood wants one service to be proven.
func proveGood(t testing.TB, host *lab.Host, target live.Target) live.Result {
	t.Helper()
	r := prove(t, host, target)[0]
	checkProven(t, r)
	return r
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

// TestLiveForged lets the client's own SYN to the proxy, and those of the forged sources past it: the connection is
// good, and the proof must be denied all the same.
func TestLiveForged(t *testing.T) {
	for _, p := range []place{{rules.Forward, rules.IPv4}, {rules.Input, rules.IPv4}} {
		t.Run(p.String(), func(t *testing.T) {
			topo := newTopology(t)
			fw := topo.Firewall
			host, _ := p.host(topo)
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			target := p.target(web, rules.FirstClient)
			mustDo(t, fw, 0, "apply", web.String(), "--first", "client", "--backend", rules.NFT)
			const forged = "12&0x3F=2:61" // the last bits of the source; the client's are 1

			run(t, fw, "iptables-nft", "-t", "raw", "-I", "PREROUTING", "-i", "synproxyctl+", "-m", "u32", "--u32", forged, "-j", "ACCEPT")
			r := proveOne(t, fw, target, live.Failed, live.ForgedReached)
			if path := r.Paths[0]; path.Entries != 64 || path.Answered != 0 || (path.HalfOpen == 64) != (p.hook == rules.Input) {
				t.Errorf("%+v", path)
			}
			run(t, host, "iptables-nft", "-t", "mangle", "-A", "INPUT", "-m", "u32", "--u32", forged, "-j", "DROP")
			wantEntries := 64
			if p.hook == rules.Input {
				wantEntries = 0 // what is dropped here is never confirmed
			}
			verdict, code := live.Failed, live.ForgedEntry
			if p.hook == rules.Input {
				verdict, code = live.Unproven, live.ForgedUnanswered
			}
			if r := proveOne(t, fw, target, verdict, code); r.Paths[0].Entries != wantEntries {
				t.Errorf("%+v", r.Paths)
			}
			run(t, fw, "iptables-nft", "-t", "raw", "-D", "PREROUTING", "1")
			run(t, host, "iptables-nft", "-t", "mangle", "-D", "INPUT", "1")
			run(t, fw, "iptables-nft", "-t", "raw", "-I", "PREROUTING", "-i", "synproxyctl+", "-m", "u32", "--u32", "12&0x3F=2:20", "-j", "DROP")
			if r := proveOne(t, fw, target, live.Unproven, live.ForgedUnanswered); r.Paths[0].Answered < 1 || r.Paths[0].Answered > 50 {
				t.Errorf("%+v", r.Paths)
			}
		})
	}
}

// TestLiveWithoutRights says what the process lacks.
func TestLiveWithoutRights(t *testing.T) {
	topo := newTopology(t)
	for capability, name := range map[int]string{unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW"} {
		err := topo.Firewall.Do(func() error { // on a thread that nobody uses afterwards
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			data[capability/32].Effective &^= 1 << (capability % 32)
			if err := unix.Capset(&header, &data[0]); err != nil {
				return err
			}
			results, err := live.Prove(t.Context(), []live.Target{on4.target(netip.AddrPortFrom(lab.ServerV4, 80), rules.FirstClient)})
			if len(results) != 1 || results[0].Verdict != live.Unproven || results[0].Code != live.NotPossible || !strings.HasSuffix(results[0].Message, name) {
				t.Errorf("without %s: %+v", name, results)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestLiveHostSettings proves with what new interfaces of the host get, and says so where that is too little.
func TestLiveHostSettings(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	var targets []live.Target
	var addresses []string
	for _, p := range places {
		web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
		targets, addresses = append(targets, p.target(web, rules.FirstClient)), append(addresses, web.String())
	}
	mustDo(t, fw, 0, append([]string{"apply", "--first", "client"}, addresses...)...)
	// Strict filtering does no harm where nothing is redirected: the client is behind the veth.
	tune(t, fw, "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1", "net.ipv6.conf.default.disable_ipv6=1")
	for i, r := range prove(t, fw, targets...) {
		if places[i].family == rules.IPv4 {
			checkProven(t, r)
		} else if r.Verdict != live.Unproven || r.Code != live.NotPossible || !strings.Contains(r.Message, "disable_ipv6") {
			t.Errorf("%+v", r)
		}
	}
	tune(t, fw, "net.ipv6.conf.default.disable_ipv6=0")
	run(t, fw, "ip", "route", "add", "blackhole", "192.0.2.0/24")
	run(t, fw, "ip", "-6", "route", "add", "unreachable", "fc00::/7")
	for _, r := range prove(t, fw, targets...) {
		checkProven(t, r)
	}
	for _, used := range []string{"192.0.2.0/25", "192.0.2.128/25", "198.51.100.0/24", "203.0.113.0/24"} {
		run(t, fw, "ip", "route", "add", used, "via", lab.ClientV4.String())
	}
	proveOne(t, fw, targets[0], live.Unproven, live.NotPossible)
}

// TestLiveTogether proves at the same time what several processes would.
func TestLiveTogether(t *testing.T) {
	topo := newTopology(t)
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	mustDo(t, topo.Firewall, 0, "apply", web.String(), "--first", "client")
	before := network(t, topo.Firewall)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			err := topo.Firewall.Do(func() error {
				results, err := live.Prove(t.Context(), []live.Target{on4.target(web, rules.FirstClient)})
				for _, r := range results {
					checkProven(t, r)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(before, network(t, topo.Firewall)); diff != "" {
		t.Errorf("the proofs left:\n%s", diff)
	}
}

// TestLiveLeftOver removes what a process that is gone has left, and nothing that another has.
func TestLiveLeftOver(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	for name, alias := range map[string]string{
		"synproxyctl0": "synproxyctl verify --live, process 1 of tick 1",
		"synproxyctl1": "synproxyctl verify --live, process 2000000000 of tick 5",
		"synproxyctl2": "somebody's",
		"synproxyctl3": "",
	} {
		run(t, fw, "ip", "link", "add", name, "type", "veth", "peer", "name", "peer-"+name[len(name)-1:])
		if alias != "" {
			run(t, fw, "ip", "link", "set", name, "alias", alias)
		}
	}
	err := fw.Do(func() error {
		_, err := live.Prove(t.Context(), nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	links := run(t, fw, "ip", "link")
	for name, kept := range map[string]bool{"synproxyctl0": false, "synproxyctl1": false, "synproxyctl2": true, "synproxyctl3": true} {
		if strings.Contains(links, name) != kept {
			t.Errorf("%s is kept: %v, want %v", name, !kept, kept)
		}
	}
}

// TestLiveBadTargets proves nothing of what no client can reach.
func TestLiveBadTargets(t *testing.T) {
	host := newHost(t)
	for _, to := range []string{"127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "224.0.0.1:80", "[fe80::1]:80", "[fe80::1%lo]:80", "192.0.2.1:0", "[::ffff:192.0.2.1]:80"} {
		proveOne(t, host, live.Target{Destination: netip.MustParseAddrPort(to), Hook: rules.Input}, live.Unproven, live.BadTarget)
	}
	proveOne(t, host, live.Target{}, live.Unproven, live.BadTarget)
	proveOne(t, host, live.Target{Destination: netip.MustParseAddrPort("192.0.2.1:80")}, live.Unproven, live.BadTarget)
	if results := prove(t, host); len(results) != 0 {
		t.Errorf("%+v", results)
	}
}

// TestLivePolicyRouting sends the answers of the service elsewhere.
func TestLivePolicyRouting(t *testing.T) {
	p := on4
	topo := newTopology(t)
	web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	mustDo(t, topo.Firewall, 0, "apply", web.String(), "--first", "client")
	run(t, topo.Firewall, "ip", "rule", "add", "from", web.Addr().String(), "lookup", "100")
	run(t, topo.Firewall, "ip", "route", "add", "default", "via", lab.ClientV4.String(), "table", "100")
	proveOne(t, topo.Firewall, p.target(web, rules.FirstClient), live.Unproven, live.Routing)
}

// liveHole is a target that never answers, so that a proof takes its time.
var liveHole = netip.MustParseAddrPort("10.77.1.200:80")

// liveChild is a process that proves something until it is ended.
func liveChild() int {
	fmt.Fprintln(os.Stdout, "ready")
	results, err := live.Prove(context.Background(), []live.Target{{Destination: liveHole, Hook: rules.Forward, Interfaces: []string{"eth1"}}})
	fmt.Fprintln(os.Stderr, results, err)
	return 0
}

// TestLiveKilled kills the process in the middle of a proof: the namespace goes, and the veth and all with it.
func TestLiveKilled(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	run(t, fw, "nft", "add table ip t; add chain ip t c { type filter hook forward priority 0; }; add rule ip t c ct state new drop")
	if err := fw.AddNeighbour("eth0", liveHole.Addr(), []byte{2, 0, 0, 0, 0, 9}); err != nil {
		t.Fatal(err)
	}
	before := network(t, fw)
	cmd, stderr := startChild(t, fw, "live", nil)
	await(t, "a veth", func() bool {
		return strings.Contains(run(t, fw, "tc", "filter", "show", "dev", "synproxyctl0", "ingress"), "mirred")
	})
	time.Sleep(100 * time.Millisecond) // the connection is on its way
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("it had ended: %s", stderr)
	}
	await(t, "no veth", func() bool { return !strings.Contains(run(t, fw, "ip", "link"), "synproxyctl") })
	if diff := cmp.Diff(before, network(t, fw)); diff != "" {
		t.Errorf("the killed proof left:\n%s", diff)
	}
}

// await waits until something is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestLiveCancelled ends a proof by its context.
func TestLiveCancelled(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	run(t, fw, "nft", "add table ip t; add chain ip t c { type filter hook forward priority 0; }; add rule ip t c ct state new drop")
	if err := fw.AddNeighbour("eth0", liveHole.Addr(), []byte{2, 0, 0, 0, 0, 9}); err != nil {
		t.Fatal(err)
	}
	before := network(t, fw)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := fw.Do(func() error {
		results, err := live.Prove(ctx, []live.Target{{Destination: liveHole, Hook: rules.Forward}})
		if len(results) != 1 || results[0].Verdict != live.Unproven || results[0].Code == "" {
			t.Errorf("%+v", results)
		}
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if diff := cmp.Diff(before, network(t, fw)); diff != "" {
		t.Errorf("the proof left:\n%s", diff)
	}
}
