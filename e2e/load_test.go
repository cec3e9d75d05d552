package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// slow is the bar of the lab: no connection in it may take longer.
const slow = 50 * time.Millisecond

func TestLoad(t *testing.T) {
	topo := newTopology(t)
	for _, mode := range []lab.Mode{lab.ClientFirst, lab.ServerFirst} {
		for _, addr := range []netip.Addr{lab.ServerV4, lab.ServerV6, lab.InsideV4, lab.FirewallV6} {
			host := topo.Server
			if addr == lab.InsideV4 || addr == lab.FirewallV6 {
				host = topo.Firewall
			}
			srv := serve(t, host, lab.ServerConfig{Address: netip.AddrPortFrom(addr, 0), Mode: mode})
			res := load(t, topo.Client, srv.Address(), lab.LoadConfig{Connections: 100, Concurrency: 4, Mode: mode})
			t.Logf("%v in %v", res, res.Duration)
			if res.OK != 100 || res.Failed != 0 || len(res.Latencies) != 100 || res.Max() >= slow {
				t.Errorf("mode %d to %s: %s, want 100 ok, none slower than %v", mode, addr, res, slow)
			}
			if n := srv.Accepted(); n != 100 {
				t.Errorf("the server accepted %d connections, want 100", n)
			}
		}
	}
}

// TestLoadTellsFailures makes connections fail in every way that a test of the product wants to tell apart.
func TestLoadTellsFailures(t *testing.T) {
	topo := newTopology(t)
	good := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 0), Mode: lab.ServerFirst})
	run(t, topo.Firewall, "nft", `add table inet x
		add chain inet x f { type filter hook forward priority 0; }
		add rule inet x f tcp dport 7 drop
		add rule inet x f tcp dport 8 reject with icmpx host-unreachable
		add rule inet x f tcp dport `+strconv.Itoa(int(good.Address().Port()))+` tcp sport 4444 tcp flags psh reject with tcp reset`)
	for want, c := range map[string]struct {
		port uint16
		cfg  lab.LoadConfig
	}{
		"refused":      {9, lab.LoadConfig{}},
		"timeout":      {7, lab.LoadConfig{Timeout: 50 * time.Millisecond}},
		"unreachable":  {8, lab.LoadConfig{}},
		"reset":        {good.Address().Port(), lab.LoadConfig{LocalPort: 4444, Mode: lab.ServerFirst}},
		"wrong answer": {good.Address().Port(), lab.LoadConfig{Mode: lab.ClientFirst}}, // gets the banner for an echo
	} {
		c.cfg.Connections = 2
		res := load(t, topo.Client, netip.AddrPortFrom(lab.ServerV4, c.port), c.cfg)
		if res.OK != 0 || res.Failed != 2 || res.Errors[want] != 2 {
			t.Errorf("%s: got %s", want, res)
		}
	}
}

func TestLoadReusesPort(t *testing.T) {
	topo := newTopology(t)
	srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV6, 0)})
	for _, reset := range []bool{false, true} {
		capture, err := topo.Client.Capture("eth0", lab.TCPPort(4000))
		if err != nil {
			t.Fatal(err)
		}
		res := load(t, topo.Client, srv.Address(), lab.LoadConfig{Connections: 50, LocalPort: 4000, Reset: reset})
		packets, err := capture.Stop()
		if res.OK != 50 || res.Max() > slow || err != nil {
			t.Errorf("reset %t: %s, %v, want 50 ok", reset, res, err)
		}
		var syns, resets int
		for _, p := range packets {
			if p.Outgoing && p.Segment.Flags&lab.SYN != 0 {
				syns++
			}
			if p.Outgoing && p.Segment.Flags&lab.RST != 0 {
				resets++
			}
		}
		if wantResets := map[bool]int{true: 50}[reset]; syns != 50 || resets != wantResets {
			t.Errorf("reset %t: from the one port came %d SYNs and %d RSTs, want 50 and %d", reset, syns, resets, wantResets)
		}
	}
}

func TestLoadKeepsRateAndTime(t *testing.T) {
	topo := newTopology(t)
	srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 0)})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	res, err := topo.Client.Load(ctx, srv.Address(), lab.LoadConfig{Concurrency: 2, Rate: 100})
	if err != nil || res.Failed != 0 || res.OK < 10 || res.OK > 31 || res.Duration > time.Second {
		t.Errorf("got %s in %v, %v, want about 30 connections in 300ms", res, res.Duration, err)
	}
}

// TestServerOptions looks on the wire for what the options of a server promise.
func TestServerOptions(t *testing.T) {
	topo := newTopology(t)
	if err := topo.Server.SetSysctl("net.ipv4.tcp_rmem", "4096 131072 1073725440"); err != nil {
		t.Fatal(err)
	}
	configs := map[string]lab.ServerConfig{
		"mss 536":        {MaxSegment: 536},
		"reno":           {Congestion: "reno", Backlog: 1},
		"receive buffer": {ReceiveBuffer: 100_000},
	}
	wscale, mss := map[string]uint8{"mss 536": 15, "reno": 15, "receive buffer": 1}, map[string]uint16{"mss 536": 536}
	for n := range 15 {
		name := fmt.Sprintf("wscale %d", n)
		configs[name], wscale[name] = lab.ServerConfig{WindowClamp: 65535 << n}, uint8(n)
	}
	for name, cfg := range configs {
		cfg.Address = netip.AddrPortFrom(lab.ServerV4, 0)
		srv := serve(t, topo.Server, cfg)
		synack := answerOf(t, topo, srv.Address())
		gotMSS, _ := synack.MSS()
		gotScale, ok := synack.WindowScale()
		if want, set := mss[name]; set && gotMSS != want {
			t.Errorf("%s: the SYN+ACK announces mss %d", name, gotMSS)
		}
		if want := wscale[name]; !ok || want < 15 && gotScale != want {
			t.Errorf("%s: the SYN+ACK announces wscale %d, %t", name, gotScale, ok)
		}
	}
	_, err := topo.Server.Serve(t.Context(), lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 0), Congestion: "no such"})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unknown congestion control gives %v", err)
	}
}

// answerOf connects once and returns the SYN+ACK as the client got it.
func answerOf(t *testing.T, topo *lab.Topology, server netip.AddrPort) lab.Segment {
	t.Helper()
	capture, err := topo.Client.Capture("eth0", lab.TCPPort(server.Port()), func(p lab.Packet) bool {
		return p.Segment.Flags == lab.SYN|lab.ACK
	})
	if err != nil {
		t.Fatal(err)
	}
	res := load(t, topo.Client, server, lab.LoadConfig{Connections: 1})
	packets, err := capture.Stop()
	if err != nil || res.OK != 1 || len(packets) != 1 {
		t.Fatalf("%s: %s, %d SYN+ACKs, %v", server, res, len(packets), err)
	}
	return *packets[0].Segment
}

func TestTransfer(t *testing.T) {
	topo := newTopology(t)
	for _, addr := range []netip.Addr{lab.ServerV4, lab.ServerV6} {
		srv := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(addr, 0), Mode: lab.Bulk})
		for _, d := range []lab.Direction{lab.Upload, lab.Download} {
			for _, bytes := range []int64{0, 1, 20_000_001} {
				res, err := topo.Client.Transfer(t.Context(), srv.Address(), d, bytes)
				if err != nil || res.Bytes != bytes {
					t.Errorf("%s, direction %d, %d bytes: got %+v, %v", addr, d, bytes, res, err)
				}
				if bytes > 1 {
					t.Logf("%s, direction %d: %.0f MB/s", addr, d, res.Rate()/1e6)
				}
			}
		}
	}
}
