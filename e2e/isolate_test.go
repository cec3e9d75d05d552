package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// envChild makes the test binary one of the children below, instead of running tests.
const envChild = "SYNPROXYCTL_E2E_CHILD"

// child isolates itself from the test that started it, as a program does from the machine, and does what its name
// says.
func child(name string) int {
	if name == "live" {
		return liveChild()
	}
	if text, ok := strings.CutPrefix(name, deedPrefix); ok {
		return deedChild(text)
	}
	if name == "refused" {
		// Of the user namespace that the test made for it.
		if err := os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0); err != nil {
			return fail(err)
		}
	}
	if mark, ok := strings.CutPrefix(name, "stray "); ok {
		os.Setenv("SYNPROXYCTL_LAB", mark)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	w, code, err := lab.Isolate(ctx)
	switch {
	case errors.Is(err, lab.ErrRefused):
		fail(err)
		return 77
	case err != nil:
		return fail(err)
	case w == nil:
		return code
	}
	topo, err := w.NewTopology()
	if err != nil {
		return fail(err)
	}
	defer topo.Close()
	if err := topo.Firewall.SetSysctl("net.ipv4.ip_default_ttl", "77"); err != nil {
		return fail(err)
	}
	if name == "exit" {
		fmt.Fprintln(os.Stdout, "ready")
		return 42
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	cmd := topo.Client.Command(context.Background(), "sleep", "4242")
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	fmt.Fprintln(os.Stdout, "ready")
	first := <-signals
	select {
	case <-signals:
		return 99 // the one signal came twice
	case <-time.After(100 * time.Millisecond):
	}
	if name == "succeed" {
		return 0
	}
	return 10 + int(first.(syscall.Signal))
}

// startChild starts a child on a host and waits until it is ready, or has ended.
func startChild(t *testing.T, host *lab.Host, name string, attr func(*lab.Command)) (cmd *lab.Command, stderr *strings.Builder) {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// A copy that everybody may run, since the go command keeps its own to one user.
	dir, err := os.MkdirTemp("", "synproxyctl-e2e-child-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "e2e")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, exe, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd = host.Command(t.Context(), path)
	cmd.Env = append(os.Environ(), envChild+"="+name, "GORACE=atexit_sleep_ms=0")
	stderr = &strings.Builder{}
	cmd.Stderr = stderr
	if attr != nil {
		attr(cmd)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _ = bufio.NewReader(out).ReadString('\n') // an error means that it has ended, which its exit code tells better
	return cmd, stderr
}

// surroundings is what an isolated program must leave alone: the network of its host, and /run.
func surroundings(t *testing.T, host *lab.Host) string {
	t.Helper()
	entries, err := filepath.Glob("/run/*")
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("/run/netns/*")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	// Each veth gets a link-local address, which the kernel calls tentative for a moment.
	addresses := strings.ReplaceAll(run(t, host, "ip", "address"), "tentative ", "")
	return fmt.Sprintf("%v\n%v\n%s%s%s", entries, names, mounts, addresses, sysctls(t, host))
}

func TestIsolationLeavesTheOutsideAlone(t *testing.T) {
	host := newTopology(t).Client
	before := surroundings(t, host)
	cmd, _ := startChild(t, host, "wait", nil)
	if diff := cmp.Diff(before, surroundings(t, host)); diff != "" {
		t.Errorf("while a lab runs inside, outside there changed:\n%s", diff)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if diff := cmp.Diff(before, surroundings(t, host)); diff != "" {
		t.Errorf("a lab inside left outside:\n%s", diff)
	}
}

func TestIsolationPassesTheExitCode(t *testing.T) {
	host := newTopology(t).Client
	for name, attr := range map[string]func(*lab.Command){
		"as we are":              nil,
		"in a user namespace":    inUserNamespace,
		"as an unprivileged one": asNobody,
	} {
		t.Run(name, func(t *testing.T) {
			cmd, stderr := startChild(t, host, "exit", attr)
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 42 {
				t.Errorf("exit %d, want the inner process's 42; %s", code, stderr)
			}
		})
	}
}

func TestIsolationPassesSignals(t *testing.T) {
	host := newTopology(t).Client
	for _, c := range []struct {
		child  string
		signal syscall.Signal
		codes  []int
	}{
		// The child's context ends too, and either of the two may be first; the inner process gets one of them.
		{"wait", syscall.SIGTERM, []int{10 + 15, 10 + 2}},
		{"wait", syscall.SIGINT, []int{10 + 2}},
		{"succeed", syscall.SIGINT, []int{0}},
	} {
		cmd, stderr := startChild(t, host, c.child, nil)
		if err := cmd.Process.Signal(c.signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); !slices.Contains(c.codes, code) {
			t.Errorf("%s, %v: exit %d, want one of %v; %s", c.child, c.signal, code, c.codes, stderr)
		}
	}
}

// inUserNamespace gives a child a user namespace of its own, in which it is root.
func inUserNamespace(cmd *lab.Command) {
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{Size: 1}}
}

// asNobody takes root from a child. In a user namespace there is nobody but root, who has no rights outside.
func asNobody(cmd *lab.Command) {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err == nil && strings.Contains(string(ids), "4294967295") {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
}

func TestIsolationRefused(t *testing.T) {
	host := newTopology(t).Client
	cmd, stderr := startChild(t, host, "refused", inUserNamespace)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 77 || !strings.Contains(stderr.String(), "run as root") {
		t.Errorf("exit %d with %q, want a refusal that says what to do", code, stderr)
	}
}

// TestIsolationNeedsItsOuterProcess makes sure that a variable in the environment does not make the program mount
// things on the machine.
func TestIsolationNeedsItsOuterProcess(t *testing.T) {
	host := newTopology(t).Client
	before := surroundings(t, host)
	var mnt, network syscall.Stat_t
	err := host.Do(func() error {
		return errors.Join(syscall.Stat("/proc/thread-self/ns/mnt", &mnt), syscall.Stat("/proc/thread-self/ns/net", &network))
	})
	if err != nil {
		t.Fatal(err)
	}
	reader, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer pipe.Close()
	for name, mark := range map[string]string{
		"of other namespaces": "1:1",
		"of these namespaces": fmt.Sprintf("%d:%d", mnt.Ino, network.Ino),
		"of these mounts":     fmt.Sprintf("%d:1", mnt.Ino),
		"of this network":     fmt.Sprintf("1:%d", network.Ino),
		"of a person":         "yes",
	} {
		cmd, stderr := startChild(t, host, "stray "+mark, func(cmd *lab.Command) {
			if name != "of other namespaces" { // where only the missing pipe tells
				cmd.ExtraFiles = []*os.File{pipe}
			}
		})
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "unset it") {
			t.Errorf("a mark %s: exit %d with %q, want a refusal that says what to do", name, code, stderr)
		}
	}
	if diff := cmp.Diff(before, surroundings(t, host)); diff != "" {
		t.Errorf("outside there changed:\n%s", diff)
	}
}

func TestIsolationDiesWithTheOuterProcess(t *testing.T) {
	host := newTopology(t).Client
	cmd, stderr := startChild(t, host, "wait", nil)
	const inner = "sleep\x004242\x00" // what the child starts
	if n := running(t, inner); n != 1 {
		t.Fatalf("%d programs run inside, want 1; %s", n, stderr)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Errorf("the killed process gives %v", err)
	}
	for end := time.Now().Add(2 * time.Second); running(t, inner) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the outer process was killed, and a program that its lab started still runs")
		}
	}
}

// running counts the processes with this command line, each word of which ends with a zero byte.
func running(t *testing.T, line string) (n int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if got, err := os.ReadFile(path); err == nil && string(got) == line {
			n++
		}
	}
	return n
}
