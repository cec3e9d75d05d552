//go:build ansible

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The playbooks of the collection.
const (
	rollout = "synproxyctl.synproxyctl.rollout"
	plain   = "synproxyctl.synproxyctl.plain"
)

// inOneGo lets a roll-out have no batches.
var inOneGo = serial(8)

// serial says how large the batches of a roll-out are.
func serial(sizes ...int) string {
	text, err := json.Marshal(map[string]any{"synproxy_serial": sizes})
	if err != nil {
		panic(err)
	}
	return "-e" + string(text)
}

// install builds the collection and installs what was built, as a user would.
func (f *fleet) install() {
	f.t.Helper()
	f.ansible(true, "ansible-galaxy", "collection", "build", "../ansible", "--output-path", f.dir)
	built, err := filepath.Glob(f.dir + "/synproxyctl-synproxyctl-*.tar.gz")
	if err != nil || len(built) != 1 {
		f.t.Fatalf("built %v, %v", built, err)
	}
	f.ansible(true, "ansible-galaxy", "collection", "install", "--offline", "-p", f.dir+"/collections", built[0])
	f.ansible(true, "ansible-playbook", "--syntax-check", rollout, plain)
}

// TestAnsible takes a fleet through a life with the role.
func TestAnsible(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 8)
	f.install()
	f.lint()
	predicted := f.changes("check", f.play(true, rollout, inOneGo, "--check", "--diff"), 3)
	for _, m := range f.hosts {
		sameDump(t, m.before, m.state())
	}
	done := f.changes("first run", f.play(true, rollout, serial(1, 7)), 3)
	if diff := cmp.Diff(predicted, done); diff != "" {
		t.Errorf("check mode did not predict what changes (-predicted +done):\n%s", diff)
	}
	stands := f.standing()
	for _, m := range f.hosts {
		f.proxied(m, true)
	}
	f.changes("second run", f.play(true, rollout, inOneGo), 0)
	for _, m := range f.hosts {
		sameDump(t, stands[m.Name()], m.state())
	}
	f.facts()
	f.brokenHost(stands)
	f.revert()
}

// changes returns how much each host has changed, and wants n of each, or at least one if n is positive.
func (f *fleet) changes(what string, p played, n int) map[string]int {
	f.t.Helper()
	got := map[string]int{}
	for name, counts := range p.hosts {
		got[name] = counts["changed"]
		if (n == 0) != (counts["changed"] == 0) {
			f.t.Errorf("%s: %s has changed %d things\n%s", what, name, counts["changed"], p.text)
		}
	}
	for _, m := range f.hosts {
		if _, ok := got[m.Name()]; !ok {
			f.t.Errorf("%s: %s is missing\n%s", what, m.Name(), p.text)
		}
	}
	return got
}

// standing wants every host protected for good, and returns their states.
func (f *fleet) standing() map[string]string {
	f.t.Helper()
	states := map[string]string{}
	for _, m := range f.hosts {
		if st := m.status(); st["state"] != "active" || st["pending"] != nil || len(st["findings"].([]any)) > 0 {
			f.t.Errorf("%s: %v", m.Name(), st)
		}
		states[m.Name()] = m.state()
	}
	return states
}

// lint wants the collection to be as strict readers want it.
func (f *fleet) lint() {
	f.t.Helper()
	cmd := f.command(f.t.Context(), "ansible-lint", "--offline", "--nocolor", "--profile", "production", "--strict")
	cmd.Dir = "../ansible"
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Passed") || !strings.Contains(string(out), ": 0 failure(s), 0 warning(s)") {
		f.t.Errorf("ansible-lint: %v\n%s", err, out)
	}
}

// facts asks for nothing but the facts.
func (f *fleet) facts() {
	f.t.Helper()
	f.write("facts.yml", `
- hosts: synproxy
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: synproxyctl.synproxyctl.synproxy, tasks_from: facts}
    - ansible.builtin.assert:
        that: [synproxy_status.state == 'active', synproxy_status.services | length == 1, synproxy_status.counters.cookie_valid >= 5]
`)
	f.changes("facts", f.play(true, f.dir+"/facts.yml"), 0)
}

// brokenHost changes all, but the server of the third host is gone: the roll-out stops there.
func (f *fleet) brokenHost(before map[string]string) {
	f.t.Helper()
	const options = `-e{"web_options": {"mss": 1400, "wscale": 7, "sack_perm": true, "timestamps": true}}`
	p := f.play(true, rollout, options, inOneGo, "--check", "--diff")
	f.changes("check of a change", p, 1)
	if n := strings.Count(p.text, "+ ipv4"); n != 8 || !strings.Contains(p.text, "mss 1400 wscale 7") {
		f.t.Errorf("--diff shows %d new rules, want one for each host:\n%s", n, p.text)
	}
	broken := f.hosts[2]
	if err := broken.server.Close(); err != nil {
		f.t.Fatal(err)
	}
	// A neighbour is the prober.
	p = f.play(false, rollout, options, serial(1, 3, 4), "-esynproxy_prober=h8", "-esynproxy_prober_path="+installed)
	if !strings.Contains(p.text, "no server stands behind it") && !strings.Contains(p.text, "connection refused") && !strings.Contains(p.text, "reset") {
		f.t.Errorf("the reason is not told:\n%s", p.text)
	}
	for i, m := range f.hosts {
		st := m.status()
		if st["pending"] != nil || st["state"] != "active" {
			f.t.Errorf("%s: %v", m.Name(), st)
		}
		changed := i < 4 && m != broken
		if mss := number(f.t, st["services"].([]any)[0].(map[string]any), "options", "mss"); (mss == 1400) != changed {
			f.t.Errorf("%s: mss %v", m.Name(), mss)
		}
		if !changed {
			sameDump(f.t, before[m.Name()], m.state())
		}
		if _, touched := p.hosts[m.Name()]; touched != (i < 4) {
			f.t.Errorf("%s was touched: %v\n%s", m.Name(), touched, p.text)
		}
		if m != broken {
			f.proxied(m, true)
		}
	}
	if c := p.hosts[broken.Name()]; c["failed"] != 1 {
		f.t.Errorf("%s: %v", broken.Name(), c)
	}
	broken.serve()
	f.proxied(broken, true)
}

// revert takes it all away again.
func (f *fleet) revert() {
	f.t.Helper()
	absent := []string{rollout, "-esynproxy_state=absent", inOneGo}
	stands := map[string]string{}
	for _, m := range f.hosts {
		stands[m.Name()] = m.state()
	}
	predicted := f.changes("check of a revert", f.play(true, absent[0], append(absent[1:], "--check", "--diff")...), 3)
	for _, m := range f.hosts {
		sameDump(f.t, stands[m.Name()], m.state())
	}
	done := f.changes("revert", f.play(true, absent[0], absent[1:]...), 3)
	if !maps.Equal(predicted, done) {
		f.t.Errorf("predicted %v, done %v", predicted, done)
	}
	for _, m := range f.hosts {
		sameDump(f.t, m.before, m.state())
		f.proxied(m, false)
	}
	f.changes("second revert", f.play(true, absent[0], absent[1:]...), 0)
	for _, m := range f.hosts {
		sameDump(f.t, m.before, m.state())
		if found, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/etc/synproxyctl", m.sshd)); err == nil {
			f.t.Errorf("%s: %v is left", m.Name(), found)
		}
	}
}
