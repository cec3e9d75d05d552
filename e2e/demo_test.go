package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/demo"
)

func TestDemo(t *testing.T) {
	host := newTopology(t).Client
	before := surroundings(t, host)
	start := time.Now()
	out, progress, exit := synproxyctl(t, host, "demo", "--json")
	if exit != 0 {
		t.Fatalf("exit %d\n%s%s", exit, out, progress)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("it took %v", d)
	}
	var got struct {
		Schema  int
		Command string
		demo.Report
	}
	dec := json.NewDecoder(strings.NewReader(out))
	if err := dec.Decode(&got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Errorf("after the one object comes %v\n%s", err, out)
	}
	if got.Schema != 1 || got.Command != "demo" || !got.Holds || len(got.Faults) > 0 {
		t.Errorf("schema %d, command %q, faults %q", got.Schema, got.Command, got.Faults)
	}
	if d := got.Direct; d.Served != 100 || d.Latency.P50 <= 0 || d.Latency.P50 > d.Latency.P99 || d.Latency.P99 > d.Latency.Max {
		t.Errorf("without a flood: %+v", d)
	}
	// A queue of 511 places does not last a second, and no place becomes free in time.
	if u := got.Unprotected; u.Lost < 90 || u.SYNQueue < 500 || u.Server.ListenDrops == 0 || u.SYNCookies {
		t.Errorf("without protection: %+v", u)
	}
	if u := got.Unprotected; u.Conntrack.Peak < 10*u.Connections {
		t.Errorf("without protection the flood left %d conntrack entries", u.Conntrack.Peak)
	}
	if c := got.Cookies; !c.SYNCookies || c.Server.CookiesSent == 0 {
		t.Errorf("with SYN cookies: %+v", c)
	}
	p := got.Protected
	if p.Served != 100 || p.Lost != 0 || len(p.Errors) > 0 || p.SYNCookies {
		t.Errorf("with protection: %+v", p)
	}
	if p.Conntrack.Peak < 100 || p.Conntrack.Peak > 116 {
		t.Errorf("with protection: %d conntrack entries for 100 good connections", p.Conntrack.Peak)
	}
	if n := p.SYNPROXY.CookieValid; n != 100 || p.SYNs < 100_000 || p.SYNPROXY.SYNReceived < uint64(p.SYNs) {
		t.Errorf("with protection: %d valid cookies, %d SYNs, %d of them answered", n, p.SYNs, p.SYNPROXY.SYNReceived)
	}
	if p.Server.ListenDrops > 0 || p.SYNQueue > 100 {
		t.Errorf("with protection, the flood reached the server: %+v", p)
	}
	if l := got.Left; len(l.Differences) > 0 || l.Loose != [3]string{"1", "0", "1"} {
		t.Errorf("left behind: %+v", l)
	}
	if diff := cmp.Diff(before, surroundings(t, host)); diff != "" {
		t.Errorf("outside there changed:\n%s", diff)
	}
	// Where standard error is no terminal: a line for each step, and nothing that moves a cursor.
	if n := strings.Count(progress, "/8] "); n != 8 || strings.ContainsAny(progress, "\r\x1b") {
		t.Errorf("%d steps were told:\n%s", n, progress)
	}
}

func TestDemoInterrupted(t *testing.T) {
	host := newTopology(t).Client
	before := surroundings(t, host)
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := host.Command(t.Context(), path, "demo", "--json")
	cmd.Stdout = &out
	progress, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	readUntil(t, progress, "[1/8]")
	time.Sleep(time.Second) // into the flood, with good connections under way
	if processes(t, path) < 2 {
		t.Error("there is no inner process, which would have to go too")
	}
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, progress)
	_ = cmd.Wait()
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it took %v to end", d)
	}
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit %d, want 130", code)
	}
	var got struct{ Error struct{ Code string } }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Error.Code != "interrupted" {
		t.Errorf("%v: %s", err, out.Bytes())
	}
	if n := processes(t, path); n > 0 {
		t.Errorf("%d of its processes are left", n)
	}
	if diff := cmp.Diff(before, surroundings(t, host)); diff != "" {
		t.Errorf("outside there changed:\n%s", diff)
	}
}

// TestDemoRefused runs it in a user namespace whose root allows no further network namespace.
func TestDemoRefused(t *testing.T) {
	host := newTopology(t).Client
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := host.Command(t.Context(), "sh", "-c", `echo 0 >/proc/sys/user/max_net_namespaces && exec "$0" demo --json`, path)
	inUserNamespace(cmd)
	cmd.Stdout = &out
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 4 {
		t.Errorf("exit %d, want 4", code)
	}
	var got struct {
		Error struct{ Code, Message, Hint string }
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	if e := got.Error; e.Code != "permission" || !strings.Contains(e.Hint, "run as root") || strings.Contains(e.Message, "hint") {
		t.Errorf("got %+v", e)
	}
}

// readUntil reads until a word has come by.
func readUntil(t *testing.T, r io.Reader, word string) {
	t.Helper()
	var seen []byte
	for b := make([]byte, 1); !bytes.Contains(seen, []byte(word)); seen = append(seen, b[0]) {
		if _, err := r.Read(b); err != nil {
			t.Fatalf("%v after %q", err, seen)
		}
	}
}

// processes counts those that run this program.
func processes(t *testing.T, path string) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && exe == path {
			n++
		}
	}
	return n
}
