package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// transfer moves bytes, which must arrive whole, and returns the rate in bytes per second.
func transfer(t testing.TB, client *lab.Host, server netip.AddrPort, d lab.Direction, bytes int64) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done, err := client.Transfer(ctx, server, d, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return done.Rate()
}

// TestFlood sends a million SYNs from random sources at a protected service while good clients connect. They must
// all be served, and conntrack must hold nothing but their connections.
func TestFlood(t *testing.T) {
	const syns = 1_000_000
	for _, p := range []place{{rules.Forward, rules.IPv4}, {rules.Input, rules.IPv6}} {
		for _, backend := range backends {
			if !*full && p == on4 == (backend == rules.NFT) && backend != rules.NFTables {
				continue // each variant of iptables has one of the places
			}
			if backend == rules.NFTables && p.family == rules.IPv6 {
				p.family = rules.IPv4 // see TestIPv6Checksums
			}
			t.Run(backend+"-"+p.String(), func(t *testing.T) {
				topo := newTopology(t)
				web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
				mustDo(t, topo.Firewall, 0, "apply", web.String(), "--backend", backend)
				before := conntrackCount(t, topo.Firewall)

				var wg sync.WaitGroup
				var flood lab.FloodResult
				var floodErr error
				begun := time.Now()
				wg.Go(func() {
					flood, floodErr = topo.Attacker.Flood(t.Context(), lab.FloodConfig{Destination: web, Packets: syns, Duration: time.Minute})
				})
				// As many good connections as fit into the flood, at a rate that people have.
				ctx, cancel := context.WithCancel(t.Context())
				var good *lab.LoadResult
				var wgGood sync.WaitGroup
				wgGood.Go(func() {
					good, _ = topo.Client.Load(ctx, web, lab.LoadConfig{Rate: 100, Concurrency: 4, Mode: lab.ClientFirst})
				})
				wg.Wait()
				cancel()
				wgGood.Wait()
				if floodErr != nil || flood.Sent != syns {
					t.Fatalf("flood: %d of %d sent, %v", flood.Sent, syns, floodErr)
				}
				held := conntrackCount(t, topo.Firewall) - before
				t.Logf("%d SYNs in %v (%.0f/s), good: %v, conntrack +%d", flood.Sent, time.Since(begun), flood.Rate(), good, held)
				if good.Failed != 0 || good.OK == 0 {
					t.Errorf("good connections: %v", good)
				}
				if held > good.OK {
					t.Errorf("conntrack holds %d entries more than before, for %d good connections", held, good.OK)
				}
				status := mustDo(t, topo.Firewall, 0, "status")
				if n := number(t, status, "counters", "syn_received"); n < syns {
					t.Errorf("the proxy answered %v SYNs of %d: did the flood reach it?", n, syns)
				}
			})
		}
	}
}

// kind is what a backend announces.
type kind struct{ wscale, mss int }

// TestBulk moves 100 MB each way to backends of every kind, in turns through a protected firewall and through one that
// nobody has touched, over links of 2 Gbit/s. Wrong options, of which any is enough for a stall or for a small window,
// show as a fraction of that. Without the limit the noise of two CPUs that copy memory at 1 to 5 GB/s would decide, and
// the kernel's own price for tracking and translating each packet, which no rule can change.
func TestBulk(t *testing.T) {
	kinds := []kind{{0, 1460}, {2, 1460}, {7, 1460}, {10, 1460}, {14, 1460}, {10, 536}, {7, 1200}}
	for _, p := range []place{{rules.Forward, rules.IPv4}, {rules.Input, rules.IPv6}} {
		t.Run(p.String(), func(t *testing.T) {
			direct, protected := newTopology(t), newTopology(t)
			limitLink(t, direct)
			limitLink(t, protected)
			there := bulkServers(t, direct, p, kinds)
			here := bulkServers(t, protected, p, kinds)
			backend := map[rules.Family]string{rules.IPv4: rules.NFTables, rules.IPv6: rules.NFT}[p.family]
			args := []string{"apply", "--backend", backend}
			for _, s := range here {
				args = append(args, s.String())
			}
			checkKinds(t, mustDo(t, protected.Firewall, 0, args...), p, kinds)
			for i, k := range kinds {
				for _, d := range []lab.Direction{lab.Upload, lab.Download} {
					name := fmt.Sprintf("wscale %d mss %d %s", k.wscale, k.mss, []string{"upload", "download"}[d])
					compareRates(t, name,
						func() float64 { return transfer(t, direct.Client, there[i], d, 100_000_000) },
						func() float64 { return transfer(t, protected.Client, here[i], d, 100_000_000) })
				}
			}
		})
	}
}

// limitLink gives the link between client and firewall a rate, each way.
func limitLink(t *testing.T, topo *lab.Topology) {
	t.Helper()
	for _, host := range []*lab.Host{topo.Client, topo.Firewall} {
		run(t, host, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "2gbit", "burst", "1mb", "latency", "50ms")
	}
}

// compareRates runs two ways in turns, and wants the second to reach 90 % of the first. The machine is noisy, a single
// run may be off by half, but noise only ever slows down: so the upper quartiles of equally many runs are compared, and
// more runs made while they do not settle it.
func compareRates(t *testing.T, name string, direct, protected func() float64) {
	t.Helper()
	const fewest, most = 2, 16
	var ds, ps []float64
	ratio := 0.0
	for len(ds) < fewest || ratio < 0.9 && len(ds) < most {
		ds, ps = append(ds, direct()), append(ps, protected())
		ratio = upperQuartile(ps) / upperQuartile(ds)
	}
	t.Logf("%-30s direct %4.0f MB/s, protected %4.0f MB/s: %3.0f %% (%d pairs)",
		name, upperQuartile(ds)/1e6, upperQuartile(ps)/1e6, 100*ratio, len(ds))
	if ratio < 0.9 {
		t.Errorf("%s: %.0f %% of the direct rate", name, 100*ratio)
	}
}

func upperQuartile(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)*3/4]
}

func bulkServers(t *testing.T, topo *lab.Topology, p place, kinds []kind) []netip.AddrPort {
	t.Helper()
	host, _ := p.host(topo)
	tune(t, host, "net.ipv4.tcp_rmem=4096 131072 1073725440")
	var servers []netip.AddrPort
	for i, k := range kinds {
		servers = append(servers, p.serve(t, topo, uint16(8000+i), lab.ServerConfig{
			Mode: lab.Bulk, WindowClamp: 65535 << k.wscale, MaxSegment: k.mss,
		}))
	}
	return servers
}

// checkKinds makes sure that the backends are what the test thinks, and that the rules announce it.
func checkKinds(t *testing.T, applied map[string]any, p place, kinds []kind) {
	t.Helper()
	for i, k := range kinds {
		service := applied["services"].([]any)[i].(map[string]any)
		if p.family == rules.IPv6 {
			k.mss = min(k.mss, 1440)
		}
		if number(t, service, "options", "wscale") != float64(k.wscale) || number(t, service, "options", "mss") != float64(k.mss) {
			t.Errorf("%v, want %+v", service, k)
		}
	}
}
