package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// writeConfig writes a configuration, or a list, to a file of the stage and returns its path.
func (s *stage) writeConfig(name string, lines ...string) string {
	s.t.Helper()
	path := filepath.Join(s.work, name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// sources returns where the options of each service are from, by name and destination.
func sources(object map[string]any) map[string]string {
	got := map[string]string{}
	for _, each := range object["services"].([]any) {
		one := each.(map[string]any)
		got[fmt.Sprintf("%s %s:%v", one["name"], one["destination"], one["port"])] = one["source"].(string)
	}
	return got
}

// sameSources compares the sources of services, given as NAME DESTINATION:PORT SOURCE.
func sameSources(t testing.TB, object map[string]any, want ...string) {
	t.Helper()
	got := sources(object)
	for _, w := range want {
		i := strings.LastIndex(w, " ")
		if got[w[:i]] != w[i+1:] {
			t.Errorf("%s: the source is %q", w, got[w[:i]])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %q", got, want)
	}
}

// TestConfig leads a host from file to file: what is in the file is protected, and nothing else.
func TestConfig(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			topo := newTopology(t)
			s := newStage(t, topo.Firewall)
			web := forward4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			mail := places[3].serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
			local := places[0].serve(t, topo, 22, lab.ServerConfig{Mode: lab.ServerFirst})
			before := dump(t, topo.Firewall)
			// connects makes connections, which are proxied or not.
			connects := func(name string, proxied ...netip.AddrPort) {
				t.Helper()
				for at, mode := range map[netip.AddrPort]lab.Mode{web: lab.ClientFirst, mail: lab.ServerFirst, local: lab.ServerFirst} {
					syns := number(t, s.good("status"), "counters", "syn_received")
					const rounds = 3
					if res := load(t, topo.Client, at, lab.LoadConfig{Connections: rounds, Mode: mode}); res.OK != rounds || res.Max() > 4*slow {
						t.Errorf("%s: %s: %v", name, at, res)
					}
					more := number(t, s.good("status"), "counters", "syn_received") - syns
					if want := slices.Contains(proxied, at); want != (more >= rounds) || !want && more != 0 {
						t.Errorf("%s: %s: the proxy answered %v SYNs; is it protected? %t", name, at, more, want)
					}
				}
			}
			s.writeConfig("list", "# web", web.String())
			services := []string{
				`  - {name: web, targets: "@list", options: {mss: 1400, wscale: 10, sack_perm: true, timestamps: true}}`,
				fmt.Sprintf(`  - {name: mail, destinations: "%s", ports: [25], first: server}`, mail.Addr()),
				fmt.Sprintf("  - {name: ssh, destinations: %s, ports: 22, interfaces: [%s]}", local.Addr(), "eth0"),
			}
			head := []string{"version: 1", "defaults: {backend: " + backend + "}", "services:"}
			file := s.writeConfig("config.yaml", append(head, services...)...)
			apply := func(more ...string) map[string]any {
				t.Helper()
				return s.good(append([]string{"apply", "-c", file}, more...)...)
			}
			done := apply()
			all := []string{"web " + web.String() + " config", fmt.Sprintf("mail %s:25 probed", mail.Addr()), "ssh " + local.String() + " probed"}
			sameSources(t, done, all...)
			if done["changed"] != true || done["backend"] != backend || done["verified"] != true {
				t.Errorf("%v", done)
			}
			connects("three", web, mail, local)

			protected := dump(t, topo.Firewall)
			if again := apply(); again["changed"] != false {
				t.Errorf("again: %v", again["changes"])
			}
			sameDump(t, protected, dump(t, topo.Firewall))
			sameSources(t, s.good("status"), all...)

			s.writeConfig("config.yaml", append(head, services[0], services[2])...)
			if fewer := apply(); fewer["changed"] != true {
				t.Error("a service was taken out, and nothing changed")
			}
			if rules := dump(t, topo.Firewall); strings.Contains(rules, mail.Addr().String()) {
				t.Errorf("the service that was taken out is still there:\n%s", rules)
			}
			connects("two", web, local)
			s.good("verify")

			s.good("revert", "--now")
			connects("none")
			if backend == backends[0] {
				sameDump(t, before, dump(t, topo.Firewall))
			}
		})
	}
}

// TestCached protects services whose servers are down, by what they answered before.
func TestCached(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	s := newStage(t, topo.Firewall)
	web := serve(t, topo.Server, lab.ServerConfig{Address: netip.AddrPortFrom(lab.ServerV4, 80), Mode: lab.ClientFirst})
	file := s.writeConfig("config.yaml", "version: 1", "services:", "  - {name: web, targets: '"+web.Address().String()+"'}")
	unknown := s.exits(honestNo, "apply", "-c", file, "--cached")
	s.names(bad{names: []string{"web (" + web.Address().String() + ")", "no answer"}}, fmt.Sprint(unknown["error"]))
	s.remember()
	s.untouched()

	probed := s.good("apply", "-c", file)
	sameSources(t, probed, "web "+web.Address().String()+" probed")
	s.good("revert", "--now")
	if err := web.Close(); err != nil {
		t.Fatal(err)
	}
	s.exits(honestNo, "apply", "-c", file) // refused

	cached := s.good("apply", "-c", file, "--cached")
	sameSources(t, cached, "web "+web.Address().String()+" cached")
	was, is := probed["services"].([]any)[0].(map[string]any), cached["services"].([]any)[0].(map[string]any)
	if fmt.Sprint(was["options"], was["first"]) != fmt.Sprint(is["options"], is["first"]) {
		t.Errorf("probed %v, cached %v", was, is)
	}
	if at, err := time.Parse(time.RFC3339, fmt.Sprint(is["probed_at"])); err != nil || time.Since(at) > time.Hour {
		t.Errorf("probed at %v: %v", is["probed_at"], err)
	}
	again := s.good("apply", "-c", file, "--cached")
	if again["changed"] != false {
		t.Errorf("again: %v", again["changes"])
	}
	// On the command line it is the same.
	sameSources(t, s.good("apply", web.Address().String(), "--max-age", "1h"), web.Address().String()+" "+web.Address().String()+" cached")
	if stdout, _, _ := s.synproxyctl("", "status"); !strings.Contains(stdout, "cached, ") || !strings.Contains(stdout, "s old") {
		t.Errorf("status does not tell the age:\n%s", stdout)
	}
	time.Sleep(2100 * time.Millisecond)
	s.remember()
	old := s.exits(honestNo, "apply", "-c", file, "--cached", "--max-age", "1s")
	s.names(bad{names: []string{"web", "s old"}}, fmt.Sprint(old["error"]))
	s.exits(honestNo, "apply", "-c", file, "--max-age", "1s") // asked anew, and refused
	other := s.exits(honestNo, "apply", web.Address().String(), "--cached", "--source", lab.FirewallV4.String())
	s.names(bad{names: []string{"no answer"}}, fmt.Sprint(other["error"])) // of another way
	s.untouched()

	serve(t, topo.Server, lab.ServerConfig{Address: web.Address(), Mode: lab.ClientFirst})
	sameSources(t, s.good("apply", "-c", file, "--max-age", "1s"), "web "+web.Address().String()+" probed")
	if res := load(t, topo.Client, web.Address(), lab.LoadConfig{Connections: 3, Mode: lab.ClientFirst}); res.OK != 3 {
		t.Errorf("%v", res)
	}
}

// TestCacheDamaged lets the cache be what it should not be: that is told, and the servers are asked.
func TestCacheDamaged(t *testing.T) {
	s, _ := newCLI(t)
	web := server + ":80"
	s.setup = `mkdir -p /var/lib/synproxyctl; mount --bind "$WORK/state" /var/lib/synproxyctl`
	dir := filepath.Join(s.work, "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "probes.json")
	fresh := func() {
		t.Helper()
		s.good("apply", web)
		s.good("revert", "--now")
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Fatalf("the cache: %v, %v", fi, err)
		}
	}
	for name, damage := range map[string]func() error{
		"not JSON":     func() error { return os.WriteFile(path, []byte("{"), 0o600) },
		"empty":        func() error { return os.Truncate(path, 0) },
		"half":         func() error { return os.Truncate(path, 100) },
		"other schema": func() error { return os.WriteFile(path, []byte(`{"schema":2,"answers":[]}`), 0o600) },
		"open":         func() error { return os.Chmod(path, 0o666) },
		"a link":       func() error { _ = os.Remove(path); return os.Symlink("/etc/passwd", path) },
		"a directory":  func() error { _ = os.Remove(path); return os.Mkdir(path, 0o700) },
		"another's":    func() error { return os.Chown(path, 12345, -1) },
	} {
		_ = os.RemoveAll(path)
		fresh()
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		fault := s.exits(honestNo, "apply", web, "--cached")
		s.names(bad{names: []string{web, "not used"}}, fmt.Sprint(fault["error"]))
		done := s.good("apply", web, "--max-age", "1h")
		sameSources(t, done, web+" "+web+" probed")
		if text := fmt.Sprint(done["findings"]); !strings.Contains(text, "cache-damaged") {
			t.Errorf("%s: no finding: %s", name, text)
		}
		s.good("revert", "--now")
		if name != "a directory" {
			sameSources(t, s.good("apply", web, "--cached", "--dry-run"), web+" "+web+" cached") // it has been replaced
		}
	}
}

// TestConfigBadInput gives files that cannot be used: nothing is touched, and the fault is named.
func TestConfigBadInput(t *testing.T) {
	s, _ := newCLI(t)
	web := server + ":80"
	good := s.writeConfig("good.yaml", "version: 1", "services: [{name: web, targets: '"+web+"', options: {mss: 1460, wscale: 7, sack_perm: true, timestamps: true}}]")
	s.good("apply", "-c", good)
	wrong := s.writeConfig("wrong.yaml", "version: 1", "services:", "  - name: web", "    destinations: "+server, "    ports: [80, 0]", "    options: {wscal: 7}")
	s.writeConfig("list", web, "nonsense")
	doubled := s.writeConfig("doubled.yaml", "version: 1", "services:", "  - {name: a, targets: '"+web+"'}", "  - {name: b, targets: '"+web+"', first: client}")
	open := s.writeConfig("open.yaml", "version: 1")
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	fits := func(text string) string { return "version: 1\nservices: [{targets: '" + web + "'" + text + "}]\n" }
	s.remember()
	for _, b := range []bad{
		{args: []string{"apply", "-c", wrong}, names: []string{wrong + ":5:17: port 0 is out of range", wrong + `:6:15: unknown key "wscal"`, `did you mean "wscale"?`}},
		{args: []string{"doctor", "-c", wrong}, names: []string{wrong + ":5:17"}},
		{args: []string{"apply", "-c", doubled}, names: []string{doubled + ":4:24", doubled + ":3:24", "another first", `"a"`}},
		{args: []string{"apply", "-c", s.writeConfig("includes.yaml", "version: 1", "include: list")}, names: []string{"list:2: target \"nonsense\": no port"}},
		{args: []string{"apply", "-c", filepath.Join(s.work, "nosuch")}, names: []string{"nosuch", "no such file"}},
		{args: []string{"apply", "-c", s.work}, names: []string{"is a directory"}},
		{args: []string{"apply", "-c", "/dev/null"}, names: []string{"/dev/null", "not a plain file"}},
		{args: []string{"apply", "-c", open}, names: []string{"everybody may write", "chmod o-w"}},
		{args: []string{"apply", "--config", "-"}, stdin: "version: 2\n", names: []string{"standard input:1:10: version 2"}},
		{args: []string{"apply", "-c", "-"}, names: []string{"standard input:1:1: the file is empty"}},
		{args: []string{"apply", "-c", "-"}, stdin: fits(", interfaces: [nosuch0]"), names: []string{"standard input:2:12", `"nosuch0" does not exist`}},
		{args: []string{"apply", "-c", "-"}, stdin: "defaults: {rate: 0}\n" + fits(""), names: []string{"standard input:1:18"}},
		{args: []string{"apply", "-c", "-"}, stdin: strings.Replace(fits(""), ":80", ":81", 1), exit: honestNo, names: []string{server + ":81", "refused"}},
		{args: []string{"apply", "-c", good, web}, names: []string{"-c", web, "exclude each other"}},
		{args: []string{"apply", web, "-c", good}, names: []string{"-c", web, "exclude each other"}},
		{args: line("apply -c " + good + " --mss 1460 --interface eth0 --first client"), names: []string{"--interface, --first, --mss", "exclude each other"}},
		{args: line("apply -c " + good + " --mss 3"), names: []string{"-c and --mss exclude"}},
		{args: line("apply " + good), names: []string{"good.yaml", "-c " + good}},
		{args: line("doctor @" + good), names: []string{"good.yaml", "-c " + good}},
		{args: line("apply -c " + s.writeConfig("targets", web, web)), names: []string{"targets:1:1", "list of targets", "@FILE"}},
		{args: line("apply --cached"), names: []string{"no target", "-c FILE"}},
		{args: line("doctor -c " + good + " --hook input"), names: []string{"--hook"}},
		{args: line("apply -c"), names: []string{"--config needs a value"}},
		{args: line("apply " + web + " --max-age 0s"), names: []string{"--max-age", "1s to 87600h"}},
		{args: line("apply " + web + " --max-age 5"), names: []string{"--max-age", "its unit"}},
		{args: line("verify -c " + good), names: []string{`"--c"`}},
		{args: line("config"), names: []string{"check, example, schema"}},
		{args: line("config chekc"), names: []string{`"chekc"`, "did you mean check?"}},
		{args: line("config check"), names: []string{"one FILE"}},
		{args: line("config example x"), names: []string{"no arguments"}},
	} {
		t.Run(b.name(), func(t *testing.T) {
			s.t = t
			if b.exit == 0 {
				b.exit = badUsage
			}
			s.text(b)
			s.json(b)
			s.sameFiles()
		})
	}
	s.t = t
	s.untouched()
}

// TestConfigCheck checks files without any right, and prints what helps to write one.
func TestConfigCheck(t *testing.T) {
	s, _ := newCLI(t)
	text, stderr, exit := s.synproxyctl("", "config", "example")
	if exit != 0 || stderr != "" {
		t.Fatal(exit, stderr)
	}
	stdout, stderr, exit := s.synproxyctl(text, "config", "check", "-")
	if exit != 0 || stdout != "ok: 5 services, 32 targets\n" {
		t.Errorf("check of the example: exit %d, %s%s", exit, stdout, stderr)
	}
	good := s.good("config", "check", s.writeConfig("example.yaml", text))
	if good["command"] != "config check" || good["ok"] != true || good["services"] != 5.0 || good["targets"] != 32.0 || len(good["findings"].([]any)) != 0 {
		t.Errorf("%v", good)
	}
	object := s.good("config", "schema")
	if schema, ok := object["json_schema"].(map[string]any); !ok || schema["$schema"] == nil {
		t.Errorf("%v", object)
	}
	wrong := s.writeConfig("wrong.yaml", "version: 1", "services:", "  - targets: "+server+":80", "    hook: inptu")
	fault := s.exits(badUsage, "config", "check", wrong)
	finding := fault["findings"].([]any)[0].(map[string]any)
	if fault["ok"] != false || finding["file"] != wrong || finding["line"] != 4.0 || finding["column"] != 11.0 || finding["code"] != "unknown-value" ||
		finding["severity"] != "error" || !strings.Contains(fmt.Sprint(finding["hint"]), `did you mean "input"?`) || fault["error"] == nil {
		t.Errorf("%v", fault)
	}
	if stdout, stderr, exit := s.synproxyctl("", "config", "check", wrong); exit != badUsage || stdout != "" || !strings.HasPrefix(stderr, "synproxyctl: "+wrong+":4:11: ") {
		t.Errorf("exit %d, %s%s", exit, stdout, stderr)
	}
}
