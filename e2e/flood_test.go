package e2e

import (
	"context"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// received returns how many packets an interface of a host has taken from its link.
func received(t *testing.T, host *lab.Host, iface string) uint64 {
	t.Helper()
	link, err := host.Netlink().LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Statistics.RxPackets
}

// TestFloodCounts floods a closed port of the firewall, which answers each SYN with a RST, and looks where
// everything went.
func TestFloodCounts(t *testing.T) {
	for _, c := range []struct {
		name        string
		destination netip.Addr
	}{{"ipv4", lab.FirewallV4}, {"ipv6", lab.FirewallV6}} {
		t.Run(c.name, func(t *testing.T) {
			topo := newTopology(t)
			client, server := received(t, topo.Client, "eth0"), received(t, topo.Server, "eth0")
			fw, attacker := received(t, topo.Firewall, "eth2"), received(t, topo.Attacker, "eth0")
			const packets = 100_000
			res, err := topo.Attacker.Flood(t.Context(), lab.FloodConfig{
				Destination: netip.AddrPortFrom(c.destination, 81), Packets: packets, Threads: 2,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d SYNs in %v: %.0f/s", res.Sent, res.Duration, res.Rate())
			if res.Sent != packets {
				t.Errorf("sent %d, want %d", res.Sent, packets)
			}
			if n := received(t, topo.Firewall, "eth2") - fw; n < packets || n > packets+50 {
				t.Errorf("the firewall received %d packets, want %d and hardly more", n, packets)
			}
			// Neighbour and multicast chatter apart, the answers go to the attacker, which keeps silent.
			if n := received(t, topo.Attacker, "eth0") - attacker; n < packets*9/10 || n > packets+50 {
				t.Errorf("the attacker received %d answers, want about %d", n, packets)
			}
			for name, n := range map[string]uint64{
				"client": received(t, topo.Client, "eth0") - client, "server": received(t, topo.Server, "eth0") - server,
			} {
				if n > 50 {
					t.Errorf("the %s received %d packets, want none of the flood", name, n)
				}
			}
		})
	}
}

// TestFloodIsTracked looks at a flood with other eyes: those of the firewall's connection tracking, which remembers
// every source that the server answers, and none twice.
func TestFloodIsTracked(t *testing.T) {
	topo := newTopology(t)
	run(t, topo.Firewall, "nft", "add table inet x; add chain inet x f { type filter hook forward priority 0; }; "+
		"add rule inet x f ct state new") // any such rule turns tracking on
	srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 0)})
	const packets = 2000
	res, err := topo.Attacker.Flood(t.Context(), lab.FloodConfig{Destination: srv.Address(), Packets: packets})
	if err != nil || res.Sent != packets {
		t.Fatalf("sent %d, %v", res.Sent, err)
	}
	if n := conntrackCount(t, topo.Firewall); n < packets-2 || n > packets+10 {
		t.Errorf("%d connections are tracked, want one for each of %d SYNs", n, packets)
	}
	if n := srv.Accepted(); n != 0 {
		t.Errorf("the server accepted %d connections from nobody", n)
	}
}

func TestFloodIsBounded(t *testing.T) {
	topo := newTopology(t)
	target := netip.AddrPortFrom(lab.FirewallV4, 81)
	t.Run("by its duration", func(t *testing.T) {
		res, err := topo.Attacker.Flood(t.Context(), lab.FloodConfig{
			Destination: target, Packets: lab.MaxFloodPackets, Duration: 100 * time.Millisecond,
		})
		if err != nil || res.Sent == 0 || res.Duration < 100*time.Millisecond || res.Duration > time.Second {
			t.Errorf("got %+v, %v", res, err)
		}
	})
	t.Run("by its rate", func(t *testing.T) {
		res, err := topo.Attacker.Flood(t.Context(), lab.FloodConfig{
			Destination: target, Packets: 2000, Rate: 10_000,
		})
		if err != nil || res.Sent != 2000 || res.Rate() < 1_000 || res.Rate() > 10_500 {
			t.Errorf("got %+v (%.0f/s), %v", res, res.Rate(), err)
		}
	})
	t.Run("by its context", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		res, err := topo.Attacker.Flood(ctx, lab.FloodConfig{Destination: target, Packets: lab.MaxFloodPackets, Rate: 1000})
		if err != nil || res.Sent == 0 || res.Duration > time.Second {
			t.Errorf("got %+v, %v", res, err)
		}
	})
}

// TestSegmentMeetsKernel lets real TCP judge what the lab writes and reads: a SYN made by hand, from an address
// that nobody has, gets the server's SYN+ACK.
func TestSegmentMeetsKernel(t *testing.T) {
	topo := newTopology(t)
	for _, c := range []struct {
		name, source string
		server       netip.Addr
		mss          uint16
	}{{"ipv4", "198.18.0.1:4000", lab.ServerV4, 1460}, {"ipv6", "[fd77:f::1]:4000", lab.ServerV6, 1440}} {
		t.Run(c.name, func(t *testing.T) {
			srv, err := topo.Server.Serve(t.Context(), lab.ServerConfig{Address: netip.AddrPortFrom(c.server, 0)})
			if err != nil {
				t.Fatal(err)
			}
			capture, err := topo.Attacker.Capture("eth0", lab.TCPPort(4000))
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			syn := lab.Segment{
				Source: netip.MustParseAddrPort(c.source), Destination: srv.Address(),
				Seq: 0xffffffff, Flags: lab.SYN, Window: 1000, Options: lab.SYNOptions(1000, 3, 4711),
			}
			if err := topo.Attacker.SendSegment("eth0", syn); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			answer, err := capture.Wait(ctx, func(p lab.Packet) bool { return !p.Outgoing })
			if err != nil {
				t.Fatal(err)
			}
			a := answer.Segment
			mss, _ := a.MSS()
			_, echo, _ := a.Timestamps()
			_, scaled := a.WindowScale()
			if a.Flags != lab.SYN|lab.ACK || a.Source != srv.Address() || a.Ack != 0 || mss != c.mss || echo != 4711 || !scaled || !a.SACKPermitted() {
				t.Errorf("got %+v", a)
			}
			if delay := answer.Time.Sub(begin); delay < 0 || delay > slow {
				t.Errorf("the answer's time is %v after the question", delay)
			}
			packets, err := capture.Stop()
			if err != nil || len(packets) < 2 || !packets[0].Outgoing || packets[0].Segment.Seq != syn.Seq {
				t.Errorf("captured %+v, %v, want the SYN and its answer", packets, err)
			}
		})
	}
}

// TestCaptureUnderFlood stops a capture while packets come faster than it can take them; it must end all the same.
func TestCaptureUnderFlood(t *testing.T) {
	topo := newTopology(t)
	ctx, cancel := context.WithCancel(t.Context())
	flooded := make(chan error, 1)
	go func() {
		_, err := topo.Attacker.Flood(ctx, lab.FloodConfig{
			Destination: netip.AddrPortFrom(lab.FirewallV4, 81), Packets: lab.MaxFloodPackets,
		})
		flooded <- err
	}()
	capture, err := topo.Firewall.Capture("eth2", func(lab.Packet) bool {
		begin := time.Now() // a slow reader
		for time.Since(begin) < 20*time.Microsecond {
			runtime.Gosched()
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	begin := time.Now()
	_, err = capture.Stop()
	t.Logf("stopped in %v: %v", time.Since(begin), err)
	if took := time.Since(begin); took > 10*time.Second { // the flood lasts 30
		t.Errorf("the capture took %v to stop", took)
	}
	cancel()
	if err := <-flooded; err != nil {
		t.Error(err)
	}
}
