package e2e

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// spare counts the tests that want more of Go's processors than the machine has.
var spare struct {
	sync.Mutex
	users, before int
}

// spareProcessors lets the kernel's scheduler choose among more threads until the test ends. It puts a relay's thread
// first, where Go's would let it wait until another goroutine has done its turn: tens of milliseconds.
func spareProcessors(t testing.TB) {
	spare.Lock()
	defer spare.Unlock()
	if spare.users++; spare.users == 1 {
		spare.before = runtime.GOMAXPROCS(max(8, runtime.GOMAXPROCS(0)))
	}
	t.Cleanup(func() {
		spare.Lock()
		defer spare.Unlock()
		if spare.users--; spare.users == 0 {
			runtime.GOMAXPROCS(spare.before)
		}
	})
}

// newWAN builds the standard topology with a relay before the client.
func newWAN(t testing.TB, cfg lab.RelayConfig) *lab.Topology {
	t.Helper()
	spareProcessors(t)
	topo, err := world.NewTopologyOver(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stats := topo.Relay.Stats()
		if err := topo.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
		if stats.Overflowed > 0 {
			t.Errorf("the relay lost packets that nobody wanted lost: %+v", stats)
		}
	})
	return topo
}

// TestRelayDelays measures round trips by a connection each: a SYN and its answer, a line and its echo.
func TestRelayDelays(t *testing.T) {
	for _, delay := range []time.Duration{0, 5 * time.Millisecond, 30 * time.Millisecond} {
		for _, addr := range []netip.Addr{lab.ServerV4, lab.ServerV6} {
			topo := newWAN(t, lab.RelayConfig{Delay: delay})
			srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(addr, 80)})
			res := load(t, topo.Client, srv.Address(), lab.LoadConfig{Connections: 20})
			t.Logf("%v one way, %s: %v; %+v", delay, addr, res, topo.Relay.Stats())
			if res.OK != 20 || res.Percentile(0) < 4*delay || res.Percentile(50) > 4*delay+6*time.Millisecond {
				t.Errorf("%v one way, %s: %v, want four times that and hardly more", delay, addr, res)
			}
		}
	}
}

// TestRelayReconfigured changes the delay while a connection lives, which nothing may overtake.
func TestRelayReconfigured(t *testing.T) {
	topo := newWAN(t, lab.RelayConfig{Delay: 50 * time.Millisecond})
	srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 80)})
	for _, delay := range []time.Duration{10 * time.Millisecond, 0, 20 * time.Millisecond} {
		if err := topo.Relay.Configure(lab.RelayConfig{Delay: delay}); err != nil {
			t.Fatal(err)
		}
		res := load(t, topo.Client, srv.Address(), lab.LoadConfig{Connections: 5})
		if res.OK != 5 || res.Percentile(0) < 4*delay || res.Percentile(50) > 4*delay+6*time.Millisecond {
			t.Errorf("%v one way: %v", delay, res)
		}
	}
	for _, bad := range []lab.RelayConfig{{Delay: -1}, {Loss: -0.1}, {Loss: 1.1}} {
		if topo.Relay.Configure(bad) == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// TestRelayLoses sends frames that no one answers and counts those that come.
func TestRelayLoses(t *testing.T) {
	const frames, loss = 5000, 0.1
	var lost [2]int64
	for i := range lost {
		topo := newWAN(t, lab.RelayConfig{Loss: loss, Seed: 7})
		before := received(t, topo.Firewall, "eth0")
		res, err := topo.Client.Flood(t.Context(), lab.FloodConfig{
			Destination: netip.AddrPortFrom(lab.FirewallV4, 81), Packets: frames, Rate: 50_000,
		})
		if err != nil || res.Sent != frames {
			t.Fatalf("sent %d, %v", res.Sent, err)
		}
		arrived := func() int64 { return int64(received(t, topo.Firewall, "eth0") - before) }
		for end := time.Now().Add(2 * time.Second); topo.Relay.Stats().Lost+arrived() < frames && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		stats := topo.Relay.Stats()
		t.Logf("%d arrived, %+v", arrived(), stats)
		// Six standard deviations to each side.
		if lost[i] = frames - arrived(); lost[i] < 370 || lost[i] > 630 || stats.Lost < lost[i] {
			t.Errorf("%d of %d frames lost, want about a tenth; %+v", lost[i], frames, stats)
		}
	}
	// A multicast report between the frames moves the losses by one.
	if d := lost[0] - lost[1]; d < -5 || d > 5 {
		t.Errorf("the same seed lost %d and then %d", lost[0], lost[1])
	}
}

// TestRelayDropsOne loses exactly the first SYN, which its sender repeats after a second.
func TestRelayDropsOne(t *testing.T) {
	for _, addr := range []netip.Addr{lab.ServerV4, lab.ServerV6} {
		var seen, fromServer atomic.Int64
		topo := newWAN(t, lab.RelayConfig{Drop: func(p lab.Packet) bool {
			if p.Segment == nil || p.Segment.Flags != lab.SYN {
				return false
			}
			if !p.Outgoing || p.Segment.Destination.Port() != 80 {
				fromServer.Add(1)
			}
			return seen.Add(1) == 1
		}})
		srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(addr, 80)})
		res := load(t, topo.Client, srv.Address(), lab.LoadConfig{Connections: 3})
		stats := topo.Relay.Stats()
		t.Logf("%v; %+v", res, stats)
		if res.OK != 3 || res.Max() < time.Second || res.Max() > 1500*time.Millisecond || res.Percentile(50) > slow {
			t.Errorf("%s: %v, want one connection a second late", addr, res)
		}
		if stats.Dropped != 1 || stats.Lost != 0 || seen.Load() != 4 || fromServer.Load() != 0 {
			t.Errorf("%s: %+v, %d SYNs seen, %d of them from the wrong side", addr, stats, seen.Load(), fromServer.Load())
		}
	}
}

// TestRelayCarriesBulk moves verified data both ways at the pace that a window allows at 60 ms, and wants segments to
// pass as they were handed over, with the checksum still to be made. The windows, of 8 MB, are smaller than what the
// relay can hold.
func TestRelayCarriesBulk(t *testing.T) {
	for _, addr := range []netip.Addr{lab.ServerV4, lab.ServerV6} {
		topo := newWAN(t, lab.RelayConfig{Delay: 30 * time.Millisecond})
		for _, host := range []*lab.Host{topo.Client, topo.Server} {
			tune(t, host, "net.ipv4.tcp_rmem=4096 131072 16777216", "net.ipv4.tcp_wmem=4096 65536 16777216")
		}
		srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(addr, 80), Mode: lab.Bulk})
		capture := sniff(t, topo.Firewall, func(p lab.Packet) bool { return p.Segment != nil && len(p.Segment.Payload) > 1460 })
		transfer(t, topo.Client, srv.Address(), lab.Upload, 4<<20)
		if large, _ := capture.Stop(); len(large) == 0 {
			t.Errorf("%s: the firewall got no offloaded segment", addr)
		}
		for _, d := range []lab.Direction{lab.Upload, lab.Download} {
			var best []float64
			for range 2 {
				best = append(best, transfer(t, topo.Client, srv.Address(), d, 100_000_000))
			}
			t.Logf("%s, %s: %.0f MB/s; %+v", addr, []string{"upload", "download"}[d], slices.Max(best)/1e6, topo.Relay.Stats())
			if slices.Max(best) < 50e6 {
				t.Errorf("%s: %.0f MB/s, want 50", addr, slices.Max(best)/1e6)
			}
		}
		for _, host := range []*lab.Host{topo.Client, topo.Server} {
			for _, counter := range []string{"TcpRetransSegs", "TcpInCsumErrors"} {
				if n := nstat(t, host, counter); n > 0 {
					t.Errorf("%s: %s of the %s is %d", addr, counter, host.Name(), n)
				}
			}
		}
	}
}

// TestRelayCloses cuts the link under a transfer.
func TestRelayCloses(t *testing.T) {
	topo := newWAN(t, lab.RelayConfig{Delay: time.Millisecond})
	srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 80), Mode: lab.Bulk})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	time.AfterFunc(100*time.Millisecond, func() { topo.Relay.Close() })
	if _, err := topo.Client.Transfer(ctx, srv.Address(), lab.Upload, 1<<40); err == nil {
		t.Error("a transfer came to its end over a link that was cut")
	}
	if err := topo.Relay.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
