package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// bulkNet is where a server has thousands of addresses.
var bulkNet = netip.MustParsePrefix("10.9.0.0/18")

// bulkTopology is the standard topology with a server that answers on all addresses of bulkNet, and on no other port than the one that is returned.
func bulkTopology(t testing.TB) (*lab.Topology, uint16) {
	t.Helper()
	topo := newTopology(t)
	run(t, topo.Server, "ip", "route", "add", "local", bulkNet.String(), "dev", "lo")
	if err := topo.Firewall.AddRoute(bulkNet, lab.ServerV4); err != nil {
		t.Fatal(err)
	}
	srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(netip.IPv4Unspecified(), 8000)})
	return topo, srv.Address().Port()
}

// bulkAddrs are the first n addresses of bulkNet with a port.
func bulkAddrs(n int, port uint16) []netip.AddrPort {
	addrs := make([]netip.AddrPort, n)
	addr := bulkNet.Addr().Next()
	for i := range addrs {
		addrs[i], addr = netip.AddrPortFrom(addr, port), addr.Next()
	}
	return addrs
}

// bulkProbed is what the command found in bulk, and what that took.
type bulkProbed struct {
	Results []probe.Result `json:"results"`
	elapsed time.Duration
	memory  int // the largest resident set, in bytes
}

// bulkProbe lets the command probe a list on its standard input. The words are run by a shell if there are any.
func bulkProbe(t testing.TB, host *lab.Host, addrs []netip.AddrPort, before string, args ...string) bulkProbed {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for _, addr := range addrs {
		fmt.Fprintln(&list, addr)
	}
	words := append([]string{"-c", before + ` exec "$0" "$@"`, path, "probe", "-", "--json"}, args...)
	cmd := host.Command(t.Context(), "sh", words...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(list.String()), &out, &errOut
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watched, ended := make(chan int), make(chan struct{})
	go func() { watched <- watchMemory(cmd.Process.Pid, ended) }()
	_ = cmd.Wait() // exits 3 if any target gives no usable answer
	close(ended)
	got := bulkProbed{elapsed: time.Since(begin), memory: <-watched}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || errOut.Len() > 0 {
		t.Fatalf("%v: %s\n%.200s", err, errOut.String(), out.String())
	}
	if len(got.Results) != len(addrs) {
		t.Fatalf("%d results for %d targets", len(got.Results), len(addrs))
	}
	for i, r := range got.Results {
		if r.Target != addrs[i].String() {
			t.Fatalf("result %d is of %s, want %s", i, r.Target, addrs[i])
		}
	}
	return got
}

// watchMemory returns the largest resident set of a process in bytes, as it was last seen. What the kernel tells of one that
// has ended (getrusage(2)) holds that of the process from which it was forked, too.
func watchMemory(pid int, ended <-chan struct{}) int {
	most := 0
	for {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if _, behind, found := strings.Cut(string(text), "VmHWM:"); found {
			var kilobytes int
			if _, err := fmt.Sscan(behind, &kilobytes); err == nil {
				most = max(most, kilobytes<<10)
			}
		}
		select {
		case <-ended:
			return most
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestBulkProbe asks 10,000 targets, as anyone would and as fast as it goes, with connection tracking on the asking host, too.
func TestBulkProbe(t *testing.T) {
	topo, port := bulkTopology(t)
	addrs := bulkAddrs(10_000, port)
	want := ask(t, topo.Client, probe.Config{}, addrs[0])[0]
	for _, tt := range []struct {
		name, rules  string
		args         string
		atLeast      time.Duration
		atMost       time.Duration
		count, times int
	}{
		{"by default", "", "", 2800 * time.Millisecond, 15 * time.Second, 3, 1},
		{"at a rate", "", "--rate 20000", 1900 * time.Millisecond, 15 * time.Second, 3, 1},
		{"as fast as it goes", "", "--rate 1000000", 0, 15 * time.Second, 3, 2},
		{"one sample each", "", "--rate 1000000 --count 1", 0, 15 * time.Second, 1, 2},
		{"with conntrack", "table inet tracked { chain out { type filter hook output priority 0; ct state invalid drop; }; }", "--rate 20000", 0, 20 * time.Second, 3, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.rules != "" {
				runInput(t, topo.Client, tt.rules, "nft", "-f", "-")
			}
			for range tt.times { // at once again, from other ports
				got := bulkProbe(t, topo.Client, addrs, "", line(tt.args)...)
				t.Logf("%v, %d MB", got.elapsed, got.memory>>20)
				samples := 0
				for i, r := range got.Results {
					if samples += r.Samples; r.Verdict != probe.Direct || r.Sent != tt.count || r.NFT != want.NFT || !r.Consistent {
						t.Fatalf("result %d: %s", i, show(r))
					}
				}
				if all := tt.count * len(addrs); samples < all*99/100 {
					t.Errorf("%d of %d samples were answered", samples, all)
				}
				if got.elapsed < tt.atLeast || got.elapsed > tt.atMost {
					t.Errorf("took %v, want %v to %v", got.elapsed, tt.atLeast, tt.atMost)
				}
				if limit := 40 << 20; !raceEnabled() && got.memory > limit {
					t.Errorf("took %d bytes of memory, want at most %d", got.memory, limit)
				}
			}
		})
	}
}

// TestBulkProbeMemory asks as many targets as a command line can have, of which one of ten answers and the others refuse.
func TestBulkProbeMemory(t *testing.T) {
	topo, port := bulkTopology(t)
	var addrs []netip.AddrPort
	for i := range uint16(10) {
		addrs = append(addrs, bulkAddrs(10_000, port+i)...)
	}
	got := bulkProbe(t, topo.Client, addrs, "", "--rate=1000000")
	t.Logf("%v, %d MB", got.elapsed, got.memory>>20)
	for i, r := range got.Results {
		want := probe.Refused
		if i < 10_000 {
			want = probe.Direct
		}
		if r.Verdict != want {
			t.Fatalf("result %d, want %s: %s", i, want, show(r))
		}
	}
	if limit := 150 << 20; !raceEnabled() && got.memory > limit {
		t.Errorf("took %d bytes of memory, want at most %d", got.memory, limit)
	}
}

// TestBulkProbeOfAllKinds mixes targets that answer, refuse, say nothing, cannot be reached, and are proxied, and names some twice.
func TestBulkProbeOfAllKinds(t *testing.T) {
	topo, port := bulkTopology(t)
	tune(t, topo.Server, "net.ipv4.icmp_ratemask=0") // it sends thousands of errors
	tune(t, topo.Firewall, "net.ipv4.icmp_ratemask=0")
	runInput(t, topo.Firewall, `table ip kinds {
		chain early { type filter hook prerouting priority raw; ip daddr 10.9.24.0/21 tcp flags syn notrack; }
		chain on { type filter hook forward priority 0;
			ip daddr 10.9.8.0/21 reject with tcp reset
			ip daddr 10.9.16.0/21 drop
			ip daddr 10.9.24.0/21 ct state invalid,untracked synproxy mss 1400 wscale 9 timestamp sack-perm
			ip daddr 10.9.32.0/21 reject with icmp type admin-prohibited
		}
	}`, "nft", "-f", "-")
	run(t, topo.Client, "ip", "route", "add", "prohibit", "10.9.40.0/21")
	type kind struct {
		verdict probe.Verdict
		reason  string
	}
	kinds := []kind{
		{probe.Direct, ""},
		{probe.Refused, ""},
		{probe.NoReply, ""},
		{probe.Proxied, ""},
		{probe.Unreachable, "admin-prohibited"},
		{probe.Unreachable, "local-prohibited"},
	}
	const each = 1000
	addrs := make([]netip.AddrPort, 0, each*len(kinds)+each)
	for i := range each {
		for k := range kinds {
			addr := netip.AddrFrom4([4]byte{10, 9, byte(8*k + i>>8), byte(i)})
			if i == 0 && k == 0 {
				addr = netip.MustParseAddr("10.9.7.255")
			}
			addrs = append(addrs, netip.AddrPortFrom(addr, port))
		}
	}
	addrs = append(addrs, addrs[:each]...)
	begin := time.Now()
	results := ask(t, topo.Client, probe.Config{Rate: 20_000}, addrs...)
	elapsed := time.Since(begin)
	wrong := 0
	for i, r := range results {
		want := kinds[i%len(kinds)]
		if i >= each*len(kinds) {
			want = kinds[(i-each*len(kinds))%len(kinds)]
		}
		if r.Target != addrs[i].String() || (kind{r.Verdict, r.Reason}) != want {
			if wrong++; wrong < 10 {
				t.Errorf("result %d, want %v: %s", i, want, show(r))
			}
		}
	}
	t.Logf("%d targets in %v, %d wrong", len(addrs), elapsed, wrong)
	if elapsed > 10*time.Second {
		t.Errorf("took %v", elapsed)
	}
}

// TestBulkProbeLosesNothing loses the first SYN of every connection, and then one packet of ten at random.
func TestBulkProbeLosesNothing(t *testing.T) {
	topo, port := bulkTopology(t)
	addrs := bulkAddrs(2000, port)
	for _, tt := range []struct {
		name, rules string
		answered    float64 // part of the samples
	}{
		{"the first SYNs", `table ip loss {
			set seen { type ipv4_addr . inet_service . inet_service; size 100000; flags dynamic; }
			chain on { type filter hook forward priority 0;
				tcp flags syn ip daddr . tcp sport . tcp dport @seen accept
				tcp flags syn / syn,ack add @seen { ip daddr . tcp sport . tcp dport } drop
			}
		}`, 0.97}, // none at all, if nothing were asked again; the kernel's own queues lose some, too, while others flood them
		{"some of everything", `table ip loss { chain on { type filter hook forward priority 0; numgen random mod 20 < 1 drop; }; }`, 0.97},
	} {
		runInput(t, topo.Firewall, tt.rules, "nft", "-f", "-")
		samples := 0
		for i, r := range ask(t, topo.Client, probe.Config{Rate: 20_000}, addrs...) {
			if samples += r.Samples; r.Verdict != probe.Direct || r.Sent != 3 {
				t.Errorf("%s, result %d: %s", tt.name, i, show(r))
			}
		}
		if want := tt.answered * 3 * float64(len(addrs)); float64(samples) < want {
			t.Errorf("%s: %d samples were answered, want %.0f", tt.name, samples, want)
		}
		run(t, topo.Firewall, "nft", "delete", "table", "ip", "loss")
	}
}

// TestBulkConnect listens to thousands of servers, all at once and with few descriptors.
func TestBulkConnect(t *testing.T) {
	silent, port := bulkTopology(t)
	for _, tt := range []struct {
		name, before string
		targets      int
		atMost       time.Duration
	}{
		{"at once", "", 3000, 15 * time.Second},
		{"with few descriptors", "ulimit -n 200;", 300, 15 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := bulkProbe(t, silent.Client, bulkAddrs(tt.targets, port), tt.before, "--connect", "--count=1", "--rate=20000")
			t.Logf("%v, %d MB", got.elapsed, got.memory>>20)
			for i, r := range got.Results {
				if speaks(r) != probe.Client || len(r.Notes) > 0 {
					t.Fatalf("result %d: %s", i, show(r))
				}
			}
			if got.elapsed > tt.atMost {
				t.Errorf("took %v, want at most %v", got.elapsed, tt.atMost)
			}
			if limit := 60 << 20; !raceEnabled() && got.memory > limit {
				t.Errorf("took %d bytes of memory, want at most %d", got.memory, limit)
			}
		})
	}
}

// TestBulkProgress wants the stages of a run with connections, in order.
func TestBulkProgress(t *testing.T) {
	topo, port := bulkTopology(t)
	var stages []string
	last := 0
	cfg := probe.Config{Rate: 5000, Connect: true, BannerWait: 10 * time.Millisecond, Stage: func(what string, done, total int) {
		if !slices.Contains(stages, what) {
			stages, last = append(stages, what), 0
		}
		if done < last || total != 500 {
			t.Errorf("%s: %d of %d after %d", what, done, total, last)
		}
		last = done
	}}
	ask(t, topo.Client, cfg, bulkAddrs(500, port)...)
	if !slices.Equal(stages, []string{"probing", "connecting"}) || last != 500 {
		t.Errorf("stages %q, %d done at last", stages, last)
	}
}
