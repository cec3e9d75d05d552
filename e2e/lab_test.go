package e2e

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

func TestTopologyIsQuickAndLeavesNothing(t *testing.T) {
	held := func() (n [3]int) {
		for i, dir := range []string{"/proc/self/task", "/proc/self/fd", "/run/netns"} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			n[i] = len(entries)
		}
		return n
	}
	cycle := func() time.Duration {
		begin := time.Now()
		topo, err := world.NewTopology()
		built := time.Since(begin)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 80)})
		load(t, topo.Client, netip.AddrPortFrom(lab.ServerV4, 80), lab.LoadConfig{Connections: 1})
		if _, err := topo.Firewall.Capture("eth0"); err != nil {
			t.Fatal(err)
		}
		if err := topo.Firewall.Command(t.Context(), "sleep", "60").Start(); err != nil {
			t.Fatal(err)
		}
		if err := topo.Close(); err != nil {
			t.Fatal(err)
		}
		if err := topo.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
		return built
	}
	cycle() // the runtime keeps some threads and descriptors that it opens once
	before, fastest := held(), time.Hour
	for range 10 {
		fastest = min(fastest, cycle())
	}
	t.Logf("built in %v", fastest)
	if fastest > 100*time.Millisecond {
		t.Errorf("a topology takes %v, want less than 100ms", fastest)
	}
	after := held()
	for end := time.Now().Add(2 * time.Second); after[0] > before[0]+2 && time.Now().Before(end); after = held() {
		time.Sleep(10 * time.Millisecond) // a thread ends a moment after its goroutine
	}
	// The runtime may keep a thread or two of its own, but not one of each of ten rounds.
	if after[0] > before[0]+2 || after[1] > before[1] || after[2] > before[2] {
		t.Errorf("threads, descriptors and namespaces were %v and are %v", before, after)
	}
	if n := running(t, "sleep\x0060\x00"); n > 0 {
		t.Errorf("%d programs are left", n)
	}
}

func TestClosedLabRefuses(t *testing.T) {
	topo := newTopology(t)
	if err := topo.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := topo.Host("late"); err == nil {
		t.Error("a closed lab gives a host")
	}
	if err := topo.Client.Command(t.Context(), "true").Start(); err == nil {
		t.Error("a closed host runs a command")
	}
	if _, err := topo.Client.Serve(t.Context(), lab.ServerConfig{}); err == nil {
		t.Error("a closed host runs a server")
	}
	if _, err := topo.Client.Sysctl("net.ipv4.ip_forward"); err == nil {
		t.Error("a closed host shows a sysctl")
	}
}

func TestHostCommands(t *testing.T) {
	topo := newTopology(t)
	if out := run(t, topo.Firewall, "ip", "-brief", "link"); !strings.Contains(out, "eth2") {
		t.Errorf("the firewall's own links are missing in:\n%s", out)
	}
	if out := run(t, topo.Client, "ip", "netns", "exec", topo.Firewall.Namespace(), "ip", "-brief", "link"); !strings.Contains(out, "eth2") {
		t.Errorf("ip netns exec does not enter the firewall:\n%s", out)
	}
	_, err := topo.Client.Run(t.Context(), "sh", "-c", "echo no >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "no") {
		t.Errorf("a program that fails gives %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := topo.Client.Run(ctx, "sleep", "60"); err == nil || time.Since(begin) > time.Second {
		t.Errorf("the context ended, and the program with %v after %v", err, time.Since(begin))
	}
}

func TestHostDo(t *testing.T) {
	topo := newTopology(t)
	boom := errors.New("boom")
	if err := topo.Client.Do(func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	ended := make(chan bool)
	go func() {
		defer close(ended)
		_ = topo.Client.Do(func() error { runtime.Goexit(); return nil })
		ended <- true
	}()
	if <-ended {
		t.Error("a function that gave up, as t.FailNow does, did not end its caller")
	}
}

func TestSysctlBelongsToHost(t *testing.T) {
	topo := newTopology(t)
	const key = "net.netfilter.nf_conntrack_tcp_loose"
	if err := topo.Firewall.SetSysctl(key, "0"); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[*lab.Host]string{topo.Firewall: "0", topo.Server: "1"} {
		if got, err := host.Sysctl(key); got != want || err != nil {
			t.Errorf("%s: %s is %q, %v, want %s", host.Name(), key, got, err, want)
		}
	}
	for _, key := range []string{"kernel.panic", "net/../kernel/panic", "net.ipv4.no_such"} {
		before, _ := os.ReadFile("/proc/sys/kernel/panic")
		if err := topo.Firewall.SetSysctl(key, string(before)); err == nil {
			t.Errorf("%s: could be set", key)
		}
	}
	if _, err := topo.Firewall.Sysctl("net.ipv4.no_such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that does not exist gives %v", err)
	}
}
