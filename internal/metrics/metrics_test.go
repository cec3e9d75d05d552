package metrics

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

func TestSnapshotTellsTheStatus(t *testing.T) {
	received, mss := uint64(12), uint16(1460)
	svc := protect.Service{Received: &received, Service: rules.Service{
		Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: 443, Options: rules.Options{MSS: &mss},
	}}
	s := Snapshot{
		Status:      &protect.Status{State: protect.Active, Services: protect.Services{svc}, Conntrack: protect.Conntrack{Count: 1, Max: 4}},
		Counters:    kernel.SynproxyStats{SYNReceived: 0x100000010},
		MaxServices: 1,
	}
	want := `
# HELP synproxyctl_conntrack_used_ratio Conntrack entries by their limit, 0 to 1; absent without a limit.
# TYPE synproxyctl_conntrack_used_ratio gauge
synproxyctl_conntrack_used_ratio 0.25
# HELP synproxyctl_service_syns_total SYNs that were sent to the service.
# TYPE synproxyctl_service_syns_total counter
synproxyctl_service_syns_total{service="192.0.2.1:443"} 12
# HELP synproxyctl_syns_answered_total SYNs that were answered with a cookie.
# TYPE synproxyctl_syns_answered_total counter
synproxyctl_syns_answered_total 4.294967312e+09
`
	if err := testutil.CollectAndCompare(s, strings.NewReader(want), "synproxyctl_conntrack_used_ratio", "synproxyctl_service_syns_total", "synproxyctl_syns_answered_total"); err != nil {
		t.Error(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	s.MaxServices = 0
	if n := testutil.CollectAndCount(s, "synproxyctl_service_syns_total", "synproxyctl_service_info"); n != 0 {
		t.Errorf("%d series of services above the limit", n)
	}
}
