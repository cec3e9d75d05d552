//go:build packages

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReproducible compares the bytes of what was built in two places, at two times, in two environments.
func TestReproducible(t *testing.T) {
	sums := func(dir string) string {
		text, err := os.ReadFile(filepath.Join(os.Getenv(envBuild), dir, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	one := sums("one")
	if n := strings.Count(one, "\n"); n != 6 {
		t.Errorf("%d files, want two binaries and four packages:\n%s", n, one)
	}
	if diff := cmp.Diff(one, sums("again")); diff != "" {
		t.Errorf("not the same bytes:\n%s", diff)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		path := filepath.Join(os.Getenv(envBuild), "one", "synproxyctl-0.8.0-linux-"+arch)
		if out := local(t, "go", "version", "-m", path); !strings.Contains(out, "CGO_ENABLED=0") || !strings.Contains(out, "GOARCH="+arch) || !strings.Contains(out, "-trimpath=true") {
			t.Errorf("%s is not static, or tells where it was built:\n%s", arch, out)
		}
	}
}

// manager is a package manager.
type manager struct {
	ext                      string
	install, upgrade, remove []string
	// leaves is what it leaves of an edited configuration, and directories that others own on a Red Hat.
	leaves []string
}

var managers = []manager{
	{"deb", []string{"dpkg", "-i"}, []string{"dpkg", "-i"}, []string{"dpkg", "--purge", "synproxyctl"}, nil},
	{"rpm", []string{"-i"}, []string{"-U"}, []string{"-e", "synproxyctl"}, []string{
		"/etc/synproxyctl", "/etc/synproxyctl/config.yaml.rpmsave",
		"/usr/share/fish", "/usr/share/fish/vendor_completions.d", "/usr/share/licenses", "/usr/share/zsh/site-functions",
	}},
}

// act runs the package manager: dpkg in the machine, rpm from outside, since this one has no rpm.
func (p manager) act(m *machine, words ...string) {
	m.t.Helper()
	if p.ext == "deb" {
		m.do(words...)
		return
	}
	words = append([]string{"rpm", "--root", m.root, "--nodeps", "--define", "_dbpath /var/lib/rpm"}, words...)
	for i, word := range words {
		if strings.HasSuffix(word, ".rpm") {
			words[i] = filepath.Join(m.root, word)
		}
	}
	if out, err := m.host.Command(m.t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil || len(out) > 0 && strings.Contains(string(out), "fail") {
		m.t.Fatalf("%v: %v\n%s", words, err, out)
	}
}

// TestPackages installs, protects, upgrades and purges: an installation begins nothing, an upgrade leaves the
// protection, its connections and the edited configuration alone, and afterwards all is as it was before.
func TestPackages(t *testing.T) {
	for _, p := range managers {
		t.Run(p.ext, func(t *testing.T) {
			topo := newTopology(t)
			m := newMachine(t, topo.Firewall)
			web := serve(t, topo)
			one, two := m.put("one", p.ext), m.put("two", p.ext)
			files, kernel := m.files(), m.kernel()

			p.act(m, append(p.install, one)...)
			if m.kernel() != kernel || strings.Contains(m.files(), "/run/synproxyctl") || strings.Contains(m.files(), "/etc/systemd/system/multi-user.target.wants/synproxyctl") {
				t.Error("an installation changes the kernel, or enables something")
			}
			for _, path := range []string{
				"/usr/share/man/man8/synproxyctl.8.gz", "/usr/share/man/man5/synproxyctl-config.5.gz", "/usr/share/bash-completion/completions/synproxyctl",
				"/usr/lib/systemd/system/synproxyctl.service", "/usr/lib/modules-load.d/synproxyctl.conf", "/usr/share/doc/synproxyctl/copyright",
			} {
				if _, err := os.Stat(filepath.Join(m.root, path)); err != nil {
					t.Error(err)
				}
			}
			v := m.ask("version")
			if v["version"] != "0.8.0" || v["commit"] != "0123456789abcdef0123456789abcdef01234567" || v["date"] != "2023-11-14T22:13:20Z" {
				t.Errorf("version: %v", v)
			}
			if out, err := m.try("synproxyctl", "apply", "-c", "/etc/synproxyctl/config.yaml"); err == nil || !strings.Contains(out, "nothing to protect") {
				t.Errorf("the configuration as it comes: %v, %s", err, out)
			}

			edited := m.configure(web)
			m.do("synproxyctl", "apply", "-c", "/etc/synproxyctl/config.yaml", "--warmup", "0s")
			served(t, topo, web)
			open := begin(t, topo, web)
			applied := m.kernel()

			p.act(m, append(p.upgrade, two)...)
			if v := m.ask("version"); v["version"] != "0.9.0-rc.1" {
				t.Errorf("after the upgrade: %v", v)
			}
			if diff := cmp.Diff(applied, m.kernel()); diff != "" {
				t.Errorf("an upgrade changes the kernel:\n%s", diff)
			}
			open.say("still there\n")
			served(t, topo, web)
			if text := m.read("/etc/synproxyctl/config.yaml"); text != edited {
				t.Errorf("the edited configuration is now:\n%s", text)
			}
			if ok := m.ask("verify"); ok["ok"] != true {
				t.Errorf("verify after the upgrade: %v", ok)
			}

			open.end()
			p.act(m, p.remove...)
			if diff := cmp.Diff(kernel, m.kernel()); diff != "" {
				t.Errorf("the kernel after the removal (-before +after):\n%s", diff)
			}
			left := m.files()
			for _, path := range p.leaves {
				if !strings.Contains(left, path+"\n") {
					t.Errorf("%s is gone", path)
				}
				left = strings.Replace(left, path+"\n", "", 1)
			}
			if diff := cmp.Diff(files, left); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
			served(t, topo, web)
		})
	}
}

// TestChroot installs and purges below the root of another system, on a host that is protected: its rules are not
// the business of that system.
func TestChroot(t *testing.T) {
	topo := newTopology(t)
	web := serve(t, topo)
	m, image := newMachine(t, topo.Firewall), newMachine(t, topo.Firewall)
	m.do("dpkg", "-i", m.put("one", "deb"))
	m.configure(web)
	m.do("synproxyctl", "apply", "-c", "/etc/synproxyctl/config.yaml", "--warmup", "0s")
	applied := m.kernel()
	for _, line := range []string{"-i " + filepath.Join(image.root, image.put("one", "deb")), "--purge synproxyctl"} {
		words := append([]string{"--root=" + image.root}, strings.Fields(line)...)
		if out, err := topo.Firewall.Command(t.Context(), "dpkg", words...).CombinedOutput(); err != nil {
			t.Fatalf("dpkg %v: %v\n%s", words, err, out)
		}
	}
	if diff := cmp.Diff(applied, m.kernel()); diff != "" {
		t.Errorf("the rules of the host:\n%s", diff)
	}
	// Without the rights to change rules, the package goes all the same, and says what is left.
	out, err := m.try("setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw", "dpkg", "--remove", "synproxyctl")
	if err != nil || !strings.Contains(out, "was not taken away") || !strings.Contains(out, "hint:") {
		t.Errorf("a removal without rights: %v\n%s", err, out)
	}
}

// TestUnits has systemd read the units, and judge them.
func TestUnits(t *testing.T) {
	topo := newTopology(t)
	m := newMachine(t, topo.Firewall)
	m.do("dpkg", "-i", m.put("one", "deb"))
	units := strings.Fields(m.do("sh", "-c", "cd /usr/lib/systemd/system && ls synproxyctl*"))
	if len(units) < 4 {
		t.Fatalf("units: %v", units)
	}
	if out := m.do(append([]string{"systemd-analyze", "verify", "--man=no"}, units...)...); out != "" {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	for _, unit := range units {
		if strings.HasSuffix(unit, ".service") {
			out, err := m.try("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", "/usr/lib/systemd/system/"+unit)
			if err != nil {
				t.Errorf("%s is exposed to more than 3.0: %v\n%s", unit, err, out)
			}
		}
	}
	// Nothing of a package is written again; what is different is, and goes again.
	files := m.files()
	install := func(words ...string) map[string]any {
		return m.ask(append([]string{"service", "install", "--root", "/"}, words...)...)
	}
	m.configure(serve(t, topo))
	dry := install("--dry-run")
	done := install()
	if fmt.Sprint(dry["written"], dry["enabled"]) != fmt.Sprint(done["written"], done["enabled"]) || fmt.Sprint(done["written"]) != "[]" || fmt.Sprint(done["enabled"]) != "[synproxyctl.service synproxyctl-check.timer]" {
		t.Errorf("announced %v, done %v", dry, done)
	}
	if again := install(); again["changed"] != false {
		t.Errorf("again: %v", again)
	}
	watch := install("--watch")
	if fmt.Sprint(watch["enabled"], watch["disabled"]) != "[synproxyctl-watch.service] [synproxyctl-check.timer]" {
		t.Errorf("--watch: %v", watch)
	}
	exported := install("--watch", "--exporter")
	if fmt.Sprint(exported["enabled"], exported["disabled"]) != "[synproxyctl-exporter.service] []" {
		t.Errorf("--exporter: %v", exported)
	}
	other := install("-c", "/root/own.yaml", "--check", "apply")
	if text := m.read("/etc/systemd/system/synproxyctl.service"); fmt.Sprint(other["written"]) == "[]" || !strings.Contains(text, "apply -c /root/own.yaml ") || !strings.Contains(text, "ProtectHome=read-only") {
		t.Errorf("%v:\n%s", other, text)
	}
	if text := m.read("/etc/systemd/system/synproxyctl-check.service"); strings.Contains(text, "report") {
		t.Errorf("--check apply:\n%s", text)
	}
	if out := m.do(append([]string{"systemd-analyze", "verify", "--man=no"}, units...)...); out != "" {
		t.Errorf("systemd-analyze verify of our own:\n%s", out)
	}
	m.ask("service", "remove", "--root", "/")
	if diff := cmp.Diff(files, m.files()); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
	if again := m.ask("service", "remove", "--root", "/"); again["changed"] != false {
		t.Errorf("removed again: %v", again)
	}
	// A file of somebody else is neither replaced nor removed.
	m.write("/etc/systemd/system/synproxyctl.service", "[Service]\nExecStart=/bin/true\n")
	if out, err := m.try("synproxyctl", "service", "install", "--root", "/"); err == nil || !strings.Contains(out, "not ours") {
		t.Errorf("a foreign unit: %v, %s", err, out)
	}
	m.ask("service", "remove", "--root", "/")
	if text := m.read("/etc/systemd/system/synproxyctl.service"); !strings.Contains(text, "/bin/true") {
		t.Errorf("the foreign unit is now:\n%s", text)
	}
	if out, err := m.try("synproxyctl", "service", "install"); err == nil || !strings.Contains(out, "systemd does not run here") {
		t.Errorf("without systemd: %v, %s", err, out)
	}
}
