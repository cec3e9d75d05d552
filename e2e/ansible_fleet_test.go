//go:build ansible

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// A fleet is a controller and the hosts that Ansible manages from there by ssh, each with a TCP server to protect.
type fleet struct {
	t     *testing.T
	ctl   *lab.Host
	hosts []*managed
	dir   string // of the controller's files: keys, known hosts, ansible.cfg, inventory, collections
}

// managed is a host with a file system of its own: what is written there goes to memory.
type managed struct {
	*lab.Host
	t      *testing.T
	addr   netip.Addr
	up     string // what differs from the machine's file system
	sshd   int
	server *lab.Server
	before string // what could be changed, when it was new
}

// newFleet boots n hosts. All but the controller's own way leads over it, so that they are each other's neighbours.
func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	if ids, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.Contains(string(ids), "4294967295") {
		t.Fatalf("an ssh server needs more users than root: run this as root; %v", err)
	}
	l := world.NewLab()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fleet{t: t, dir: mustTempDir(t)}
	var err error
	if f.ctl, err = l.Host("ctl"); err != nil {
		t.Fatal(err)
	}
	if err := f.ctl.Forward(); err != nil {
		t.Fatal(err)
	}
	sshd := unpackedSSHD(t)
	run(t, f.ctl, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f.dir+"/id")
	for i := range n {
		f.hosts = append(f.hosts, f.boot(l, i+1, sshd))
	}
	f.configure()
	return f
}

// mustTempDir makes a directory with a short name: sockets lie in it.
func mustTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "a")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var copySSHD sync.Once

// unpackedSSHD returns the layer that brings an ssh server, empty if the machine has one.
func unpackedSSHD(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("sshd"); err == nil {
		t.Logf("the machine's own %s", path)
		return ""
	}
	const layer = "/run/sshd-layer" // the layers of an overlay must not lie within each other
	copySSHD.Do(func() {
		if out, err := exec.Command("cp", "-a", "../.cache/unpacked/sshd", layer).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	if _, err := os.Stat(layer); err != nil {
		t.Fatal("no sshd; hint: run scripts/setup ansible")
	}
	return layer + ":"
}

// boot makes host number i, with an ssh server and a server to protect.
func (f *fleet) boot(l *lab.Lab, i int, sshd string) *managed {
	t := f.t
	t.Helper()
	name := "h" + strconv.Itoa(i)
	host, err := l.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	m := &managed{Host: host, t: t, addr: netip.AddrFrom4([4]byte{10, 88, byte(i), 2}), up: f.dir + "/" + name + "/up"}
	gate := netip.AddrFrom4([4]byte{10, 88, byte(i), 1})
	near := lab.Port{Host: f.ctl, Name: name, Addresses: []netip.Prefix{netip.PrefixFrom(gate, 24)}}
	far := lab.Port{Host: host, Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(m.addr, 24)}}
	if err := errors.Join(l.Link(near, far, 0), host.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), gate)); err != nil {
		t.Fatal(err)
	}
	m.serve()
	m.startSSHD(f.dir, sshd)
	m.before = m.state()
	return m
}

func (m *managed) serve() {
	m.t.Helper()
	m.server = serve(m.t, m.Host, lab.ServerConfig{Address: m.web(), Mode: lab.ServerFirst})
}

func (m *managed) web() netip.AddrPort { return netip.AddrPortFrom(m.addr, 80) }

// theRoot makes a host's file system and starts its ssh server in it.
const theRoot = `
mount -t overlay host -o "lowerdir=$1/,upperdir=$2/up,workdir=$2/work" "$2/root"
for dir in proc dev sys; do mount --rbind "/$dir" "$2/root/$dir"; done
mount -t tmpfs -o mode=0755 run "$2/root/run"
mkdir -m 0755 "$2/root/run/sshd"
rm -rf "$2/root/etc/synproxyctl" "$2/root/var/lib/synproxyctl" # of the machine
exec chroot "$2/root" /usr/sbin/sshd -D -e -f /etc/ssh/lab
`

const sshdConfig = `HostKey /etc/ssh/lab_key
AuthorizedKeysFile /etc/ssh/lab_authorized
PasswordAuthentication no
UsePAM no
UseDNS no
PidFile none
Subsystem sftp internal-sftp
MaxStartups 100
`

func (m *managed) startSSHD(dir, layer string) {
	t := m.t
	t.Helper()
	for _, sub := range []string{"/up/etc/ssh", "/work", "/root"} {
		if err := os.MkdirAll(filepath.Dir(m.up)+sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, m.Host, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", m.up+"/etc/ssh/lab_key")
	key, err1 := os.ReadFile(dir + "/id.pub")
	users, err2 := os.ReadFile("/etc/passwd")
	if !bytes.Contains(users, []byte("\nsshd:")) {
		users = append(users, "sshd:x:74:65534::/run/sshd:/usr/sbin/nologin\n"...)
	}
	err3 := os.WriteFile(m.up+"/etc/ssh/lab_authorized", key, 0o600)
	err4 := os.WriteFile(m.up+"/etc/ssh/lab", []byte(sshdConfig), 0o600)
	err5 := os.WriteFile(m.up+"/etc/passwd", users, 0o644)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	cmd := m.Command(t.Context(), "sh", "-ec", theRoot, "sh", layer, filepath.Dir(m.up))
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	log := &bytes.Buffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.sshd = cmd.Process.Pid
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := m.Dial(t.Context(), netip.AddrPortFrom(m.addr, 22)); err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			_ = cmd.Close()
			t.Fatalf("%s has no ssh server: %s", m.Name(), log)
		}
	}
}

// configure writes what the controller needs: it trusts the hosts' keys and no others.
func (f *fleet) configure() {
	f.t.Helper()
	var known, inventory strings.Builder
	inventory.WriteString(inventoryHead)
	for _, m := range f.hosts {
		key, err := os.ReadFile(m.up + "/etc/ssh/lab_key.pub")
		if err != nil {
			f.t.Fatal(err)
		}
		fmt.Fprintf(&known, "%s %s", m.addr, key)
		fmt.Fprintf(&inventory, "    %s: {ansible_host: %s}\n", m.Name(), m.addr)
	}
	path, err := program()
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("known_hosts", known.String())
	f.write("inventory.yml", strings.ReplaceAll(inventory.String(), "BINARY", path))
	f.write("ansible.cfg", strings.ReplaceAll(ansibleConfig, "DIR", f.dir))
}

const inventoryHead = `synproxy:
  vars:
    ansible_user: root
    ansible_python_interpreter: /usr/bin/python3
    synproxy_binary: BINARY
    synproxy_prober_path: BINARY
    synproxy_try: 8
    synproxy_services:
      - name: web
        destinations: ["{{ ansible_host }}"]
        ports: [80]
        first: server
        options: "{{ web_options | default('probe') }}"
  hosts:
`

const ansibleConfig = `[defaults]
inventory = DIR/inventory.yml
collections_path = DIR/collections
collections_paths = DIR/collections
host_key_checking = True
forks = 8
timeout = 3
nocows = True
retry_files_enabled = False
[ssh_connection]
pipelining = True
control_path_dir = DIR/cp
ssh_args = -F /dev/null -o ControlMaster=auto -o ControlPersist=60s -o IdentitiesOnly=yes -o IdentityFile=DIR/id -o UserKnownHostsFile=DIR/known_hosts -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o ServerAliveInterval=2 -o ServerAliveCountMax=2
`

func (f *fleet) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// command prepares a program of Ansible on the controller.
func (f *fleet) command(ctx context.Context, name string, args ...string) *lab.Command {
	f.t.Helper()
	path, err := program()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := f.ctl.Command(ctx, name, args...)
	cmd.Env = []string{
		"PATH=" + filepath.Dir(path) + ":" + os.Getenv("PATH"), "HOME=" + f.dir, "LC_ALL=C.UTF-8", "ANSIBLE_NOCOLOR=1",
		"ANSIBLE_CONFIG=" + f.dir + "/ansible.cfg", "ANSIBLE_COLLECTIONS_PATH=" + f.dir + "/collections",
	}
	return cmd
}

// ansible runs a program of Ansible, which must succeed or not, as told.
func (f *fleet) ansible(good bool, name string, args ...string) string {
	f.t.Helper()
	begin := time.Now()
	out, err := f.command(f.t.Context(), name, args...).CombinedOutput()
	f.t.Logf("%s %s: %.1f s, %v", name, strings.Join(args, " "), time.Since(begin).Seconds(), err)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || (err == nil) != good {
		f.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A played is what came out of a playbook.
type played struct {
	text  string
	hosts map[string]map[string]int // by name and count, such as "changed"
}

var recap = regexp.MustCompile(`(?m)^(\S+) +: (ok=.*)$`)

// play runs a playbook of the installed collection.
func (f *fleet) play(good bool, book string, args ...string) played {
	f.t.Helper()
	p := played{text: f.ansible(good, "ansible-playbook", append([]string{book}, args...)...), hosts: map[string]map[string]int{}}
	for _, line := range recap.FindAllStringSubmatch(p.text, -1) {
		counts := map[string]int{}
		for _, field := range strings.Fields(line[2]) {
			name, value, _ := strings.Cut(field, "=")
			counts[name], _ = strconv.Atoi(value)
		}
		p.hosts[line[1]] = counts
	}
	return p
}

// inside runs a program within the host's own file system.
func (m *managed) inside(args ...string) (string, error) {
	pid := strconv.Itoa(m.sshd)
	return m.Run(m.t.Context(), "nsenter", slices.Concat([]string{"--target", pid, "--mount", "--root", "--wd=/", "--"}, args)...)
}

const installed = "/usr/local/sbin/synproxyctl"

func (m *managed) status() map[string]any {
	m.t.Helper()
	out, err := m.inside(installed, "status", "--json")
	if err != nil {
		m.t.Fatalf("%s: %v", m.Name(), err)
	}
	return oneObject(m.t, out)
}

// state is everything that may differ afterwards: rules and settings of the kernel, undo records and guards, and files.
func (m *managed) state() string {
	m.t.Helper()
	var b strings.Builder
	b.WriteString(inAnyOrder(dump(m.t, m.Host)))
	records, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/run/synproxyctl/*.json", m.sshd))
	if err != nil {
		m.t.Fatal(err)
	}
	fmt.Fprintf(&b, "== records %d, guards %d\n", len(records), len((&trier{t: m.t, fw: m.Host}).guards()))
	b.WriteString(m.files())
	return b.String()
}

// files lists what differs from the machine's file system, apart from the modules that Ansible has brought.
func (m *managed) files() string {
	m.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(m.up, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == m.up+"/root", path == m.up+"/run", path == m.up+"/tmp":
			return fs.SkipDir
		}
		if there, err := os.Lstat("/" + strings.TrimPrefix(path, m.up)); err == nil && there.IsDir() && d.IsDir() {
			return nil // something was in it for a moment
		}
		text, _ := os.ReadFile(path) // a directory has none
		if d.Name() == "probes.json" {
			text = nil // tells when
		}
		fmt.Fprintf(&b, "%s %s %x\n", strings.TrimPrefix(path, m.up), d.Type(), sha256.Sum256(text))
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return b.String()
}

// proxied makes connections from the controller and wants them served, through the proxy or not.
func (f *fleet) proxied(m *managed, want bool) {
	f.t.Helper()
	var before float64
	if want {
		before = number(f.t, m.status(), "counters", "cookie_valid")
	}
	allGood(f.t, f.ctl, m.web(), lab.LoadConfig{Connections: 5, Mode: lab.ServerFirst})
	if !want {
		return
	}
	if now := number(f.t, m.status(), "counters", "cookie_valid"); now-before != 5 {
		f.t.Errorf("%s: %v of 5 connections have passed the proxy", m.Name(), now-before)
	}
}
