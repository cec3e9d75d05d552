package lab

import (
	"net/netip"
	"testing"
)

// TestLoadVisitsAllServices takes as many turns as there are services, and meets each of them once.
func TestLoadVisitsAllServices(t *testing.T) {
	for _, c := range []struct {
		first    string
		services int
		last     string
	}{
		{"10.80.0.0:80", 1, "10.80.0.0:80"},
		{"10.80.0.250:80", 1000, "10.80.4.225:80"},
		{"[fd77::ffff]:443", 10, "[fd77::1:8]:443"},
	} {
		first, last := netip.MustParseAddrPort(c.first), netip.MustParseAddrPort(c.last)
		cfg := LoadConfig{Services: c.services}
		if err := cfg.complete(); err != nil {
			t.Fatal(err)
		}
		seen := map[netip.AddrPort]bool{}
		for n := range c.services {
			at := cfg.turn(first, n)
			if at.Compare(first) < 0 || at.Compare(last) > 0 {
				t.Fatalf("%s, %d services: turn %d is for %s", c.first, c.services, n, at)
			}
			seen[at] = true
		}
		if len(seen) != c.services {
			t.Errorf("%s: %d of %d services were met", c.first, len(seen), c.services)
		}
	}
	if err := (&LoadConfig{Services: -1}).complete(); err == nil {
		t.Error("a negative number was accepted")
	}
}

func TestStormConfigBounds(t *testing.T) {
	good := StormConfig{Destination: netip.MustParseAddrPort("10.80.0.0:80")}
	if err := good.complete(); err != nil || good.Services != 1 || good.Sources != FloodV4 || good.Duration <= 0 {
		t.Errorf("defaults: %+v, %v", good, err)
	}
	for name, spoil := range map[string]func(*StormConfig){
		"no destination": func(c *StormConfig) { c.Destination = netip.AddrPort{} },
		"no port":        func(c *StormConfig) { c.Destination = netip.MustParseAddrPort("10.0.0.1:0") },
		"IPv6":           func(c *StormConfig) { c.Destination = netip.MustParseAddrPort("[fd77::1]:80") },
		"negative many":  func(c *StormConfig) { c.Services = -1 },
		"past the last":  func(c *StormConfig) { c.Destination, c.Services = netip.MustParseAddrPort("255.255.255.255:80"), 2 },
		"too many":       func(c *StormConfig) { c.Services = 1<<24 + 1 },
		"too long":       func(c *StormConfig) { c.Duration = MaxFloodDuration + 1 },
		"negative time":  func(c *StormConfig) { c.Duration = -1 },
		"other family":   func(c *StormConfig) { c.Sources = FloodV6 },
		"no such CPU":    func(c *StormConfig) { c.CPU = 1 << 20 },
		"negative CPU":   func(c *StormConfig) { c.CPU = -1 },
	} {
		cfg := good
		spoil(&cfg)
		if cfg.complete() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
