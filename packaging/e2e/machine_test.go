//go:build packages

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// machine is a host of the lab with a file system of its own.
type machine struct {
	t    *testing.T
	host *lab.Host
	root string
	// pid is that of its systemd, if it is booted.
	pid int
}

func newTopology(t *testing.T) *lab.Topology {
	t.Helper()
	topo, err := world.NewTopology()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = topo.Close() })
	return topo
}

func newMachine(t *testing.T, host *lab.Host) *machine {
	t.Helper()
	m := &machine{t: t, host: host, root: t.TempDir()}
	local(t, "mount", "-t", "tmpfs", "-o", "size=900m,mode=755", "tmpfs", m.root)
	t.Cleanup(func() { _ = exec.Command("umount", "-R", "-l", m.root).Run() })
	local(t, "tar", "-xf", os.Getenv(envRoot), "-C", m.root)
	for _, dir := range []string{"proc", "dev"} {
		local(t, "mount", "--bind", "/"+dir, filepath.Join(m.root, dir))
	}
	return m
}

func local(t *testing.T, words ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

// command prepares a command in the machine.
func (m *machine) command(words ...string) *lab.Command {
	enter := []string{"chroot", m.root}
	if m.pid > 0 {
		enter = []string{"nsenter", "-t", fmt.Sprint(m.pid), "--mount", "--pid", "--cgroup", "--uts", "--ipc", "-r", "-w"}
	}
	words = append(enter, words...)
	cmd := m.host.Command(m.t.Context(), words[0], words[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	return cmd
}

// try runs a command, and returns all that it said.
func (m *machine) try(words ...string) (string, error) {
	out, err := m.command(words...).CombinedOutput()
	return string(out), err
}

// do is [machine.try] of what must succeed.
func (m *machine) do(words ...string) string {
	m.t.Helper()
	out, err := m.try(words...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return out
}

// ask runs the program with --json.
func (m *machine) ask(words ...string) map[string]any {
	m.t.Helper()
	out := m.do(append([]string{"synproxyctl", "--json"}, words...)...)
	object := map[string]any{}
	if err := json.Unmarshal([]byte(out), &object); err != nil {
		m.t.Fatalf("%v: %v\n%s", words, err, out)
	}
	return object
}

// put copies a package into the machine and returns its path there.
func (m *machine) put(version, ext string) string {
	m.t.Helper()
	arch := map[string]string{"deb": "_" + runtime.GOARCH, "rpm": "." + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]}[ext]
	found, err := filepath.Glob(filepath.Join(os.Getenv(envBuild), version, "*"+arch+"."+ext))
	if err != nil || len(found) != 1 {
		m.t.Fatalf("%v, %v", found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		m.t.Fatal(err)
	}
	m.write("/"+version+"."+ext, string(text))
	return "/" + version + "." + ext
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	const mode = 0o644
	if err := os.WriteFile(filepath.Join(m.root, path), []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(path string) string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// files lists what there is, but for the package manager's own notes.
func (m *machine) files() string {
	m.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(m.root, func(path string, _ fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, m.root)
		switch {
		case err != nil:
			return err
		case name == "/proc", name == "/dev", name == "/var/lib/dpkg", name == "/var/lib/rpm", name == "/var/lib/systemd/deb-systemd-helper-enabled":
			return fs.SkipDir
		case strings.HasPrefix(name, "/var/log/"), name == "/run/xtables.lock":
			return nil
		}
		fmt.Fprintln(&b, name)
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return b.String()
}

// kernel tells what rules and settings there are.
func (m *machine) kernel() string {
	m.t.Helper()
	loose, err := m.host.Sysctl("net.netfilter.nf_conntrack_tcp_loose")
	if err != nil {
		m.t.Fatal(err)
	}
	return "loose " + loose + "\n" + m.do("nft", "-s", "list", "ruleset")
}

// protect writes a configuration of a server, and applies it.
func (m *machine) configure(at netip.AddrPort) string {
	text := "version: 1\nservices:\n  - {name: web, targets: '" + at.String() + "'}\n"
	m.write("/etc/synproxyctl/config.yaml", text)
	return text
}

func serve(t *testing.T, topo *lab.Topology) netip.AddrPort {
	t.Helper()
	srv, err := topo.Server.Serve(t.Context(), lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 80), Mode: lab.ClientFirst})
	if err != nil {
		t.Fatal(err)
	}
	return srv.Address()
}

// served makes connections, all of which must be.
func served(t *testing.T, topo *lab.Topology, at netip.AddrPort) {
	t.Helper()
	const n = 5
	res, err := topo.Client.Load(t.Context(), at, lab.LoadConfig{Connections: n, Mode: lab.ClientFirst})
	if err != nil || res.OK != n {
		t.Fatalf("%+v, %v", res, err)
	}
}

// talk is a connection that stays open.
type talk struct {
	t    *testing.T
	conn *net.TCPConn
}

func begin(t *testing.T, topo *lab.Topology, at netip.AddrPort) talk {
	t.Helper()
	conn, err := topo.Client.Dial(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	k := talk{t, conn}
	k.say("hello\n")
	return k
}

func (k talk) say(line string) {
	k.t.Helper()
	const patience = 10 * time.Second
	_ = k.conn.SetDeadline(time.Now().Add(patience)) // reading tells
	if _, err := io.WriteString(k.conn, line); err != nil {
		k.t.Fatalf("a connection that was open: %v", err)
	}
	answer := make([]byte, len(line))
	if _, err := io.ReadFull(k.conn, answer); err != nil || string(answer) != line {
		k.t.Fatalf("a connection that was open answers %q, %v", answer, err)
	}
}

func (k talk) end() {
	_ = k.conn.Close()
}
