package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// prometheusTool finds prometheus or promtool: installed, or as scripts/setup has unpacked it.
func prometheusTool(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs("../.cache/unpacked/prometheus/usr/bin/" + name)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v; hint: run scripts/setup, which unpacks it", err)
	}
	return path
}

// transcript keeps what a program says.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

func (tr *transcript) Write(p []byte) (int, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.text.Write(p)
}

func (tr *transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.text.String()
}

// from makes connections from a host.
func from(host *lab.Host) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, err
			}
			return host.Dial(ctx, at)
		},
	}}
}

func fetch(ctx context.Context, c *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

// A prometheusServer scrapes the exporter twice a second.
type prometheusServer struct {
	t    *testing.T
	http *http.Client
}

const prometheusAt = "127.0.0.1:9090"

// startPrometheus starts Prometheus on a host, with our alerts.
func startPrometheus(t *testing.T, host *lab.Host, target string) *prometheusServer {
	t.Helper()
	alerts, err := filepath.Abs("../packaging/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\nrule_files: [%q]\n"+
		"scrape_configs: [{job_name: synproxyctl, static_configs: [{targets: [%q]}]}]\n", alerts, target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := host.Command(ctx, prometheusTool(t, "prometheus"), "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+prometheusAt)
	said := &transcript{}
	cmd.Stdout, cmd.Stderr, cmd.Dir = said, said, dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Close()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", said)
		}
	})
	p := &prometheusServer{t, from(host)}
	p.until("Prometheus is ready", func() bool {
		_, err := fetch(ctx, p.http, "http://"+prometheusAt+"/-/ready")
		return err == nil
	})
	return p
}

// until waits longer than the others' one: here two programs and a clock of seconds are in the way.
func (p *prometheusServer) until(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("never: %s", what)
		}
	}
}

// ask asks its HTTP API.
func (p *prometheusServer) ask(path string, query url.Values, data any) {
	p.t.Helper()
	body, err := fetch(p.t.Context(), p.http, "http://"+prometheusAt+path+"?"+query.Encode())
	if err == nil {
		err = json.Unmarshal(body, &struct{ Data any }{data})
	}
	if err != nil {
		p.t.Fatalf("%s?%s: %v", path, query.Encode(), err)
	}
}

// query computes an expression, and returns the values.
func (p *prometheusServer) query(expression string) []float64 {
	p.t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	p.ask("/api/v1/query", url.Values{"query": {expression}}, &data)
	var values []float64
	for _, r := range data.Result {
		text, _ := r.Value[1].(string)
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			p.t.Fatalf("%s: %v", expression, err)
		}
		values = append(values, n)
	}
	return values
}

// comesTo waits until an expression has one value, which is the wanted one.
func (p *prometheusServer) comesTo(expression string, want float64) {
	p.t.Helper()
	var got []float64
	done := false
	defer func() {
		if !done {
			p.t.Logf("%s is %v, want %v", expression, got, want)
		}
	}()
	p.until(expression, func() bool {
		got = p.query(expression)
		return slices.Equal(got, []float64{want})
	})
	done = true
}

// An exporter is the program under test that serves metrics.
type exporter struct {
	t       *testing.T
	host    *lab.Host
	cmd     *lab.Command
	out     strings.Builder
	said    transcript
	address string
}

// exports starts an exporter on a host, and waits until it listens.
func exports(t *testing.T, host *lab.Host, args ...string) *exporter {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return startExporter(t, host, nil, slices.Concat([]string{path, "exporter", "--json", "--log-format", "json"}, args)...)
}

// exportsBy starts one as systemd does, with a socket and somebody to tell.
func exportsBy(t *testing.T, host *lab.Host, notify string) *exporter {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var file *os.File
	err = host.Do(func() error {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			return err
		}
		defer l.Close()
		file, err = l.File()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return startExporter(t, host, func(cmd *lab.Command) {
		cmd.ExtraFiles = []*os.File{file}
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify, "LISTEN_FDS=1")
	}, "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", path, "exporter", "--json", "--log-format", "json")
}

var listening = regexp.MustCompile(`"metrics are at http://([^/]+)/metrics"`)

func startExporter(t *testing.T, host *lab.Host, prepare func(*lab.Command), words ...string) *exporter {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	x := &exporter{t: t, host: host, cmd: host.Command(ctx, words[0], words[1:]...)}
	x.cmd.Stdout, x.cmd.Stderr = &x.out, &x.said
	if prepare != nil {
		prepare(x.cmd)
	}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = x.cmd.Close()
		if t.Failed() {
			t.Logf("the exporter said:\n%s", x.said.String())
		}
	})
	until(t, "the exporter listens", func() bool {
		if m := listening.FindStringSubmatch(x.said.String()); m != nil {
			x.address = m[1]
		}
		return x.address != ""
	})
	return x
}

// get fetches a page from the exporter's own host.
func (x *exporter) get(page string) string {
	x.t.Helper()
	body, err := fetch(x.t.Context(), from(x.host), "http://"+x.address+page)
	if err != nil {
		x.t.Errorf("%s: %v", page, err)
	}
	return string(body)
}

func (x *exporter) metrics() string {
	x.t.Helper()
	return x.get("/metrics")
}

// ends ends it, which must be quick and good, and returns what it says in the end.
func (x *exporter) ends() map[string]any {
	x.t.Helper()
	began := time.Now()
	if err := x.cmd.Process.Signal(unix.SIGTERM); err != nil {
		x.t.Fatal(err)
	}
	if err := x.cmd.Wait(); err != nil {
		x.t.Errorf("the exporter ended: %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		x.t.Errorf("it took %v to end", took)
	}
	return oneObject(x.t, x.out.String())
}
