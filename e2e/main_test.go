// Package e2e tests the product and its lab on the real kernel. The test binary runs itself again in namespaces of
// its own, so that it needs no root where the kernel allows that, and touches nothing outside.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// world is where every test builds its networks.
var world *lab.World

// envBuild tells the inner process the directory of the program under test.
const envBuild = "SYNPROXYCTL_E2E_BUILD"

// tools are the programs that the tests run; scripts/setup installs them.
var tools = []string{
	"iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy",
	"iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save",
	"iptables-nft-restore", "iptables-legacy-restore", "nft", "ipset", "conntrack", "ip", "tc", "nstat",
	"ufw", "firewalld", "firewall-cmd", "dbus-daemon", "curl",
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if name := os.Getenv(envChild); name != "" {
		return child(name)
	}
	if _, inside := os.LookupEnv(envBuild); !inside {
		// Before the isolation, which has no network: the build may have to fetch modules.
		dir, err := os.MkdirTemp("", "synproxyctl-e2e-")
		if err != nil {
			return fail(err)
		}
		defer os.RemoveAll(dir)
		build(dir)
		os.Setenv(envBuild, dir)
		// A program with the race detector sleeps a second before it exits, otherwise.
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	w, code, err := lab.Isolate(context.Background())
	if err != nil {
		return fail(err)
	}
	if w == nil {
		return code
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fail(fmt.Errorf("%w; hint: run scripts/setup, which installs what the tests need", err))
		}
	}
	world = w
	if err := atATime(); err != nil {
		return fail(err)
	}
	return m.Run()
}

// atATime lets more parallel tests run than there are CPUs, unless the command line says how many: they wait, most of
// the time, for what the kernel does when its time has come.
func atATime() error {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	return 1
}

// build compiles the program under test into dir, as the tests themselves were compiled. A program that does not
// compile must not stop the tests that do without it, so the compiler's complaint is kept in a file.
func build(dir string) {
	args := []string{"build", "-o", filepath.Join(dir, "synproxyctl")}
	if raceEnabled() {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "../cmd/synproxyctl")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		report := fmt.Appendf(out, "go build: %v\n", err)
		if err := os.WriteFile(filepath.Join(dir, "failed"), report, 0o600); err != nil {
			fail(err)
		}
	}
}

func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if ok && s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// program returns the path of the program under test.
var program = sync.OnceValues(func() (string, error) {
	// The go command caches the result of a test until something changes that the test looked at. The compiler
	// looks on our behalf, unseen, so look at the sources too.
	for _, dir := range []string{"../cmd", "../internal", "../pkg"} {
		if err := filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			return "", err
		}
	}
	dir := os.Getenv(envBuild)
	if report, err := os.ReadFile(filepath.Join(dir, "failed")); err == nil {
		return "", fmt.Errorf("the program under test was not built:\n%s", report)
	}
	path := filepath.Join(dir, "synproxyctl")
	_, err := os.Stat(path)
	return path, err
})

// newTopology builds the standard topology for one test.
func newTopology(t testing.TB) *lab.Topology {
	t.Helper()
	topo, err := world.NewTopology()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := topo.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return topo
}

// synproxyctl runs the program under test on a host. Standard input is empty.
func synproxyctl(t testing.TB, host *lab.Host, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	return synproxyctlInput(t, host, "", args...)
}

// synproxyctlInput is [synproxyctl] with a standard input.
func synproxyctlInput(t testing.TB, host *lab.Host, stdin string, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	cmd := host.Command(t.Context(), path, unhurried(args)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err = cmd.Run()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		t.Fatalf("synproxyctl %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// bootAge is how old an answer may be when the unit of systemd applies; what such an apply waits for is a test's business.
const bootAge = "87600h"

// unhurried spares an apply the wait for connections that began before it, unless the test says how long it is to be:
// on hosts that have only just been made there are none.
func unhurried(args []string) []string {
	apply := len(args) > 0 && slices.Contains(args, "apply") && !slices.Contains(args, "--") && !slices.Contains(args, bootAge)
	if apply && !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--warmup") || strings.HasPrefix(a, "--help") }) {
		return append(slices.Clip(args), "--warmup=0")
	}
	return args
}

// run runs a program on a host, which must succeed, and returns its standard output.
func run(t testing.TB, host *lab.Host, name string, args ...string) string {
	t.Helper()
	out, err := host.Run(t.Context(), name, args...)
	if err != nil {
		t.Fatalf("on %s: %s %s: %v", host.Name(), name, strings.Join(args, " "), err)
	}
	return out
}

// runInput is [run] with a standard input, as the restore programs want.
func runInput(t testing.TB, host *lab.Host, stdin, name string, args ...string) string {
	t.Helper()
	cmd := host.Command(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("on %s: %s %s: %v\n%s\ninput:\n%s", host.Name(), name, strings.Join(args, " "), err, out, stdin)
	}
	return string(out)
}

// serve starts a server, which the end of the test stops.
func serve(t testing.TB, host *lab.Host, cfg lab.ServerConfig) *lab.Server {
	t.Helper()
	srv, err := host.Serve(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// load makes connections, whatever becomes of them.
func load(t testing.TB, host *lab.Host, server netip.AddrPort, cfg lab.LoadConfig) *lab.LoadResult {
	t.Helper()
	res, err := host.Load(t.Context(), server, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return res
}
