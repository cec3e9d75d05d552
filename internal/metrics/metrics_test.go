package metrics

import (
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// full has something to tell for every metric.
func full() Snapshot {
	received, mss, wscale := uint64(12), uint16(1460), uint8(0)
	at := time.Unix(1700000000, 0)
	svc := protect.Service{Received: &received, Source: protect.Probed, Service: rules.Service{
		Name: "we\xffb", Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: 443, Hook: rules.Forward,
		Options: rules.Options{MSS: &mss, WScale: &wscale, SACKPerm: true},
	}}
	return Snapshot{
		Version: "1", At: at, Took: time.Second, MaxServices: 1, Counters: kernel.SynproxyStats{SYNReceived: 0x100000010, CookieValid: 3},
		Status: &protect.Status{
			State: protect.Active, Backend: rules.NFT, Services: protect.Services{svc},
			Sysctls:   []protect.Setting{{Key: "net.netfilter.nf_conntrack_tcp_loose", OK: true}},
			Conntrack: protect.Conntrack{Count: 1, Max: 4}, Findings: []protect.Finding{{Severity: protect.Warn, Code: "hook"}, {Severity: protect.Warn, Code: "hook"}},
			Pending: &protect.Pending{Deadline: at}, Watch: &protect.Watching{LastRound: at},
			LastVerify: &protect.LastVerify{
				Time: at, Findings: protect.Graded{Bad: 2}, LastProbe: &protect.LastProbe{Time: at, Asked: 3, Differ: 1},
				LastLive: &protect.LastLive{Time: at, Services: 1, Unproven: 1},
			},
		},
	}
}

func TestSnapshotTellsTheStatus(t *testing.T) {
	var b strings.Builder
	if err := WriteText(&b, full()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`synproxyctl_syns_answered_total 4.294967312e+09`,
		`synproxyctl_cookies_total{result="valid"} 3`,
		`synproxyctl_state{state="active"} 1`,
		`synproxyctl_state{state="drifted"} 0`,
		`synproxyctl_conntrack_entries_limit 4`,
		`synproxyctl_findings{code="hook",severity="warning"} 2`,
		`synproxyctl_last_verify_timestamp_seconds 1.7e+09`,
		`synproxyctl_last_verify_findings{severity="error"} 2`,
		`synproxyctl_last_probe_services{answer="same"} 2`,
		`synproxyctl_service_syns_total{service="192.0.2.1:443"} 12`,
		`synproxyctl_service_info{address="192.0.2.1",family="ipv4",hook="forward",mode="tracked",mss="1460",name="we?b",port="443",` +
			`sack="true",service="192.0.2.1:443",source="probed",timestamps="false",wscale="0"} 1`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() {
		t.Log(b.String())
	}
}

func TestSnapshotsAreWellFormed(t *testing.T) {
	none, many, uncounted := full(), full(), full()
	none.Status = nil
	many.MaxServices = 0
	uncounted.Status.Findings = []protect.Finding{{Code: protect.ConnectionsUnknown}}
	for name, c := range map[string]struct {
		s      Snapshot
		absent []string
	}{
		"full":      {full(), nil},
		"absent":    {Snapshot{Status: &protect.Status{State: protect.Absent}}, []string{"synproxyctl_backend_info", "synproxyctl_last_verify_ok"}},
		"unknown":   {none, []string{"synproxyctl_state", "synproxyctl_syns_answered_total", "synproxyctl_services"}},
		"many":      {many, []string{"synproxyctl_service_syns_total", "synproxyctl_service_info"}},
		"uncounted": {uncounted, []string{"synproxyctl_proxied_connections"}},
	} {
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(c.s)
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("%s: %v %v", name, problems, err)
		}
		for _, metric := range c.absent {
			if n := testutil.CollectAndCount(c.s, metric); n > 0 {
				t.Errorf("%s: %d series of %s", name, n, metric)
			}
		}
		if n := testutil.CollectAndCount(c.s, "synproxyctl_up"); n != 1 {
			t.Errorf("%s: %d series of synproxyctl_up", name, n)
		}
	}
}

var descName = regexp.MustCompile(`fqName: "([^"]*)"`)

// names are the names of all metrics.
func names() []string {
	var list []string
	for _, d := range descs {
		list = append(list, descName.FindStringSubmatch(d.String())[1])
	}
	return slices.Sorted(slices.Values(list))
}

// The full snapshot has all of them, so that the tests above have seen all.
func TestFullIsFull(t *testing.T) {
	for _, name := range names() {
		if testutil.CollectAndCount(full(), name) == 0 {
			t.Errorf("no series of %s", name)
		}
	}
}

// The page lists the metrics that there are, each once, with type and labels.
func TestPageListsTheMetrics(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(full())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		want = append(want, f.GetName()+" | "+strings.ToLower(f.GetType().String())+" | "+strings.Join(slices.Sorted(slices.Values(labels)), " "))
	}
	var have []string
	row := regexp.MustCompile("(?m)^\\| `(synproxyctl_[a-z_]+)` \\| (\\w+) \\|([^|]*)\\|")
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		labels := regexp.MustCompile("`[a-z]+`").FindAllString(m[3], -1)
		have = append(have, m[1]+" | "+m[2]+" | "+strings.Join(slices.Sorted(slices.Values(labels)), " "))
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(have))); diff != "" {
		t.Errorf("docs/metrics.md (-exists +listed):\n%s", diff)
	}
}
