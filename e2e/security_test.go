package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// stranger is a user who is not root, and about whom nothing else is known.
const stranger = 65534

// mapped tells whether this user namespace has the stranger. One that was made by an ordinary user has root alone.
func mapped(t testing.TB) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, count int
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			t.Fatal(err)
		}
		if inside <= stranger && stranger < inside+count {
			return true
		}
	}
	return false
}

// A standing is how the program comes by its rights.
type standing struct {
	name    string
	uid     int
	setpriv []string
	file    bool // the rights are those of the program's file
}

// twoCaps are the two capabilities that are needed, as setpriv names them.
const twoCaps = "-all,+net_admin,+net_raw"

// ordinary makes the program somebody without root's privileges: the stranger, in root's group, or where there is only
// root, a root that the kernel gives nothing (SECBIT_NOROOT).
func ordinary(t testing.TB) (uid int, setpriv []string) {
	t.Helper()
	if mapped(t) {
		return stranger, []string{"setpriv", "--reuid", strconv.Itoa(stranger), "--regid", "0", "--clear-groups"}
	}
	return 0, []string{"setpriv", "--securebits", "+noroot"}
}

func standings(t testing.TB) []standing {
	t.Helper()
	uid, somebody := ordinary(t)
	with := func(words ...string) []string { return slices.Concat(somebody, words) }
	return []standing{
		{"root", 0, withCapabilities("net_admin", "net_raw"), false},
		{"ambient", uid, with("--bounding-set", twoCaps, "--inh-caps", twoCaps, "--ambient-caps", twoCaps), false},
		{"file", uid, with("--bounding-set", twoCaps, "--inh-caps", "-all"), true},
	}
}

// take gives the stage's program a standing and a folder of its own. The lock of iptables-legacy is in there too, since
// that of root cannot be had.
func (s *stage) take(w standing) {
	s.t.Helper()
	path, err := program()
	if err != nil {
		s.t.Fatal(err)
	}
	folder, bin := filepath.Join(s.run, "synproxyctl"), filepath.Join(s.run, "bin")
	lock := filepath.Join(s.run, "xtables.lock")
	text, err := os.ReadFile(path)
	if err == nil {
		err = errors.Join(os.Mkdir(folder, 0o700), os.Mkdir(bin, 0o755), os.WriteFile(filepath.Join(bin, "synproxyctl"), text, 0o755),
			os.WriteFile(lock, nil, 0o600), os.Chown(folder, w.uid, -1), os.Chown(lock, w.uid, -1), os.Chmod(s.run, 0o755))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if w.file {
		grant(s.t, filepath.Join(bin, "synproxyctl"))
	}
	s.prefix = slices.Concat(w.setpriv, []string{"sh", "-c", `shift; exec env XTABLES_LOCKFILE=/run/xtables.lock /run/bin/synproxyctl "$@"`, "sh"})
}

// grant gives the two capabilities to a file, as "setcap cap_net_admin,cap_net_raw=ep" does.
func grant(t testing.TB, path string) {
	t.Helper()
	const revision2, effective = 0x02000000, 1
	data := binary.LittleEndian.AppendUint32(nil, revision2|effective)
	data = binary.LittleEndian.AppendUint32(data, 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW)
	data = append(data, make([]byte, 12)...) // none inheritable, none above 31
	if err := unix.Setxattr(path, "security.capability", data, 0); err != nil {
		t.Fatalf("%s: %v; hint: TMPDIR must be on a file system that takes capabilities", path, err)
	}
}

// does is [stage.exits] for what may say something to people too.
func (s *stage) does(want int, args ...string) map[string]any {
	s.t.Helper()
	stdout, stderr, exit := s.synproxyctl("", append(args, "--json")...)
	if exit != want {
		s.t.Fatalf("%v: exit %d, want %d: %s%s", args, exit, want, stdout, stderr)
	}
	return oneObject(s.t, stdout)
}

// TestTwoCapabilities goes through the life of a protection with CAP_NET_ADMIN and CAP_NET_RAW and no other right: as
// root, as an ordinary user, and by capabilities of the program's file; real connections say that it works.
func TestTwoCapabilities(t *testing.T) {
	t.Parallel()
	for i, w := range standings(t) {
		for b, backend := range backends {
			if !*full && b != i%len(backends) {
				continue // each with one of them
			}
			t.Run(w.name+"-"+backend, func(t *testing.T) {
				t.Parallel()
				topo := newTopology(t)
				web := forward4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
				other := forward4.serve(t, topo, 81, lab.ServerConfig{Mode: lab.ServerFirst})
				if backend == rules.Legacy {
					foreignRules(t, topo.Firewall) // its tables cannot be unmade
				}
				s := newStage(t, topo.Firewall)
				s.take(w)
				before := inAnyOrder(dump(t, s.host))
				life(t, s, topo, backend, web, other)
				sameDump(t, before, inAnyOrder(dump(t, s.host)))
				if text := s.listing(); text != "" {
					t.Errorf("left behind: %s", text)
				}
			})
		}
	}
}

func life(t *testing.T, s *stage, topo *lab.Topology, backend string, web, other netip.AddrPort) {
	t.Helper()
	passed := func() float64 { return number(t, s.does(0, "status"), "counters", "cookie_valid") }
	works := func(server netip.AddrPort, mode lab.Mode) {
		t.Helper()
		n := passed()
		allGood(t, topo.Client, server, lab.LoadConfig{Connections: 5, Mode: mode})
		if n = passed() - n; n != 5 {
			t.Errorf("%v connections of 5 to %s passed the proxy", n, server)
		}
	}
	s.does(0, "probe", web.String())
	s.does(0, "doctor", web.String())
	s.does(0, "apply", web.String(), "--backend", backend, "--warmup", "1s")
	works(web, lab.ClientFirst)
	s.does(0, "apply", web.String(), other.String(), "--backend", backend)
	works(other, lab.ServerFirst)
	s.does(0, "verify", "--probe")
	if found := s.does(honestNo, "verify", "--live"); !strings.Contains(fmt.Sprint(found["findings"]), "missing CAP_SYS_ADMIN") {
		t.Errorf("verify --live does not say what it lacks: %v", found["findings"])
	}
	if s.does(0, "apply", web.String(), "--backend", backend, "--try", "1s")["pending"] == nil {
		t.Error("no change is pending")
	}
	until(t, "the guard takes the change back", func() bool {
		st := s.does(0, "status")
		return st["pending"] == nil && len(st["services"].([]any)) == 2
	})
	works(other, lab.ServerFirst)
	s.does(0, "apply", web.String(), "--backend", backend, "--try", "1m")
	s.does(0, "confirm")
	works(web, lab.ClientFirst)
	talk := dialTalker(t, "proxied", topo.Client, web)
	done := make(chan string)
	revert := s.command("revert")
	go func() {
		out, err := revert.CombinedOutput()
		done <- fmt.Sprint(string(out), err)
	}()
	until(t, "the namespace drains", func() bool { return s.does(0, "status")["state"] == "draining" })
	alive(t, talk)
	talk.conn.Close()
	if out := <-done; !strings.Contains(out, "reverted") || !strings.Contains(out, "<nil>") {
		t.Errorf("revert: %s", out)
	}
}

// TestUserNamespace does it all again as the root of a user namespace that has no other user, as an ordinary user's
// containers are: it is not that some right outside of it helped.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	const mark = "SYNPROXYCTL_E2E_USERNS"
	if os.Getenv(mark) != "" {
		return // inside already
	}
	for _, name := range []string{"^TestTwoCapabilities$/(root|ambient)-iptables-nft", "^TestFolderFiles$", "^TestRightsPassedOn$"} {
		cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--", os.Args[0], "-test.run", name, "-test.v", "-test.timeout", "2m")
		cmd.Env = append(os.Environ(), mark+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "\n--- PASS: ") || strings.Contains(string(out), "SKIP") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestOneCapability has one of the two capabilities missing, of a user who is not root; that of root is in
// [TestBadInputRights]. What the group root may read, and nobody else, is asked for too.
func TestOneCapability(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	_, somebody := ordinary(t)
	web := server + ":80"
	have := func(set string) {
		s.prefix = slices.Concat(somebody, []string{"--bounding-set", set, "--inh-caps", set, "--ambient-caps", set},
			[]string{"sh", "-c", `shift; exec /run/bin/synproxyctl "$@"`, "sh"})
	}
	s.take(standings(t)[1])
	for set, missing := range map[string]string{"-all,+net_admin": "CAP_NET_RAW", "-all,+net_raw": "CAP_NET_ADMIN"} {
		have(set)
		for _, args := range [][]string{applying(web), line("status"), line("verify"), line("revert"), line("confirm")} {
			s.both(t, bad{args: args, exit: notPermitted, names: []string{missing}})
		}
	}
	if mapped(t) {
		run(t, s.host, "iptables-legacy", "-L") // so that there is something to be seen
		s.remember()
		have(twoCaps)
		i := slices.Index(s.prefix, "--regid")
		s.prefix[i+1] = strconv.Itoa(stranger)
		for _, args := range [][]string{applying(web), line("doctor " + web)} {
			s.both(t, bad{args: args, exit: notPermitted, names: []string{"ip_tables_names", "group root"}})
		}
	}
}

// TestRightsPassedOn looks at what a program gets that is started by one with more ambient capabilities than it needs,
// with a hostile environment, and with files open: the two capabilities, a scrubbed environment, no file of others.
func TestRightsPassedOn(t *testing.T) {
	s := newBadHost(t)
	s.take(standings(t)[1])
	_, somebody := ordinary(t)
	seen, hostile := filepath.Join(s.run, "seen"), filepath.Join(s.run, "hostile")
	for _, dir := range []string{seen, hostile} {
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"iptables-nft-save", "iptables-nft-restore", "iptables", "systemd-run", "sh", "cat"} {
		if err := os.WriteFile(filepath.Join(hostile, name), []byte("#!/bin/bash\n: >/run/hostile/was-run\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(hostile, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	report := `d=/run/seen/NAME; cat /proc/$$/environ >$d.environ; ls -l /proc/$$/fd >$d.fd; cat /proc/$$/status >$d.status; readlink /proc/$$/cwd >$d.cwd; exec REAL/NAME "$@"`
	scripts := map[string]string{}
	for _, name := range []string{"iptables-nft-save", "iptables-nft-restore"} {
		scripts[name] = strings.ReplaceAll(report, "NAME", name)
	}
	s.swap(nil, scripts)
	s.setup += "; cd /run/hostile"
	if err := errors.Join(os.Chmod(filepath.Dir(s.work), 0o755), os.Chmod(s.work, 0o755), os.Chmod(filepath.Join(s.work, "instead"), 0o755)); err != nil {
		t.Fatal(err)
	}
	scriptsReadable(t, s, scripts)
	more := twoCaps + ",+chown,+sys_ptrace"
	start := `shift; exec 5</etc/passwd 6>/run/seen/open 7</etc; export LD_LIBRARY_PATH=/run/hostile XTABLES_LIBDIR=/run/hostile IPTABLES_SAVE=x NFT_DEBUG=all ` +
		`PATH=/run/hostile:$PATH GODEBUG=http2debug=2 TMPDIR=/run/hostile HOME=/run/hostile BASH_ENV=/run/hostile/iptables ENV=/run/hostile/iptables XTABLES_LOCKFILE=/run/xtables.lock; ` +
		`exec /run/bin/synproxyctl "$@"`
	s.prefix = slices.Concat(somebody, []string{"--bounding-set", more, "--inh-caps", more, "--ambient-caps", more, "/bin/bash", "-c", start, "bash"})
	if stdout, stderr, exit := s.synproxyctl("", applying(server+":80", "--backend", rules.NFT, "--try", "1m")...); exit != 0 {
		t.Fatalf("exit %d: %s%s", exit, stdout, stderr)
	}
	for name := range scripts {
		one := process{name: name, dir: seen + "/" + name + "."}
		one.check(t, "/proc/self/fd/3", []string{"/xtables.lock"})
	}
	guard := guardOf(t, s)
	guard.check(t, "/run/xtables.lock", []string{"/cpu.cfs_quota_us", "/cpu.cfs_period_us", "/cpu.max"}) // Go's own, for GOMAXPROCS
	if fi, err := os.Stat(hostile); err != nil || !fi.ModTime().Equal(time.Unix(1, 0)) {
		t.Errorf("something was made in a directory of the environment's choice: %v", err)
	}
	s.does(0, "revert", "--now")
}

// scriptsReadable lets every user run the scripts that stand in the place of programs.
func scriptsReadable(t testing.TB, s *stage, scripts map[string]string) {
	t.Helper()
	for name := range scripts {
		if err := os.Chmod(filepath.Join(s.work, "instead", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// A process is what /proc told of a program that the product has started.
type process struct {
	name string
	dir  string // what comes before the names of the files
}

func (p process) read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(p.dir + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// check checks its environment, its files beside the standard streams and its capabilities.
func (p process) check(t testing.TB, lock string, files []string) {
	t.Helper()
	env := strings.Split(strings.TrimRight(p.read(t, "environ"), "\x00"), "\x00")
	slices.Sort(env)
	for i, want := range []string{"LC_ALL=C", "PATH=/usr/sbin:", "XTABLES_LOCKFILE=" + lock} {
		if len(env) != 3 || !strings.HasPrefix(env[i], want) || strings.Contains(env[i], "hostile") {
			t.Errorf("%s has the environment %q, want %s", p.name, env, want)
			break
		}
	}
	if cwd := strings.TrimSpace(p.read(t, "cwd")); cwd != "/" {
		t.Errorf("%s runs in %s", p.name, cwd)
	}
	status := p.read(t, "status")
	const two = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	for _, set := range []string{"CapPrm", "CapEff", "CapAmb"} {
		if want := fmt.Sprintf("%s:\t%016x\n", set, two); !strings.Contains(status, want) {
			t.Errorf("%s: want %s: %s", p.name, want, status)
		}
	}
	for line := range strings.Lines(p.read(t, "fd")) {
		_, target, ok := strings.Cut(strings.TrimSpace(line), " -> ")
		fd := line[:max(0, strings.LastIndex(line, " -> "))]
		fd = fd[strings.LastIndex(fd, " ")+1:]
		own := strings.HasSuffix(target, "/"+p.name) // the shell's own script
		allowed := slices.ContainsFunc(files, func(f string) bool { return strings.HasSuffix(target, f) })
		if ok && len(fd) == 1 && fd > "2" && !own && !allowed && !strings.HasPrefix(target, "anon_inode:") && target != "/dev/null" {
			t.Errorf("%s has descriptor %s: %s", p.name, fd, target)
		}
	}
}

// guardOf finds the process that waits to take a change back, and copies what /proc tells of it.
func guardOf(t testing.TB, s *stage) process {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.recordPath())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		line, _ := os.ReadFile(path) // it may have ended
		words := strings.Split(string(line), "\x00")
		if len(words) < 3 || words[1] != "guard" || !strings.Contains(string(text), strconv.Quote(words[2])) {
			continue
		}
		dir := filepath.Dir(path)
		p := process{"guard", filepath.Join(t.TempDir(), "guard.")}
		cwd, err := os.Readlink(dir + "/cwd")
		files, err2 := exec.CommandContext(t.Context(), "ls", "-l", dir+"/fd").Output()
		err = errors.Join(err, err2, os.WriteFile(p.dir+"cwd", []byte(cwd), 0o600), os.WriteFile(p.dir+"fd", files, 0o600))
		for _, name := range []string{"environ", "status"} {
			text, err2 := os.ReadFile(dir + "/" + name)
			err = errors.Join(err, err2, os.WriteFile(p.dir+name, text, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Fatal("there is no guard")
	return process{}
}

// TestLockFileOfIptables names files by the environment that root must not make, follow or wait for.
func TestLockFileOfIptables(t *testing.T) {
	s := newBadHost(t)
	run(t, s.host, "iptables-legacy", "-A", "INPUT", "-j", "ACCEPT")
	s.remember()
	if err := errors.Join(os.Symlink("target", filepath.Join(s.run, "link")), unix.Mkfifo(filepath.Join(s.run, "fifo"), 0o600),
		os.WriteFile(filepath.Join(s.run, "target"), nil, 0o600), os.WriteFile(filepath.Join(s.run, "open"), nil, 0o600),
		os.Chmod(filepath.Join(s.run, "open"), 0o666)); err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{
		"/run/missing": "must be there", "/run/link": "symbolic links", "/run/fifo": "plain file", "/run/open": "others may write", "/run": "plain file",
	} {
		s.prefix = []string{"env", "XTABLES_LOCKFILE=" + name}
		s.both(t, bad{args: applying(server+":80", "--backend", rules.Legacy), exit: failed, names: []string{"XTABLES_LOCKFILE", name, says}})
		if _, err := os.Stat(filepath.Join(s.run, "missing")); err == nil {
			t.Error("the file was made")
		}
	}
	s.prefix = []string{"env", "XTABLES_LOCKFILE=/run/target"}
	s.does(0, applying(server+":80", "--backend", rules.Legacy)...)
	s.does(0, "revert", "--now")
}
