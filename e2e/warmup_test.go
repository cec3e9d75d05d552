package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestApplyKeepsConnections applies on hosts that tracked no connections, while connections of each kind are open:
// those that talk and those that are silent, of the host itself and through it. Only silent ones through it are lost,
// and apply says before that it cannot know them.
func TestApplyKeepsConnections(t *testing.T) {
	for _, c := range stands() {
		backend, p := c.backend, c.place
		for _, before := range []string{"1", "0"} {
			if before == "0" && p.family == rules.IPv6 {
				continue // one setting serves both families
			}
			t.Run(c.String()+"-loose="+before, func(t *testing.T) {
				topo := newTopology(t)
				fw := topo.Firewall
				web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
				// Those who manage hosts by recipes have it off since boot.
				if err := fw.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", before); err != nil {
					t.Fatal(err)
				}
				settings := sysctls(t, fw)
				active, idle := dialTalker(t, "active", topo.Client, web), dialTalker(t, "idle", topo.Client, web)
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						select {
						case <-stop:
							return
						case <-time.After(50 * time.Millisecond):
							alive(t, active)
						}
					}
				}()
				dry := mustDo(t, fw, 0, "apply", web.String(), "--backend", backend, "--dry-run", "--warmup", "700ms")
				done := mustDo(t, fw, 0, "apply", web.String(), "--backend", backend, "--warmup", "700ms")
				for _, object := range []map[string]any{dry, done} {
					told := object["connections"].(map[string]any)
					if told["tracked"] != false || told["warmup_seconds"] != 0.7 {
						t.Errorf("connections: %v", told)
					}
					if want := map[rules.Hook]float64{rules.Input: 2, rules.Forward: 0}[p.hook]; told["local"] != want {
						t.Errorf("connections of this host: %v, want %v", told["local"], want)
					}
					if slices.Contains(codes(object), "connections-unknown") != (p.hook == rules.Forward) {
						t.Errorf("findings %v", codes(object))
					}
				}
				close(stop)
				<-stopped
				if err := idle.talk(); (err == nil) != (p.hook == rules.Input) {
					t.Errorf("the idle connection: %v", err)
				}
				allGood(t, topo.Client, web, lab.LoadConfig{Connections: 10, Mode: lab.ClientFirst})
				if n := cookies(t, fw); n != 10 {
					t.Errorf("%v of 10 connections passed the proxy", n)
				}
				alive(t, active)
				again := mustDo(t, fw, 0, "apply", web.String(), "--backend", backend, "--warmup", "20s")
				if told := again["connections"].(map[string]any); again["changed"] != false || told["tracked"] != true {
					t.Errorf("again: %v", again)
				}
				mustDo(t, fw, 0, "revert")
				alive(t, active)
				if now := sysctls(t, fw); now != settings {
					t.Errorf("settings are not as they were")
				}
			})
		}
	}
}

// TestApplyForgetsStaleHandshakes leaves entries of handshakes behind that began before the switch and cannot end. The
// client's next SYN, from the same port, must be answered.
func TestApplyForgetsStaleHandshakes(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	run(t, fw, "nft", `add table inet x; add chain inet x f { type filter hook forward priority 0; }; add rule inet x f ct state new`)
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	// The server does not see the first SYNs.
	run(t, topo.Server, "nft", `add table inet x; add chain inet x i { type filter hook input priority 0; }; add rule inet x i tcp dport 80 drop`)
	if res := load(t, topo.Client, web, lab.LoadConfig{Connections: 1, LocalPort: 4000, Timeout: 200 * time.Millisecond}); res.OK != 0 {
		t.Fatal(res)
	}
	if out := run(t, fw, "conntrack", "-L", "-p", "tcp", "--state", "SYN_SENT"); out == "" {
		t.Fatal("no entry in SYN_SENT")
	}
	run(t, topo.Server, "nft", "flush", "ruleset")
	start := time.Now()
	mustDo(t, fw, 0, append([]string{"apply", web.String()}, explicit...)...)
	if took := time.Since(start); took < 600*time.Millisecond {
		t.Errorf("handshakes under way had only %v", took)
	}
	if out := run(t, fw, "conntrack", "-L", "-p", "tcp", "--state", "SYN_SENT"); out != "" {
		t.Errorf("left:\n%s", out)
	}
	allGood(t, topo.Client, web, lab.LoadConfig{Connections: 1, LocalPort: 4000, Mode: lab.ClientFirst})
}

// TestApplyLeavesOtherFamily protects a service of one family on a host that tracks nothing: connections of the other
// family must not get entries that nobody would ever take away.
func TestApplyLeavesOtherFamily(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	web, other := on4.serve(t, topo, 80, lab.ServerConfig{}), places[1].serve(t, topo, 22, lab.ServerConfig{})
	ssh := dialTalker(t, "ssh", topo.Client, other)
	done := mustDo(t, fw, 0, "apply", web.String(), "--warmup", "100ms")
	if told := done["connections"].(map[string]any); told["local"] != 0.0 {
		t.Errorf("connections: %v", told)
	}
	if out := run(t, fw, "conntrack", "-L", "-f", "ipv6"); out != "" {
		t.Errorf("left:\n%s", out)
	}
	alive(t, ssh)
}
