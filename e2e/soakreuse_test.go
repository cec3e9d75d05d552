package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestPortsUsedAgainAfterWarmup installs the protection under clients that use each of their ports every few seconds. A
// connection that ends as conntrack is switched on leaves its last word there: an entry that has the server for its
// origin, is established and never saw a reply. The next connection from that port must not meet it.
func TestPortsUsedAgainAfterWarmup(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel() // most of the time goes by in the relay
			topo := newWAN(t, lab.RelayConfig{Delay: 5 * time.Millisecond})
			tune(t, topo.Client, "net.ipv4.ip_local_port_range=40000 40499")
			web := place{rules.Input, rules.IPv4}.serve(t, topo, 80, lab.ServerConfig{})
			done := make(chan *lab.LoadResult)
			go func() {
				res, _ := topo.Client.Load(t.Context(), web, lab.LoadConfig{Connections: 4000, Concurrency: 16, Timeout: 3 * time.Second})
				done <- res
			}()
			time.Sleep(time.Second)
			mustDo(t, topo.Firewall, 0, "apply", web.String(), "--backend", backend, "--warmup", "2s")
			res := <-done
			t.Logf("%v", res)
			if res.Failed > 0 {
				t.Errorf("%d connections failed\n%s\n%s", res.Failed, strings.Join(res.Failures, "\n"),
					run(t, topo.Firewall, "sh", "-c", "conntrack -L -p tcp | grep UNREPLIED || true"))
			}
		})
	}
}
