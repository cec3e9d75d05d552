package lab

import (
	"net/netip"
	"testing"
	"time"
)

func TestSYNsAreValidAndRandom(t *testing.T) {
	for _, c := range []struct{ destination, sources string }{
		{"10.77.2.2:80", "198.18.0.0/15"},
		{"10.77.2.2:80", "0.0.0.0/0"},
		{"10.77.2.2:80", "10.9.8.7/32"},
		{"[fd77:2::2]:80", "fd77:f::/32"},
		{"[fd77:2::2]:80", "::/0"},
		{"[fd77:2::2]:80", "fd77:f::1:0:0:0/80"},
	} {
		prefix := netip.MustParsePrefix(c.sources)
		cfg := FloodConfig{Destination: netip.MustParseAddrPort(c.destination), Sources: prefix}
		s, err := newSYNs(cfg, peer{mac: nobodyMAC, far: nobodyMAC})
		if err != nil {
			t.Fatal(err)
		}
		sources, seqs := map[netip.Addr]bool{}, map[uint32]bool{}
		const n = 1000
		for i := range n {
			f := s.frames[i%batchSize]
			s.randomise(f)
			got, err := ParseSegment(f[etherHeader:])
			if err != nil {
				t.Fatal(err)
			}
			if got.BadChecksum || got.Destination != cfg.Destination || got.Flags != SYN || !prefix.Contains(got.Source.Addr()) || got.Source.Port() < 1024 {
				t.Fatalf("%s from %s: got %+v", c.destination, c.sources, got)
			}
			if prefix.Addr().Is4() && fold(sum16(f[etherHeader:etherHeader+ipv4Header])) != 0 {
				t.Fatalf("%s: wrong IPv4 header checksum", got.Source)
			}
			sources[got.Source.Addr()], seqs[got.Seq] = true, true
		}
		if len(seqs) < n-1 || !prefix.IsSingleIP() && len(sources) < n-20 {
			t.Errorf("%s: %d SYNs have %d sources and %d sequence numbers", c.sources, n, len(sources), len(seqs))
		}
	}
}

func TestSYNsAreSpread(t *testing.T) {
	for _, first := range []string{"10.77.2.250:80", "[fd77:2::fffe]:80"} {
		cfg := FloodConfig{Destination: netip.MustParseAddrPort(first), Services: 10, Packets: 1}
		if err := cfg.complete(); err != nil {
			t.Fatal(err)
		}
		s, err := newSYNs(cfg, peer{mac: nobodyMAC, far: nobodyMAC})
		if err != nil {
			t.Fatal(err)
		}
		times := map[netip.Addr]int{}
		for range 1000 {
			s.randomise(s.frames[0])
			got, err := ParseSegment(s.frames[0][etherHeader:])
			if err != nil || got.BadChecksum {
				t.Fatalf("got %+v, %v", got, err)
			}
			times[got.Destination.Addr()]++
		}
		at := cfg.Destination.Addr()
		for range cfg.Services {
			if n := times[at]; n < 50 || n > 200 {
				t.Errorf("%d of 1000 SYNs go to %s", n, at)
			}
			at = at.Next()
		}
		if len(times) != cfg.Services {
			t.Errorf("%d destinations", len(times))
		}
	}
}

func TestFloodConfigBounds(t *testing.T) {
	good := FloodConfig{Destination: netip.MustParseAddrPort("10.77.2.2:80"), Packets: 1}
	if err := good.complete(); err != nil || good.Duration != 30*time.Second || good.Sources != FloodV4 {
		t.Errorf("defaults: %+v, %v", good, err)
	}
	for name, spoil := range map[string]func(*FloodConfig){
		"no packets":       func(c *FloodConfig) { c.Packets = 0 },
		"negative":         func(c *FloodConfig) { c.Packets = -1 },
		"too many":         func(c *FloodConfig) { c.Packets = MaxFloodPackets + 1 },
		"too long":         func(c *FloodConfig) { c.Duration = MaxFloodDuration + 1 },
		"negative time":    func(c *FloodConfig) { c.Duration = -1 },
		"negative rate":    func(c *FloodConfig) { c.Rate = -1 },
		"too many threads": func(c *FloodConfig) { c.Threads = 65 },
		"negative many":    func(c *FloodConfig) { c.Services = -1 },
		"past the last":    func(c *FloodConfig) { c.Services = 1 << 32 },
		"no destination":   func(c *FloodConfig) { c.Destination = netip.AddrPort{} },
		"no port":          func(c *FloodConfig) { c.Destination = netip.MustParseAddrPort("10.0.0.1:0") },
		"other family":     func(c *FloodConfig) { c.Sources = FloodV6 },
		"broken prefix":    func(c *FloodConfig) { c.Sources = netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 99) },
	} {
		cfg := good
		spoil(&cfg)
		if cfg.complete() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFloodShares(t *testing.T) {
	cfg, sum := FloodConfig{Packets: 1001, Rate: 100, Threads: 3}, 0
	seeds := map[uint64]bool{}
	for i := range cfg.Threads {
		s := cfg.share(i)
		sum += s.Packets
		seeds[s.Seed] = true
		if s.Rate*3 != cfg.Rate || s.Packets < 333 || s.Packets > 334 {
			t.Errorf("thread %d: %+v", i, s)
		}
	}
	if sum != cfg.Packets || len(seeds) != 3 {
		t.Errorf("the threads send %d packets of %d, from %d seeds", sum, cfg.Packets, len(seeds))
	}
}
