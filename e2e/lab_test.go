package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// slow is the bar of the lab: no connection in it may take longer.
const slow = 50 * time.Millisecond

func TestLabConnects(t *testing.T) {
	begin := time.Now()
	topo := newTopology(t)
	t.Logf("built in %v", time.Since(begin))
	for _, mode := range []lab.Mode{lab.ClientFirst, lab.ServerFirst} {
		for _, addr := range []netip.Addr{lab.ServerV4, lab.ServerV6} {
			srv, err := topo.Server.Serve(t.Context(), lab.ServerConfig{Address: netip.AddrPortFrom(addr, 0), Mode: mode})
			if err != nil {
				t.Fatal(err)
			}
			res, err := topo.Client.Load(t.Context(), srv.Address(), lab.LoadConfig{Connections: 100, Concurrency: 4, Mode: mode})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(res, "in", res.Duration)
			if res.OK != 100 || res.Failed != 0 || res.Max() >= slow {
				t.Errorf("mode %d to %s: %s, want 100 ok, none slower than %v", mode, addr, res, slow)
			}
		}
	}
	begin = time.Now()
	topo.Close()
	t.Logf("closed in %v", time.Since(begin))
}
