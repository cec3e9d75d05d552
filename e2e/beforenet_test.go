package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// TestBeforeTheNetwork applies from what was answered before, as at boot: no interface is up, no address is there, no
// route tells who is local, and an interface that the file names is still to come. What is there then protects.
func TestBeforeTheNetwork(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	s := newStage(t, topo.Firewall)
	web := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 80), Mode: lab.ClientFirst}).Address()
	own := serve(t, topo.Firewall, lab.ServerConfig{Address: netip.AddrPortFrom(lab.FirewallV4, 25), Mode: lab.ServerFirst}).Address()
	file := s.writeConfig("config.yaml", "version: 1", "services:",
		"  - {name: web, targets: '"+web.String()+"'}",
		"  - {name: mail, targets: '"+own.String()+"', interfaces: [eth0]}")
	before := s.good("apply", "-c", file)
	s.good("revert", "--now")

	const down = "for i in eth0 eth1 eth2; do ip link set $i down; ip addr flush dev $i; done; ip link set lo down; ip link set eth0 name late0"
	run(t, topo.Firewall, "sh", "-ec", down)
	boot := s.good("apply", "-c", file, "--max-age", bootAge)
	for i, each := range boot["services"].([]any) {
		was, is := before["services"].([]any)[i].(map[string]any), each.(map[string]any)
		if is["source"] != "cached" || fmt.Sprint(was["hook"], was["mode"], was["options"], was["first"]) != fmt.Sprint(is["hook"], is["mode"], is["options"], is["first"]) {
			t.Errorf("with the network %v, before it %v", was, is)
		}
	}
	if seconds := boot["connections"].(map[string]any)["warmup_seconds"]; seconds != 0.0 {
		t.Errorf("the boot waits %v s for connections that cannot be", seconds)
	}
	if text := fmt.Sprint(boot["findings"]); !strings.Contains(text, "interface-missing") || !strings.Contains(text, "eth0") {
		t.Errorf("it does not tell that eth0 is missing: %s", text)
	}
	if again := s.good("apply", "-c", file, "--cached"); again["changed"] != false {
		t.Errorf("again: %v", again["changes"])
	}
	s.exits(2, "apply", "-c", file) // who asks the servers needs the network

	const up = `ip link set late0 name eth0; ip link set lo up; for i in eth0 eth1 eth2; do ip link set $i up; done
ip addr add 10.77.1.1/24 dev eth0; ip addr add 10.77.2.1/24 dev eth1; ip addr add 10.77.3.1/24 dev eth2`
	run(t, topo.Firewall, "sh", "-ec", up)
	for at, mode := range map[netip.AddrPort]lab.Mode{web: lab.ClientFirst, own: lab.ServerFirst} {
		allGood(t, topo.Client, at, lab.LoadConfig{Connections: 5, Mode: mode})
	}
	if status := s.good("status"); status["state"] != "active" || fmt.Sprint(status["counters"].(map[string]any)["cookie_valid"]) != "10" {
		t.Errorf("after the network has come: %v", status)
	}
	if ok := s.good("verify"); ok["ok"] != true {
		t.Errorf("verify: %v", ok)
	}
}
