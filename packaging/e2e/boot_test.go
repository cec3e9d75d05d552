//go:build packages

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// network is a unit that brings the machine's network up, as networkd and its like do, and notes what there was before.
const network = `[Unit]
DefaultDependencies=no
Wants=network-pre.target
After=network-pre.target
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'nft -s list ruleset >/before-network; for i in eth0:1 eth1:2 eth2:3; do ip link set $${i%%:*} up; ip addr replace 10.77.$${i#*:}.1/24 dev $${i%%:*}; done'

[Install]
WantedBy=multi-user.target
`

// bootScript makes a machine of a root: it takes the root's directory, the console and a directory of cgroups.
const bootScript = `
root=$1 console=$2 group=$3
mkdir -p "$group" /run/cgroups
mount -t cgroup2 none /run/cgroups
mkdir "/run/cgroups/$group"
echo 0 >"/run/cgroups/$group/cgroup.procs"
exec unshare --cgroup --mount --uts --ipc --pid --fork --kill-child --mount-proc="$root/proc" sh -euc '
	cd "$1"
	mount -t sysfs -o ro sysfs sys
	mount -t cgroup2 none sys/fs/cgroup
	mount -t tmpfs -o mode=755 tmpfs run
	mount -t tmpfs -o mode=755 tmpfs dev
	for node in null zero full random urandom tty console; do : >dev/$node; done
	for node in null zero full random urandom tty; do mount --bind /dev/$node dev/$node; done
	mount --bind "$2" dev/console
	mkdir dev/pts dev/shm
	mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
	ln -s pts/ptmx dev/ptmx
	exec env -i container=lxc PATH=/usr/sbin:/usr/bin chroot . /lib/systemd/systemd --unit=multi-user.target --log-target=console
' sh "$root" "$console"
`

// boot starts systemd in the machine, and waits until it is up. The end of the test, or off, is a power failure.
func (m *machine) boot() (off func()) {
	m.t.Helper()
	for _, dir := range []string{"proc", "dev"} { // its own come
		_ = unix.Unmount(filepath.Join(m.root, dir), unix.MNT_DETACH)
	}
	console, said := newConsole(m.t)
	group := fmt.Sprintf("synproxyctl-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	cmd := m.host.Command(m.t.Context(), "unshare", "--mount", "sh", "-euc", bootScript, "boot", m.root, console, group)
	var complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &complaints, &complaints
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	off = func() {
		m.pid = 0
		_ = cmd.Close()
		// What systemd has made is in a directory that nobody needs any more.
		_ = exec.Command("unshare", "--mount", "sh", "-c",
			`mkdir -p /run/cgroups; mount -t cgroup2 none /run/cgroups; for n in 1 2 3 4 5 6 7 8 9 10; do find "/run/cgroups/$0" -depth -type d -exec rmdir {} + 2>/dev/null; [ -d "/run/cgroups/$0" ] || exit 0; sleep 0.2; done`, group).Run()
	}
	m.t.Cleanup(off)
	deadline := time.Now().Add(30 * time.Second)
	for {
		if m.pid = onlyChild(cmd.Process.Pid); m.pid > 0 {
			if out, _ := m.try("systemctl", "is-system-running"); strings.HasPrefix(out, "running") || strings.HasPrefix(out, "degraded") {
				return off
			}
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("systemd does not come up here:\n%s\n%s", complaints.String(), said())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// onlyChild returns the process that another has started; 0 if it has not.
func onlyChild(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	child, aerr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || aerr != nil {
		return 0
	}
	return child
}

// newConsole makes a terminal for a machine, and returns its path and what was written to it until now.
func newConsole(t *testing.T) (string, func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/pts/%d", number)
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0) // or the machine's first close would end it
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "console")
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = file.ReadFrom(master) }()
	t.Cleanup(func() { _ = slave.Close(); _ = master.Close(); _ = file.Close() })
	return path, func() string {
		text, _ := os.ReadFile(log)
		return string(text)
	}
}

// TestBoot boots the package's units by a real systemd: what was applied once is in force before the network is up,
// from the cache; stop drains, and a shutdown waits for nobody.
func TestBoot(t *testing.T) {
	topo := newTopology(t)
	m := newMachine(t, topo.Firewall)
	web := serve(t, topo)
	m.do("dpkg", "-i", m.put("one", "deb"))
	m.write("/etc/systemd/system/lab-network.service", network)
	m.write("/etc/sysctl.d/90-loose.conf", "net.netfilter.nf_conntrack_tcp_loose=1\n")
	m.do("systemctl", "enable", "--quiet", "lab-network.service")
	m.configure(web)
	before := m.kernel()

	// The first time: nothing is cached, and the network is there.
	off := m.boot()
	if m.kernel() != before {
		t.Error("a package that nobody has enabled protects something")
	}
	if done := m.ask("service", "install", "--now"); fmt.Sprint(done["written"], done["started"]) != "[] [synproxyctl.service synproxyctl-check.timer]" {
		t.Fatalf("service install: %v", done)
	}
	served(t, topo, web)
	if again := m.ask("service", "install", "--now"); again["changed"] != false {
		t.Errorf("again: %v", again)
	}
	if timers := m.do("systemctl", "list-timers", "--no-pager"); !strings.Contains(timers, "synproxyctl-check.timer") {
		t.Errorf("timers:\n%s", timers)
	}
	m.do("systemctl", "reload", "synproxyctl")

	// The power fails: rules, settings and addresses are gone.
	off()
	m.lose()
	if m.kernel() != before {
		t.Fatalf("the machine is not as before:\n%s", m.kernel())
	}

	// The boot.
	m.boot()
	if failed := m.do("systemctl", "--failed", "--no-legend", "--plain"); strings.Contains(failed, "synproxyctl") {
		t.Fatalf("failed: %s\n%s", failed, m.do("journalctl", "--no-pager", "-u", "synproxyctl"))
	}
	if rules := m.read("/before-network"); !strings.Contains(rules, "synproxy") {
		t.Errorf("the network came up before the rules:\n%s\n%s", rules, m.do("journalctl", "--no-pager", "-u", "synproxyctl"))
	}
	served(t, topo, web)
	status := m.ask("status")
	if s := fmt.Sprint(status["services"]); status["state"] != "active" || !strings.Contains(s, "cached") {
		t.Errorf("after the boot: %v", status)
	}
	if ok := m.ask("verify"); ok["ok"] != true { // the setting too: sysctl.d came before
		t.Errorf("verify: %v", ok)
	}
	if took := m.do("systemctl", "show", "synproxyctl", "--property=Result,ExecMainStatus"); !strings.Contains(took, "Result=success") {
		t.Error(took)
	}

	// A stop lets what is proxied live on, and waits for it.
	open := begin(t, topo, web)
	stopped := make(chan error, 1)
	go func() {
		_, err := m.try("systemctl", "stop", "synproxyctl")
		stopped <- err
	}()
	m.await("draining")
	open.say("while it drains\n")
	served(t, topo, web)
	open.end()
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	if s := m.ask("status"); s["state"] != "absent" {
		t.Errorf("after the stop: %v", s)
	}
	m.do("systemctl", "start", "synproxyctl")
	served(t, topo, web)

	m.watched()

	// A trial's guard outlives the session, as a unit of its own.
	m.do("synproxyctl", "apply", web.String(), "--first", "server", "--try", "1m")
	if units := m.do("systemctl", "list-units", "--no-legend", "--plain", "synproxyctl-try-*"); !strings.Contains(units, "running") {
		t.Errorf("the guard: %s", units)
	}
	m.do("synproxyctl", "confirm")

	// A shutdown neither drains nor waits, though a connection is open.
	open = begin(t, topo, web)
	begun := time.Now()
	_, _ = m.try("systemctl", "poweroff")
	for unix.Kill(m.pid, 0) == nil && time.Since(begun) < time.Minute {
		time.Sleep(20 * time.Millisecond)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the shutdown took %v", took)
	}
	open.say("the rules end with the kernel, not before\n")
}

// watched runs the timer's unit and the watcher, within their sandbox.
func (m *machine) watched() {
	m.t.Helper()
	m.do("systemctl", "start", "synproxyctl-check.service")
	m.do("systemctl", "start", "synproxyctl-watch.service")
	if s := m.do("systemctl", "show", "synproxyctl-watch", "--property=StatusText"); !strings.Contains(s, "active: 1 service") {
		m.t.Errorf("the watcher says %q", s)
	}
	if out, err := m.try("systemctl", "is-active", "synproxyctl-check.timer"); err == nil {
		m.t.Errorf("the timer runs beside the watcher: %s", out)
	}
	m.do("systemctl", "reload", "synproxyctl-watch")
	m.do("systemctl", "start", "synproxyctl-exporter.service")
	if text := m.do("bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/9961; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3`); !strings.Contains(text, `synproxyctl_state{state="active"} 1`) {
		m.t.Errorf("the exporter says:\n%s", text)
	}
	m.do("dpkg", "-i", m.put("two", "deb")) // a running watcher becomes the new version
	if s := m.ask("status"); s["state"] != "active" || m.do("systemctl", "is-active", "synproxyctl-watch") != "active\n" {
		m.t.Errorf("after an upgrade: %v", s)
	}
}

// lose takes away what a machine loses with its power.
func (m *machine) lose() {
	m.t.Helper()
	for _, dir := range []string{"proc", "dev"} {
		local(m.t, "mount", "--bind", "/"+dir, filepath.Join(m.root, dir))
	}
	m.do("sh", "-ec", `nft flush ruleset; rm -f /before-network
for i in eth0 eth1 eth2; do ip link set $i down; ip -4 addr flush dev $i; done`)
	if err := m.host.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "1"); err != nil {
		m.t.Fatal(err)
	}
}

// await waits for a state.
func (m *machine) await(state string) {
	m.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for m.ask("status")["state"] != state {
		if time.Now().After(deadline) {
			m.t.Fatalf("not %s: %v", state, m.ask("status"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}
