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
			mustDo(t, fw, 0, "apply", web.String(), "--first", "client", "--backend", rules.NFT, "--mode", "tracked")
			const forged = "12&0x3F=2:61" // the last bits of the source; the client's are 1

			chain := strings.ToUpper(string(p.hook))
			run(t, fw, "iptables-nft", "-t", "security", "-I", chain, "-i", "synproxyctl+", "-m", "u32", "--u32", forged, "-j", "ACCEPT")
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
			run(t, fw, "iptables-nft", "-t", "security", "-D", chain, "1")
			run(t, host, "iptables-nft", "-t", "mangle", "-D", "INPUT", "-m", "u32", "--u32", forged, "-j", "DROP")
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
		out, _ := fw.Run(t.Context(), "tc", "filter", "show", "dev", "synproxyctl0", "ingress") // it may not be there yet
		return strings.Contains(string(out), "mirred")
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
