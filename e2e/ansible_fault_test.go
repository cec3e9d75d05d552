//go:build ansible

package e2e

import (
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// invalidFirst drops what conntrack takes for invalid ahead of everything: the ACK by which a client of the proxy proves
// itself. Nobody who is not connected already gets in any more.
const invalidFirst = `table inet strict {
	chain prerouting {
		type filter hook prerouting priority -160; policy accept;
		ct state invalid drop
	}
}
`

// TestAnsibleFaults has hosts that lock themselves out, controllers that die, and people who err.
func TestAnsibleFaults(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	f.install()
	f.lockedOut()
	f.dies()
	f.mistakes()
	f.service()
	f.plain()
}

// lockedOut protects ssh, too, on a host whose own rules do not let the clients of a proxy in, although apply says so.
func (f *fleet) lockedOut() {
	f.t.Helper()
	m := f.hosts[0]
	runInput(f.t, m.Host, invalidFirst, "nft", "-f", "-")
	before := m.state()
	ssh := `{"synproxy_services": [{"name": "all", "destinations": ["{{ ansible_host }}"], "ports": [22, 80], "first": "server"}]`
	p := f.play(false, rollout, "-e"+ssh+`}`, serial(1))
	if !strings.Contains(p.text, "INVALID") || strings.Contains(p.text, "Apply it on trial") {
		f.t.Errorf("what stands in the way is not told before anything is done:\n%s", p.text)
	}
	p = f.play(false, rollout, "-e"+ssh+`, "synproxy_apply_args": ["--force"]}`, serial(1))
	if !strings.Contains(p.text, "The host has taken the change back by itself: nothing is") {
		f.t.Errorf("not told what became of it:\n%s", p.text)
	}
	if c := p.hosts[m.Name()]; c["failed"] != 1 || len(p.hosts) != 1 {
		f.t.Errorf("%v", p.hosts)
	}
	until(f.t, "no guard is left", func() bool { return len((&trier{t: f.t, fw: m.Host}).guards()) == 0 })
	after := m.state()
	// The program has been installed; its configuration has not.
	sameDump(f.t, withoutProgram(before), withoutProgram(after))
	if strings.Contains(after, "/etc/synproxyctl/config.yaml") {
		f.t.Error("a configuration that was taken back is written down")
	}
	for _, other := range f.hosts[1:] {
		sameDump(f.t, withoutProgram(other.before), withoutProgram(other.state()))
	}
	run(f.t, m.Host, "nft", "delete", "table", "inet", "strict")
}

// withoutProgram leaves the lines out that tell of a file, of the directory of the configuration, and of what backends have answered.
func withoutProgram(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, installed+" ") && !strings.HasPrefix(line, "/etc/synproxyctl ") && !strings.HasPrefix(line, "/var/lib/synproxyctl") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// dies kills the controller between apply and confirm; the host goes back, and the next run does it all.
func (f *fleet) dies() {
	f.t.Helper()
	m := f.hosts[0]
	before := m.state()
	cmd := f.command(f.t.Context(), "ansible-playbook", rollout, "--limit", m.Name())
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.soon("the change stands on trial", func() bool { return m.status()["pending"] != nil })
	if err := cmd.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.soon("it is taken back", func() bool { return m.status()["state"] == "absent" })
	until(f.t, "no guard is left", func() bool { return len((&trier{t: f.t, fw: m.Host}).guards()) == 0 })
	sameDump(f.t, before, m.state())
	f.play(true, rollout, "--limit", m.Name())
	f.proxied(m, true)
}

// soon is [until] for what Ansible does.
func (f *fleet) soon(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("never: %s", what)
		}
	}
}

// mistakes has a message for each. They are all made in one run, on one host by many names.
func (f *fleet) mistakes() {
	f.t.Helper()
	m := f.hosts[0]
	stands := m.state()
	foreign := f.foreignBinary()
	var inventory strings.Builder
	path, err := program()
	if err != nil {
		f.t.Fatal(err)
	}
	inventory.WriteString(strings.ReplaceAll(inventoryHead, "BINARY", path))
	mistakes := map[string]string{
		"value of synproxy_state must be one of":                 `{"synproxy_state": "gone"}`,
		"give either synproxy_services":                          `{"synproxy_services": []}`,
		"5 seconds or more for synproxy_try":                     `{"synproxy_try": 2}`,
		"standard input:8:5: port 0 is out of range":             `{"synproxy_services": [{"name": "x", "destinations": ["10.88.1.2"], "ports": [0]}]}`,
		"it is not there; hint: give synproxy_binary":            `{"synproxy_binary": "", "synproxy_path": "/usr/local/sbin/elsewhere"}`,
		"Exec format error":                                      `{"synproxy_binary": "` + foreign + `"}`,
		"could not find or access '/no/such/file'":               `{"synproxy_binary": "/no/such/file"}`,
		"at most one of synproxy_binary, synproxy_package":       `{"synproxy_package": "synproxyctl"}`,
		"x (10.88.1.2:81): the connection is refused":            `{"synproxy_services": [{"name": "x", "destinations": ["10.88.1.2"], "ports": [81]}]}`,
		"leave -c, --try, --dry-run, --json and --no-verify out": `{"synproxy_apply_args": ["--try", "1s"]}`,
	}
	wanted := slices.Sorted(maps.Keys(mistakes))
	for i, want := range wanted {
		fmt.Fprintf(&inventory, "    m%d: {ansible_host: %s, %s\n", i, m.addr, strings.TrimPrefix(mistakes[want], "{"))
	}
	f.write("mistakes.yml", inventory.String())
	// The play of the roll-out ends with the first that fails.
	f.write("each.yml", "- hosts: synproxy\n  gather_facts: false\n  roles: [synproxyctl.synproxyctl.synproxy]\n")
	p := f.play(false, f.dir+"/each.yml", "-i", f.dir+"/mistakes.yml")
	for i, want := range wanted {
		name := fmt.Sprintf("m%d", i)
		said := regexp.MustCompile(`(?m)^(fatal|failed): \[` + name + `\]: .*` + `(?i:` + regexp.QuoteMeta(want) + `)`)
		if c := p.hosts[name]; c["failed"] != 1 || !said.MatchString(p.text) {
			f.t.Errorf("%s: %v, does not say %q:\n%s", mistakes[want], c, want, p.text)
		}
	}
	sameDump(f.t, stands, m.state())
}

// service has the units enabled and disabled by a systemctl that finds no systemd to talk to, since it is in a chroot.
func (f *fleet) service() {
	f.t.Helper()
	m := f.hosts[2]
	before := m.state()
	on := []string{"--limit", m.Name(), `-e{"synproxy_service": true, "synproxy_service_check": "watch", "synproxy_service_now": false}`}
	p := f.play(false, rollout, on...)
	if !strings.Contains(p.text, "systemd does not run here; hint: ") {
		f.t.Errorf("does not say that there is no systemd:\n%s", p.text)
	}
	sameDump(f.t, withoutProgram(before), withoutProgram(m.state()))
	if _, err := m.inside("mkdir", "-p", "/run/systemd/system"); err != nil {
		f.t.Fatal(err)
	}
	changes := func(args ...string) int {
		return f.play(true, rollout, append(on, args...)...).hosts[m.Name()]["changed"]
	}
	enabled := func() string {
		out, _ := m.inside("systemctl", "is-enabled", "synproxyctl.service", "synproxyctl-watch.service", "synproxyctl-check.timer")
		return strings.Join(strings.Fields(out), " ")
	}
	foreseen := changes("--check")
	if got := changes(); got != foreseen || enabled() != "enabled enabled disabled" {
		f.t.Errorf("foresaw %d changes, made %d; units: %s", foreseen, got, enabled())
	}
	// The count says nothing: in a chroot, systemctl takes every unit for active, so that the timer is stopped each time.
	stands := m.state()
	changes()
	sameDump(f.t, stands, m.state())
	gone := "-esynproxy_state=absent"
	foreseen = changes(gone, "--check")
	if got := changes(gone); got != foreseen || strings.Contains(enabled(), "enabled") {
		f.t.Errorf("foresaw %d changes, made %d; units: %s", foreseen, got, enabled())
	}
	if left := m.files(); strings.Contains(left, "synproxyctl.service") || strings.Contains(left, "synproxyctl-") {
		f.t.Errorf("units are left:\n%s", left)
	}
}

// foreignBinary makes a program that is for another kind of machine.
func (f *fleet) foreignBinary() string {
	f.t.Helper()
	path, err := program()
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	text[18], text[19] = byte(elf.EM_S390), 0
	foreign := filepath.Join(f.dir, "foreign")
	if err := os.WriteFile(foreign, text, 0o755); err != nil {
		f.t.Fatal(err)
	}
	return foreign
}

// plain runs the play that does without the role.
func (f *fleet) plain() {
	f.t.Helper()
	m := f.hosts[1]
	f.write("plain.yaml", "version: 1\nservices:\n  - {name: web, destinations: ["+m.addr.String()+"], ports: [80], first: server}\n")
	args := []string{"--limit", m.Name(), "-econfig=" + f.dir + "/plain.yaml"}
	path, err := program()
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(fmt.Sprintf("/proc/%d/root%s", m.sshd, installed), text, 0o755)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	before := m.state()
	predicted := f.play(true, plain, append(args, "--check", "--diff")...).hosts[m.Name()]["changed"]
	sameDump(f.t, before, m.state())
	if predicted != 1 {
		f.t.Errorf("predicts %d changes", predicted)
	}
	f.play(true, plain, args...)
	f.proxied(m, true)
	stands := m.state()
	if n := f.play(true, plain, args...).hosts[m.Name()]["changed"]; n != 0 {
		f.t.Errorf("the second run has changed %d", n)
	}
	sameDump(f.t, stands, m.state())
}
