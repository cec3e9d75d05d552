package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

var (
	soakKinds = []lab.SoakKind{lab.Chatty, lab.Idle, lab.Uploading, lab.Downloading}
	soakModes = []lab.Mode{lab.ClientFirst, lab.ServerFirst}
)

// soak opens long-lived connections, which the end of the test ends.
func soak(t testing.TB, client *lab.Host, server netip.AddrPort, cfg lab.SoakConfig) *lab.Soak {
	t.Helper()
	s, err := client.Soak(t.Context(), server, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSoakOfTheLab lets connections of each kind live a while, interrupts the link, and wants the interruption in every
// result but that of the idle ones, and nothing lost.
func TestSoakOfTheLab(t *testing.T) {
	const interruption = 700 * time.Millisecond
	wan := lab.RelayConfig{Delay: 10 * time.Millisecond}
	for _, addr := range []netip.Addr{lab.ServerV4, lab.ServerV6} {
		topo := newWAN(t, wan)
		var soaks []*lab.Soak
		for i, mode := range soakModes {
			srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(addr, uint16(80+i)), Mode: mode})
			for _, kind := range soakKinds {
				soaks = append(soaks, soak(t, topo.Client, srv.Address(), lab.SoakConfig{Mode: mode, Kind: kind, Connections: 3}))
			}
		}
		time.Sleep(500 * time.Millisecond)
		wait := func(wan lab.RelayConfig, d time.Duration) {
			if err := topo.Relay.Configure(wan); err != nil {
				t.Fatal(err)
			}
			time.Sleep(d)
		}
		wait(lab.RelayConfig{Loss: 1}, interruption)
		wait(wan, time.Second)
		for i, s := range soaks {
			kind, res := soakKinds[i%len(soakKinds)], s.Stop()
			t.Logf("%s, %s: %v", addr, kind, res)
			if again := s.Stop(); again.OK != res.OK || again.Max() != res.Max() {
				t.Errorf("the second time: %v", again)
			}
			least, most, bytes := interruption-150*time.Millisecond, 2*interruption+200*time.Millisecond, int64(0)
			switch kind {
			case lab.Idle:
				least, most = 20*time.Millisecond, 150*time.Millisecond
			case lab.Uploading, lab.Downloading:
				bytes = 3 * 5 * 256 << 10
			}
			if res.OK != 3 || res.Failed != 0 || res.Percentile(0) < least || res.Max() > most || res.Bytes < bytes {
				t.Errorf("%s, %s: %v, want gaps from %v to %v and at least %d bytes", addr, kind, res, least, most, bytes)
			}
		}
	}
}

// TestSoakTellsFailures breaks connections in the ways that a test of the product wants to tell apart.
func TestSoakTellsFailures(t *testing.T) {
	for want, disturb := range map[string]func(topo *lab.Topology, srv *lab.Server) error{
		"closed early": func(_ *lab.Topology, srv *lab.Server) error { return srv.Close() },
		"timeout": func(topo *lab.Topology, _ *lab.Server) error {
			return topo.Relay.Configure(lab.RelayConfig{Loss: 1})
		},
	} {
		topo := newWAN(t, lab.RelayConfig{Delay: time.Millisecond})
		srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 80), Mode: lab.ServerFirst})
		all := &lab.SoakResult{}
		var soaks []*lab.Soak
		for _, kind := range soakKinds {
			soaks = append(soaks, soak(t, topo.Client, srv.Address(), lab.SoakConfig{
				Mode: lab.ServerFirst, Kind: kind, Connections: 2, Timeout: 300 * time.Millisecond,
			}))
		}
		if err := disturb(topo, srv); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		for _, s := range soaks {
			all.Add(s.Stop())
		}
		t.Logf("%s: %v %q", want, all, all.Failures)
		// What a server that ended in mid-word leaves depends on who was speaking: the end, or a reset.
		if n := all.Errors[want] + all.Errors["reset"]; all.OK != 0 || all.Failed != 8 || n != 8 || len(all.Failures) != 8 || all.Errors[want] == 0 {
			t.Errorf("%s: %v", want, all)
		}
	}
	topo := newTopology(t)
	nobody := netip.AddrPortFrom(lab.ServerV4, 9)
	if s, err := topo.Client.Soak(t.Context(), nobody, lab.SoakConfig{Connections: 3}); err == nil {
		t.Errorf("a soak without a server: %v", s.Stop())
	}
	for _, bad := range []lab.SoakConfig{{Mode: lab.Bulk}, {Kind: 4}, {Connections: -1}} {
		if _, err := topo.Client.Soak(t.Context(), nobody, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
