package e2e

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// TestStormIsTaken sends a storm at real services on many addresses and lets the kernel judge its frames: as many
// SYN+ACKs as SYNs, none for a checksum that is wrong.
func TestStormIsTaken(t *testing.T) {
	topo := newTopology(t)
	many := netip.MustParsePrefix("10.80.0.0/24")
	if err := topo.Firewall.TakeXDP("eth2"); err != nil {
		t.Fatal(err)
	}
	if err := topo.Firewall.AddLocal(many); err != nil {
		t.Fatal(err)
	}
	hole, err := topo.Firewall.Swallow("eth2", lab.FloodV4)
	skipWithoutBPF(t, err)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, topo.Firewall, lab.ServerConfig{Address: netip.MustParseAddrPort("0.0.0.0:80")})
	for _, d := range []time.Duration{50 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(d.String(), func(t *testing.T) {
			before := received(t, topo.Firewall, "eth2")
			answered, _, err := hole.Count()
			if err != nil {
				t.Fatal(err)
			}
			res, err := topo.Attacker.Storm(t.Context(), lab.StormConfig{
				Destination: netip.AddrPortFrom(many.Addr(), 80), Services: 256, Duration: d,
			})
			if err != nil {
				t.Fatal(err)
			}
			n := received(t, topo.Firewall, "eth2") - before
			synAcks, others, err := hole.Count()
			t.Logf("%d SYNs at %.0f/s, %d received, %d answers", res.Sent, res.Rate(), n, synAcks-answered)
			if err != nil || others != 0 {
				t.Errorf("%d answers that are no SYN+ACK, %v", others, err)
			}
			if n < uint64(res.Sent) || n > uint64(res.Sent)+50 {
				t.Errorf("received %d of %d", n, res.Sent)
			}
			if got := synAcks - answered; got < n*99/100 { // a SYN+ACK may be sent again
				t.Errorf("%d SYN+ACKs for %d SYNs", got, n)
			}
		})
	}
}

// TestSwallowsShareAnInterface puts two holes on one way out, and lets a third packet pass both.
func TestSwallowsShareAnInterface(t *testing.T) {
	topo := newTopology(t)
	holes := map[string]*lab.Swallow{}
	for _, prefix := range []string{"198.51.100.0/24", "203.0.113.0/24"} {
		to := netip.MustParsePrefix(prefix)
		hole, err := topo.Firewall.Swallow("eth2", to)
		skipWithoutBPF(t, err)
		if err := errors.Join(err, topo.Firewall.AddRoute(to, lab.AttackerV4)); err != nil {
			t.Fatal(err)
		}
		holes[prefix] = hole
	}
	capture, err := topo.Attacker.Capture("eth0", lab.TCPPort(80))
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"198.51.100.1", "203.0.113.1", "203.0.113.255", "10.77.3.2"} {
		flags := lab.SYN
		if to == "203.0.113.255" {
			flags |= lab.ACK
		}
		err := topo.Client.SendSegment("eth0", lab.Segment{
			Source: netip.AddrPortFrom(lab.ClientV4, 1024), Destination: netip.AddrPortFrom(netip.MustParseAddr(to), 80), Flags: flags,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string][2]uint64{"198.51.100.0/24": {0, 1}, "203.0.113.0/24": {1, 1}} {
		synAcks, others, err := holes[prefix].Count()
		if err != nil || synAcks != want[0] || others != want[1] {
			t.Errorf("%s: %d SYN+ACKs and %d others vanished, want %v; %v", prefix, synAcks, others, want, err)
		}
	}
	packets, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	packets = slices.DeleteFunc(packets, func(p lab.Packet) bool { return p.Outgoing })
	if len(packets) != 1 {
		t.Errorf("%d packets have passed, want 1: %v", len(packets), packets)
	}
}

// TestStormIsSpread looks at the frames themselves: every destination about as often, sources all over their prefix.
func TestStormIsSpread(t *testing.T) {
	topo := newTopology(t)
	if err := topo.Firewall.TakeXDP("eth2"); err != nil {
		t.Fatal(err)
	}
	capture, err := topo.Firewall.Capture("eth2", lab.TCPPort(443))
	if err != nil {
		t.Fatal(err)
	}
	first := netip.MustParseAddrPort("10.80.0.250:443")
	_, err = topo.Attacker.Storm(t.Context(), lab.StormConfig{Destination: first, Services: 10, Duration: 50 * time.Millisecond})
	skipWithoutBPF(t, err)
	if err != nil {
		t.Fatal(err)
	}
	destinations, sources, n := map[netip.AddrPort]int{}, map[netip.Addr]bool{}, 0
	packets, _ := capture.Stop() // it says that it has lost some: a storm is too fast for it
	for _, p := range packets {
		s := p.Segment
		if p.Outgoing {
			continue // its answer, a RST
		}
		n++
		destinations[s.Destination]++
		sources[s.Source.Addr()] = true
		if s.BadChecksum || s.Flags != lab.SYN || !lab.FloodV4.Contains(s.Source.Addr()) || s.Source.Port() < 1024 {
			t.Fatalf("got %+v", s)
		}
	}
	if n < 1000 || len(destinations) != 10 || len(sources) < n*9/10 {
		t.Errorf("%d SYNs have %d destinations and %d sources", n, len(destinations), len(sources))
	}
	base := binary.BigEndian.Uint32(first.Addr().AsSlice())
	for d, times := range destinations {
		if i := binary.BigEndian.Uint32(d.Addr().AsSlice()) - base; i > 9 || times < n/20 || times > n/5 {
			t.Errorf("%d of %d SYNs go to %s", times, n, d)
		}
	}
	if _, err := topo.Attacker.Storm(t.Context(), lab.StormConfig{Destination: netip.MustParseAddrPort("[fd77::1]:80")}); err == nil {
		t.Error("IPv6 accepted")
	}
}

// skipWithoutBPF skips a test that was refused because it runs in a user namespace, which has no right to load programs. In
// CI that is a failure.
func skipWithoutBPF(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, os.ErrPermission) && !mapped(t) && os.Getenv("CI") == "" {
		t.Skip("BPF programs need the rights of the machine's own root: ", err)
	}
}
