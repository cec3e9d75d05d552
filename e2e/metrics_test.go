package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestMetrics has the real Prometheus scrape a host under a flood, until it knows what the kernel has counted, and
// compute each alert and each graph of the dashboard.
func TestMetrics(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	fw := topo.Firewall
	p := place{rules.Forward, rules.IPv4}
	web, idle := p.serve(t, topo, 80, lab.ServerConfig{}), p.serve(t, topo, 443, lab.ServerConfig{})
	mustDo(t, fw, 0, "apply", web.String(), idle.String(), "--backend", rules.NFTables)
	x := exports(t, fw, "--listen", netip.AddrPortFrom(lab.InsideV4, 9961).String())
	prom := startPrometheus(t, topo.Server, x.address)
	prom.comesTo("synproxyctl_syns_answered_total", float64(synproxyStats(t, fw).SYNReceived)) // what comes now is a rate

	allGood(t, topo.Client, web, lab.LoadConfig{Connections: 20})
	const flood = 5000
	if _, err := topo.Attacker.Flood(t.Context(), lab.FloodConfig{Destination: web, Packets: flood}); err != nil {
		t.Fatal(err)
	}
	open, err := topo.Client.Dial(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	mustDo(t, fw, 0, "verify", "--probe")
	stats := synproxyStats(t, fw)
	if stats.SYNReceived < flood+21 {
		t.Fatalf("the kernel has counted %+v", stats)
	}
	for query, want := range map[string]float64{
		"synproxyctl_syns_answered_total":                                                                       float64(stats.SYNReceived),
		`synproxyctl_cookies_total{result="valid"}`:                                                             float64(stats.CookieValid),
		`synproxyctl_cookies_total{result="invalid"}`:                                                           float64(stats.CookieInvalid),
		fmt.Sprintf("synproxyctl_service_syns_total{service=%q}", web):                                          float64(stats.SYNReceived),
		fmt.Sprintf("synproxyctl_service_syns_total{service=%q}", idle):                                         0,
		`synproxyctl_service_info{address="10.77.2.2",port="443",family="ipv4",hook="forward",source="probed"}`: 1,
		`synproxyctl_state{state="active"}`:                                                                     1,
		`synproxyctl_sysctl_ok`:                                                                                 1,
		`synproxyctl_services`:                                                                                  2,
		`synproxyctl_last_verify_ok`:                                                                            1,
		`synproxyctl_last_probe_services{answer="same"}`:                                                        2,
		`synproxyctl_up * on(instance) up{job="synproxyctl"}`:                                                   1,
		`count(synproxyctl_proxied_connections >= 1)`:                                                           1,
		`count(synproxyctl_conntrack_entries >= 1)`:                                                             1,
		`count(time() - synproxyctl_last_verify_timestamp_seconds < 60)`:                                        1,
		`count(rate(synproxyctl_syns_answered_total[1m]) > 0)`:                                                  1,
	} {
		prom.comesTo(query, want)
	}
	prom.judgesRules()
	prom.drawsDashboard()
	promtoolLikes(t, x.metrics())

	run(t, fw, "nft", "flush chain ip synproxyctl SYNPROXYCTL_RAW_PREROUTING")
	prom.comesTo(`synproxyctl_state{state="drifted"}`, 1)
	prom.comesTo(`count(synproxyctl_findings{severity="error"}) > bool 0`, 1)
	if done := x.ends(); number(t, done, "reads") < 2 || number(t, done, "failures") != 0 {
		t.Errorf("the exporter has done: %v", done)
	}
}

func synproxyStats(t *testing.T, host *lab.Host) kernel.SynproxyStats {
	t.Helper()
	var stats kernel.SynproxyStats
	err := host.Do(func() (err error) {
		stats, err = kernel.ReadSynproxyStats()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// promtoolLikes has promtool read and judge metrics.
func promtoolLikes(t *testing.T, text string) {
	t.Helper()
	cmd := exec.Command(prometheusTool(t, "promtool"), "check", "metrics")
	var ours strings.Builder // not the library's
	for line := range strings.Lines(text) {
		if strings.Contains(line, "synproxyctl_") {
			ours.WriteString(line)
		}
	}
	cmd.Stdin = strings.NewReader(ours.String())
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestAlerts has promtool judge the alerts, and their tests.
func TestAlerts(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command(prometheusTool(t, "promtool"), args...)
		cmd.Dir = "../packaging/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// sample finds a metric in a text; -1 if it is not there.
func sample(t *testing.T, text, series string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return -1
}

// TestMetricsFile writes files for node_exporter: whole ones, by many at once, across a wrap of the kernel's counters,
// and none at all when something is wrong.
func TestMetricsFile(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	s := newStage(t, topo.Firewall)
	web := place{rules.Forward, rules.IPv4}.serve(t, topo, 80, lab.ServerConfig{})
	file := filepath.Join(s.work, "synproxyctl.prom")
	writes := func() string {
		t.Helper()
		stdout, stderr, exit := s.synproxyctl("", "status", "--prometheus", file)
		text, err := os.ReadFile(file)
		if err != nil || exit != 0 || stdout+stderr != "" {
			t.Fatalf("exit %d, %v: %s%s", exit, err, stdout, stderr)
		}
		return string(text)
	}
	text := writes() // nothing is protected
	if sample(t, text, `synproxyctl_state{state="absent"}`) != 1 || sample(t, text, "synproxyctl_services") != 0 {
		t.Errorf("absent:\n%s", text)
	}
	promtoolLikes(t, text)
	s.good("apply", web.String())
	allGood(t, topo.Client, web, lab.LoadConfig{Connections: 10})
	text = writes()
	promtoolLikes(t, text)
	if fi, err := os.Stat(file); err != nil || fi.Mode() != 0o644 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	const total = "synproxyctl_syns_answered_total"
	if n, want := sample(t, text, total), float64(synproxyStats(t, s.host).SYNReceived); n != want || n < 10 {
		t.Errorf("%v SYNs, and the kernel has counted %v", n, want)
	}
	if n := sample(t, text, fmt.Sprintf("synproxyctl_service_syns_total{service=%q}", web)); n < 10 {
		t.Errorf("%v SYNs of the service", n)
	}
	// The kernel had counted to 16 below the wrap.
	note := strings.TrimSuffix(s.recordPath(), ".json") + ".counted"
	if err := os.WriteFile(note, []byte(`{"seen":true,"last":{"syn_received":4294967280},"total":{"syn_received":4294967280}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	want := float64(1<<32 + synproxyStats(t, s.host).SYNReceived)
	var wg sync.WaitGroup
	for range 5 {
		cmd := s.command("status", "--prometheus", file)
		wg.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if n := sample(t, writes(), total); n != want {
		t.Errorf("across a wrap and by five at once: %v, want %v", n, want)
	}
	stdout, _, _ := s.synproxyctl("", "status", "--prometheus", "-", "--max-services", "0")
	if sample(t, stdout, total) != want || strings.Contains(stdout, "synproxyctl_service_") || sample(t, stdout, "synproxyctl_services") != 1 {
		t.Errorf("to standard output, without services:\n%s", stdout)
	}
	// Whatever is wrong, what was there stays.
	before := writes()
	for _, c := range []struct {
		exit  int
		setup string
		path  string
	}{
		{failed, "", "/no/such/directory/x.prom"},
		{badUsage, "", s.work},
		{badUsage, `ln -sf synproxyctl.prom "$WORK/link.prom"; `, filepath.Join(s.work, "link.prom")},
		{failed, `mount -o bind,ro "$WORK" "$WORK"; `, file},
		{unsupported, "chmod 777 /run/synproxyctl; ", file},
	} {
		s.setup = c.setup
		if stdout, stderr, exit := s.synproxyctl("", "status", "--prometheus", c.path); exit != c.exit || !strings.Contains(stderr, "hint: ") || stdout != "" {
			t.Errorf("%s: exit %d, want %d: %s%s", c.path, exit, c.exit, stdout, stderr)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != before {
		t.Errorf("the file has changed: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(s.work, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestExporterSockets takes sockets that a service manager hands over, tells it when it is ready, and refuses what cannot be.
func TestExporterSockets(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	fw := topo.Firewall
	first := exports(t, fw, "--listen", "[::1]:0")
	if !strings.HasPrefix(first.address, "[::1]:") {
		t.Errorf("it listens on %s", first.address)
	}
	if !strings.Contains(first.get("/"), `href="/metrics"`) {
		t.Error("no page that leads to the metrics")
	}
	// Many who ask at once have one answer.
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if text := first.metrics(); sample(t, text, "synproxyctl_up") != 1 {
				t.Errorf("it tells:\n%s", text)
			}
		})
	}
	wg.Wait()
	if _, stderr, exit := synproxyctl(t, fw, "exporter", "--listen", first.address); exit != unsupported || !strings.Contains(stderr, "taken") {
		t.Errorf("the same port twice: exit %d: %s", exit, stderr)
	}
	for listen, want := range map[string]int{"192.0.2.77:9961": failed, "nonsense": badUsage, "127.0.0.1:65536": badUsage} {
		if _, stderr, exit := synproxyctl(t, fw, "exporter", "--listen", listen); exit != want || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%s: exit %d, want %d: %s", listen, exit, want, stderr)
		}
	}
	if n := number(t, first.ends(), "reads"); n > 3 {
		t.Errorf("the status was read %v times", n)
	}

	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := listenDatagrams(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hear := func(want string) {
		t.Helper()
		buffer := make([]byte, 200)
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buffer)
		if got := string(buffer[:n]); err != nil || got != want {
			t.Errorf("the service manager heard %q, %v; want %q", got, err, want)
		}
	}
	handed := exportsBy(t, fw, socket)
	hear("READY=1")
	if text := handed.metrics(); sample(t, text, `synproxyctl_state{state="absent"}`) != 1 {
		t.Errorf("it tells:\n%s", text)
	}
	handed.ends()
	hear("STOPPING=1")
}

// dashboard is what a test needs of it.
type dashboard struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// drawsDashboard computes each graph, all of which have something to show but for findings.
func (p *prometheusServer) drawsDashboard() {
	p.t.Helper()
	text, err := os.ReadFile("../packaging/grafana/synproxyctl.json")
	if err != nil {
		p.t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		p.t.Fatal(err)
	}
	graphs := 0
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			graphs++
			query := strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m").Replace(target.Expr)
			if values := p.query(query); len(values) == 0 && panel.Title != "Findings" {
				p.t.Errorf("dashboard, %s: nothing to show: %s", panel.Title, query)
			}
		}
	}
	if graphs < 10 {
		p.t.Errorf("the dashboard has %d graphs", graphs)
	}
}

// judgesRules wants each alert to be computed, and nobody to be called, but for a flood perhaps.
func (p *prometheusServer) judgesRules() {
	p.t.Helper()
	type rule struct{ Name, Health, LastError, State string }
	var wrong []rule
	defer func() {
		if len(wrong) > 0 {
			p.t.Errorf("alerts: %+v", wrong)
		}
	}()
	p.until("all is well", func() bool {
		var all struct{ Groups []struct{ Rules []rule } }
		p.ask("/api/v1/rules", nil, &all)
		wrong = nil
		for _, g := range all.Groups {
			for _, r := range g.Rules {
				if r.Health != "ok" || r.State != "inactive" && r.Name != "SynproxyctlFlood" {
					wrong = append(wrong, r)
				}
			}
		}
		return len(all.Groups) == 1 && len(all.Groups[0].Rules) >= 12 && len(wrong) == 0
	})
}
