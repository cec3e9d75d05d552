package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// A trier is a host with a service whose protection is tried.
type trier struct {
	t       *testing.T
	topo    *lab.Topology
	fw      *lab.Host
	web     string
	backend string
	before  string
}

func newTrier(t *testing.T, backend string) *trier {
	t.Helper()
	t.Parallel()
	r := &trier{t: t, topo: newTopology(t), backend: backend}
	r.fw = r.topo.Firewall
	r.web = on4.serve(t, r.topo, 80, lab.ServerConfig{Mode: lab.ClientFirst}).String()
	runInput(t, r.fw, trackAll, "nft", "-f", "-")
	r.before = r.state()
	t.Cleanup(func() {
		for _, pid := range r.guards() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return r
}

func (r *trier) state() string { return inAnyOrder(dump(r.t, r.fw)) + hostRecord(r.t, r.fw) }

// applying is an apply of the service with given options.
func (r *trier) applying(more ...string) []string {
	return slices.Concat([]string{"apply", r.web, "--backend", r.backend, "--first", "client"}, explicit, more)
}

func (r *trier) apply(more ...string) map[string]any {
	r.t.Helper()
	return mustDo(r.t, r.fw, 0, r.applying(more...)...)
}

func (r *trier) connect() *talker {
	r.t.Helper()
	return dialTalker(r.t, "proxied", r.topo.Client, netip.MustParseAddrPort(r.web))
}

// guards lists the guards that run on the host.
func (r *trier) guards() []int {
	r.t.Helper()
	ns, err := os.Stat(r.fw.Path())
	if err != nil {
		r.t.Fatal(err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		r.t.Fatal(err)
	}
	var pids []int
	for _, path := range lines {
		text, err := os.ReadFile(path)
		own, err2 := os.Stat(filepath.Dir(path) + "/ns/net")
		pid, err3 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && err2 == nil && err3 == nil && bytes.Contains(text, []byte("\x00guard\x00")) && os.SameFile(ns, own) && runs(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// guardOf returns the one guard that there is.
func (r *trier) guardOf() int {
	r.t.Helper()
	list := r.guards()
	if len(list) != 1 {
		r.t.Fatalf("guards %v, want one", list)
	}
	return list[0]
}

// gone waits for the end of all guards.
func (r *trier) gone() {
	r.t.Helper()
	until(r.t, "no guard is left", func() bool { return len(r.guards()) == 0 })
}

func TestTryFirst(t *testing.T) {
	r := newTrier(t, rules.NFTables)
	done := r.apply("--try", "1s")
	if left := number(t, done, "pending", "seconds_left"); left < 0 || left > 1 {
		t.Errorf("pending for %v seconds", left)
	}
	if status := mustDo(t, r.fw, 0, "status"); status["state"] != "active" || status["pending"] == nil {
		t.Errorf("status: %v", status)
	}
	c := r.connect()
	until(t, "it drains", func() bool { return mustDo(t, r.fw, 0, "status")["state"] == "draining" })
	alive(t, c)
	time.Sleep(500 * time.Millisecond)
	r.guardOf()
	alive(t, c)
	c.conn.Close()
	r.gone()
	sameDump(t, r.before, r.state())
}

func TestTryChange(t *testing.T) {
	r := newTrier(t, rules.NFT)
	r.apply()
	begun := r.state()
	c := r.connect()
	r.apply("--mss", "1400", "--try", "1s")
	d := r.connect()
	alive(t, c)
	r.gone()
	alive(t, c)
	alive(t, d)
	sameDump(t, begun, r.state())
	mustDo(t, r.fw, 0, "verify")
}

// TestTryWithoutSession takes everything away that the guard could hang on: the process that started it, its session,
// its process group and its terminal.
func TestTryWithoutSession(t *testing.T) {
	r := newTrier(t, rules.NFT)
	r.apply()
	begun := r.state()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	// script gives its child a terminal and a session of its own; at its death the terminal hangs up.
	line := fmt.Sprintf("%s apply %s --backend iptables-nft --first client --mss 1400 --wscale 10 --sack-perm --timestamps --try 2s >$OUT 2>&1; kill -HUP 0; sleep 60", path, r.web)
	out := filepath.Join(t.TempDir(), "out")
	cmd := r.fw.Command(t.Context(), "script", "-qc", line, "/dev/null")
	cmd.Env = append(os.Environ(), "OUT="+out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the change is made", func() bool {
		status := mustDo(t, r.fw, 0, "status")
		return status["pending"] != nil && status["state"] == "active"
	})
	guard := r.guardOf()
	_ = cmd.Close()
	if !runs(guard) {
		t.Error("the guard has ended with the session")
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE} {
		if err := syscall.Kill(guard, sig); err != nil {
			t.Error(err)
		}
	}
	r.gone()
	sameDump(t, begun, r.state())
}

func TestTryConfirmed(t *testing.T) {
	r := newTrier(t, rules.NFTables)
	mustDo(t, r.fw, 5, "confirm")
	r.apply("--try", "1500ms")
	mustDo(t, r.fw, 0, "confirm")
	r.gone()
	mustDo(t, r.fw, 5, "confirm")
	time.Sleep(1600 * time.Millisecond)
	if status := mustDo(t, r.fw, 0, "status"); status["state"] != "active" || status["pending"] != nil {
		t.Errorf("status: %v", status)
	}
	mustDo(t, r.fw, 0, "verify")
	mustDo(t, r.fw, 0, "revert")
	sameDump(t, r.before, r.state())
}

// TestTryTooLate kills the guard, so that nobody takes the change back.
func TestTryTooLate(t *testing.T) {
	r := newTrier(t, rules.NFTables)
	r.apply("--try", "1s")
	if err := syscall.Kill(r.guardOf(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	if found := mustDo(t, r.fw, 5, "confirm"); found["error"] == nil {
		t.Errorf("confirm: %v", found)
	}
	if found := codes(mustDo(t, r.fw, 3, "verify")); !slices.Contains(found, "try-expired") {
		t.Errorf("verify: %v", found)
	}
	r.apply()
	mustDo(t, r.fw, 0, "verify")
	if status := mustDo(t, r.fw, 0, "status"); status["pending"] != nil {
		t.Errorf("status: %v", status)
	}
}

// TestTryAndThen ends a try by other commands than confirm.
func TestTryAndThen(t *testing.T) {
	r := newTrier(t, rules.NFT)
	r.apply("--try", "1500ms")
	r.apply("--lock-timeout", "0s") // the guard holds no lock
	wanted := r.state()
	r.gone()
	time.Sleep(1600 * time.Millisecond)
	sameDump(t, wanted, r.state())

	r.apply("--mss", "1400", "--try", "30s")
	first := r.guardOf()
	r.apply("--mss", "1300", "--try", "1s")
	until(t, "the first guard ends", func() bool { return !runs(first) })
	r.gone()
	sameDump(t, wanted, r.state()) // from before the first

	r.apply("--mss", "1400", "--try", "30s")
	mustDo(t, r.fw, 0, "revert")
	r.gone()
	sameDump(t, r.before, r.state())
}

// TestTryFails lets an apply fail that has a guard.
func TestTryFails(t *testing.T) {
	r := newTrier(t, rules.NFT)
	s := newStage(t, r.fw)
	s.remember()
	s.swap(nil, map[string]string{"iptables-nft-restore": `text=$(cat); case "$text" in *'*security'*) echo no security >&2; exit 1;; esac; echo "$text" | REAL/iptables-nft-restore "$@"`})
	s.text(bad{args: r.applying("--try", "30s"), exit: failed, names: []string{"no security"}})
	r.gone()
	s.untouched()
}

// TestTryReturnsAtOnce makes sure that the guard keeps nothing open for which the caller of its caller waits.
func TestTryReturnsAtOnce(t *testing.T) {
	r := newTrier(t, rules.NFTables)
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	args := slices.Concat([]string{"-c", `exec "$@" 7>&3`, "sh", path}, r.applying("--try", "30s"))
	cmd := r.fw.Command(t.Context(), "sh", args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = in, in, []*os.File{in}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	r.guardOf()
	if err := out.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	if _, err := all.ReadFrom(out); err != nil {
		t.Errorf("the guard keeps a pipe open: %v: %s", err, &all)
	}
	mustDo(t, r.fw, 0, "confirm")
	r.gone()
}
