package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// ask probes targets from a host. The results come in the order of the targets.
func ask(t testing.TB, host *lab.Host, cfg probe.Config, addrs ...netip.AddrPort) []probe.Result {
	t.Helper()
	targets := make([]probe.Target, len(addrs))
	for i, addr := range addrs {
		targets[i] = probe.Target{Addr: addr}
	}
	var results []probe.Result
	err := host.Do(func() (err error) {
		results, err = probe.Probe(t.Context(), cfg, targets)
		return err
	})
	if err != nil {
		t.Fatalf("probe from %s: %v", host.Name(), err)
	}
	return results
}

// show is a result as the command prints it.
func show(r probe.Result) string {
	b, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// sniff copies what passes a host's eth0 until the test ends.
func sniff(t testing.TB, host *lab.Host, filters ...lab.Filter) *lab.Capture {
	t.Helper()
	c, err := host.Capture("eth0", filters...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// tune writes settings of the form key=value.
func tune(t testing.TB, host *lab.Host, settings ...string) {
	t.Helper()
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		if err := host.SetSysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
}

// onWire is what a capture shows of a SYN+ACK, read by the lab and not by the product.
type onWire struct {
	MSS, WScale      int // -1 if the option is missing
	SACK, Timestamps bool
	Window           uint16
	TTL              uint8
}

func readWire(s *lab.Segment) onWire {
	w := onWire{MSS: -1, WScale: -1, SACK: s.SACKPermitted(), Window: s.Window, TTL: s.TTL}
	if mss, ok := s.MSS(); ok {
		w.MSS = int(mss)
	}
	if shift, ok := s.WindowScale(); ok {
		w.WScale = int(shift)
	}
	_, _, w.Timestamps = s.Timestamps()
	return w
}

// told is the same as the probe tells it.
func told(r probe.Result) onWire {
	w := onWire{MSS: -1, WScale: -1, SACK: r.Options.SACKPerm, Timestamps: r.Options.Timestamps}
	if r.Options.MSS != nil {
		w.MSS = int(*r.Options.MSS)
	}
	if r.Options.WScale != nil {
		w.WScale = int(*r.Options.WScale)
	}
	if r.Window != nil && r.TTL != nil {
		w.Window, w.TTL = *r.Window, *r.TTL
	}
	return w
}

const synAck = lab.SYN | lab.ACK

// TestProbeAgainstTheWire holds what the probe says against a capture of the SYN+ACKs, for every combination of
// options, receive buffer and MTU, over both families.
func TestProbeAgainstTheWire(t *testing.T) {
	topo := newTopology(t)
	var addrs []netip.AddrPort
	for _, addr := range []netip.Addr{lab.ServerV4, lab.ServerV6} {
		for _, buffer := range []int{0, 2048, 65536, 262144, 4 << 20} {
			addrs = append(addrs, serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(addr, 0), ReceiveBuffer: buffer}).Address())
		}
	}
	const count = 2
	seen := map[string]int{}
	for _, mtu := range []int{1500, 1400, 1280} {
		if err := topo.Server.SetMTU("eth0", mtu); err != nil {
			t.Fatal(err)
		}
		for bits := range 8 {
			timestamps, sack, scaling := bits&1, bits>>1&1, bits>>2&1
			tune(t, topo.Server, fmt.Sprintf("net.ipv4.tcp_timestamps=%d", timestamps),
				fmt.Sprintf("net.ipv4.tcp_sack=%d", sack), fmt.Sprintf("net.ipv4.tcp_window_scaling=%d", scaling))
			name := fmt.Sprintf("mtu %d, timestamps %d, sack %d, scaling %d", mtu, timestamps, sack, scaling)
			wire := sniff(t, topo.Client)
			results := ask(t, topo.Client, probe.Config{Count: count, Rate: 10000}, addrs...)
			packets, err := wire.Stop()
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range results {
				if r.Verdict != probe.Direct || !r.Consistent || r.Samples != count || len(r.Notes) != 0 {
					t.Errorf("%s: %s", name, show(r))
				}
				compareWire(t, name, r, addrs[i], packets, count)
				seen[r.Family+" "+r.NFT]++
			}
		}
	}
	// The combinations are only worth something if the answers really differed.
	if len(seen) < 2*3*(4+4*3) {
		t.Errorf("only %d different answers: %v", len(seen), seen)
	}
}

// compareWire wants every SYN+ACK from remote to be what r says, and a RST after each, which frees the server's
// memory.
func compareWire(t *testing.T, name string, r probe.Result, remote netip.AddrPort, packets []lab.Packet, count int) {
	t.Helper()
	answers, resets := 0, 0
	for _, p := range packets {
		switch s := p.Segment; {
		case s == nil:
		case s.Source == remote && s.Flags&synAck == synAck:
			answers++
			if diff := cmp.Diff(readWire(s), told(r)); diff != "" {
				t.Errorf("%s, %s (-wire +probe):\n%s", name, remote, diff)
			}
		case s.Destination == remote && s.Flags&lab.RST != 0:
			resets++
		}
	}
	if want := count + 1; answers != want || resets != want { // and the one that looks for cookies
		t.Errorf("%s, %s: %d SYN+ACKs and %d RSTs on the wire, want %d of each", name, remote, answers, resets, want)
	}
}

// TestProbeManyTargets asks more targets than a socket filter can list.
func TestProbeManyTargets(t *testing.T) {
	topo := newTopology(t)
	run(t, topo.Server, "ip", "route", "add", "local", "10.88.0.0/22", "dev", "lo")
	if err := topo.Firewall.AddRoute(netip.MustParsePrefix("10.88.0.0/22"), lab.ServerV4); err != nil {
		t.Fatal(err)
	}
	port := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}).Address().Port()
	addrs := make([]netip.AddrPort, 1000)
	addr := netip.MustParseAddr("10.88.0.1")
	for i := range addrs {
		addrs[i], addr = netip.AddrPortFrom(addr, port), addr.Next()
	}
	dones := []int{}
	cfg := probe.Config{Count: 2, Rate: 5000, Timeout: 2 * time.Second, Progress: func(done, total int) {
		if dones = append(dones, done); total != len(addrs) {
			t.Errorf("progress of %d targets, want %d", total, len(addrs))
		}
	}}
	begin := time.Now()
	results := ask(t, topo.Client, cfg, addrs...)
	elapsed := time.Since(begin)
	for i, r := range results {
		if r.Target != addrs[i].String() || r.Verdict != probe.Direct || r.Samples != 2 {
			t.Errorf("result %d: %s", i, show(r))
		}
	}
	t.Logf("%d targets in %v", len(addrs), elapsed)
	// 2,000 segments at 5,000 a second take 0.4 seconds, and all are answered at once.
	if elapsed < 380*time.Millisecond || elapsed > 3*time.Second {
		t.Errorf("took %v", elapsed)
	}
	if len(dones) != len(addrs) || dones[0] != 1 || dones[len(dones)-1] != len(addrs) {
		t.Errorf("progress came %d times, want %d", len(dones), len(addrs))
	}
}
