package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

const failed = 1

// both runs the command line for people and with --json, and checks that the stage stays as it is.
func (s *stage) both(t *testing.T, c bad) {
	t.Helper()
	t.Run(c.name(), func(t *testing.T) {
		outer := s.t
		defer func() { s.t = outer }()
		s.t = t
		s.text(c)
		s.json(c)
		s.untouched()
	})
}

// newBadHost is a stage of its own for a test of an environment that is not as it should be.
func newBadHost(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	topo := newTopology(t)
	forward4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	return newStage(t, topo.Firewall)
}

// withCapabilities drops all capabilities but the listed ones, as setpriv names them.
func withCapabilities(names ...string) []string {
	set := "-all"
	for _, name := range names {
		set += ",+" + name
	}
	return []string{"setpriv", "--bounding-set", set, "--inh-caps", "-all"}
}

func TestBadInputRights(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	web := server + ":80"
	for _, c := range []struct {
		have    []string
		missing []string
	}{
		{nil, line("CAP_NET_ADMIN CAP_NET_RAW")},
		{line("net_admin"), line("CAP_NET_RAW")},
		{line("net_raw"), line("CAP_NET_ADMIN")},
	} {
		s.prefix = withCapabilities(c.have...)
		for _, args := range [][]string{applying(web), line("apply --dry-run " + web), line("status"), line("verify"), line("revert --now")} {
			s.both(t, bad{args: args, exit: notPermitted, names: append(c.missing, "sudo")})
		}
		if !slices.Contains(c.have, "net_raw") {
			s.both(t, bad{args: line("probe " + web), exit: notPermitted, names: []string{"CAP_NET_RAW", "sudo"}})
		}
	}
	// Only what it needs is asked for.
	s.prefix = withCapabilities("net_raw")
	if stdout, stderr, code := s.synproxyctl("", "probe", web); code != 0 {
		t.Errorf("probe with CAP_NET_RAW: exit %d: %s%s", code, stdout, stderr)
	}
	list := filepath.Join(s.work, "list")
	if err := os.WriteFile(list, []byte(web), 0); err != nil {
		t.Fatal(err)
	}
	s.both(t, bad{args: line("probe @" + list), exit: badUsage, names: []string{list, "permission denied"}})
	s.both(t, bad{args: line("probe @" + list + "/below"), exit: badUsage, names: []string{list + "/below"}})
}

func TestBadInputPrograms(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	web := server + ":80"
	s.swap(line("*tables*"), nil)
	xtables := line("--backend iptables")
	for _, args := range [][]string{line("apply --first client " + web), applying(web, "--dry-run"), applying(web), line("doctor " + web)} {
		s.both(t, bad{args: append(args, xtables...), exit: unsupported, names: []string{"iptables", "install the package"}})
	}
	s.swap(line("iptables-legacy* ip6tables-legacy*"), nil)
	s.both(t, bad{args: applying(web, "--backend", "iptables-legacy"), exit: unsupported, names: []string{"iptables-legacy"}})
	s.swap(line("iptables-nft* ip6tables-nft*"), nil)
	s.both(t, bad{args: applying(web, "--backend", "iptables-nft"), exit: unsupported, names: []string{"iptables-nft"}})

	for what, c := range map[string]struct {
		program, script string
		names           []string
	}{
		"save fails":           {"iptables-nft-save", `echo boom >&2; exit 77`, line("iptables-nft-save boom")},
		"save fails, coloured": {"ip6tables-nft-save", `printf '\033[31mboom\n' >&2; exit 130`, line("ip6tables-nft-save boom")},
		"save says nothing":    {"iptables-nft-save", `exit 3`, line("iptables-nft-save 3")},
		"save is killed":       {"iptables-nft-save", `kill -9 $$`, line("iptables-nft-save killed")},
		"save writes garbage":  {"iptables-nft-save", `head -c 100000 /bin/sh`, line("iptables-nft-save")},
		"save stops halfway":   {"iptables-nft-save", `printf '*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j\n'`, line("iptables-nft-save")},
		"restore fails":        {"iptables-nft-restore", `echo boom >&2; exit 4`, line("iptables-nft-restore boom")},
		"restore does nothing": {"iptables-nft-restore", `cat >/dev/null`, []string{"does not hold what was written"}},
		"restore is killed":    {"iptables-nft-restore", `kill -9 $$`, line("iptables-nft-restore killed")},
		"raw is refused":       {"iptables-nft-restore", `text=$(cat); case "$text" in *'*raw'*) echo no raw >&2; exit 1;; esac; echo "$text" | REAL/iptables-nft-restore "$@"`, []string{"ipv4 raw", "no raw"}},
	} {
		t.Run(what, func(t *testing.T) {
			s.swap(nil, map[string]string{c.program: c.script})
			s.both(t, bad{args: applying(web, "--backend", "iptables-nft"), exit: failed, names: c.names})
		})
	}
}

// TestBadInputOneVariant takes one variant of iptables away: the other is used, or none. But rules that the host has in
// tables which nobody can read must not be taken for none.
func TestBadInputOneVariant(t *testing.T) {
	s := newBadHost(t)
	try := func(hidden, asked, backend string) {
		t.Helper()
		s.remember()
		s.swap(line(hidden), nil)
		stdout, stderr, code := s.synproxyctl("", applying(server+":80", "--json", "--backend", asked)...)
		if code != 0 || oneObject(t, stdout)["backend"] != backend {
			t.Errorf("without %s: exit %d: %s%s", hidden, code, stdout, stderr)
		}
		if stdout, stderr, code := s.synproxyctl("", "revert"); code != 0 {
			t.Errorf("revert without %s: exit %d: %s%s", hidden, code, stdout, stderr)
		}
		s.untouched()
	}
	const nft, legacy = "iptables-nft* ip6tables-nft*", "iptables-legacy* ip6tables-legacy*"
	try(legacy, "auto", "nftables")
	try(legacy, "iptables", "iptables-nft")
	foreignRules(t, s.host) // or else the tables of iptables-legacy would be new, and cannot be removed
	try(nft, "auto", "iptables-legacy")
	try(nft, "iptables", "iptables-legacy")
	s.remember()
	s.swap(line(legacy), nil)
	s.both(t, bad{args: applying(server + ":80"), exit: unsupported, names: []string{"tables are in use", "no program iptables-legacy-"}})
}

// TestRollbackFails lets the raw table fail, and then everything: a person must look, and find what is named.
func TestRollbackFails(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	s.swap(nil, map[string]string{"iptables-nft-restore": `[ -e REAL/../broken ] && { echo broken >&2; exit 4; }
text=$(cat); case "$text" in *'*raw'*) echo no raw >&2; touch REAL/../broken; exit 4;; esac
echo "$text" | REAL/iptables-nft-restore "$@"`})
	const rollbackFailed = 6
	s.text(bad{args: applying(server+":80", "--backend", "iptables-nft"), exit: rollbackFailed, names: []string{"no raw", "rollback failed", "rules of iptables-nft", "broken", "synproxyctl revert"}})
	if s.listing() == s.files {
		t.Error("the undo record is gone")
	}
	s.setup = ""
	if stdout, stderr, code := s.synproxyctl("", "revert"); code != 0 {
		t.Errorf("revert: exit %d: %s%s", code, stdout, stderr)
	}
	s.untouched()
}

func TestBadInputKernel(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	web := server + ":80"
	s.setup = "mount -t tmpfs tmpfs /proc/sys/net/netfilter"
	for _, args := range [][]string{applying(web), line("apply --dry-run " + web)} {
		s.both(t, bad{args: args, exit: unsupported, names: []string{"connection tracking", "modprobe nf_conntrack"}})
	}
	if stdout, stderr, code := s.synproxyctl("", "status", "--json"); code != 0 || oneObject(t, stdout)["state"] != "absent" {
		t.Errorf("status: exit %d: %s%s", code, stdout, stderr) // 0, whatever the state
	}
	s.setup = "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys"
	s.both(t, bad{args: applying(web), exit: notPermitted, names: []string{"net.netfilter.nf_conntrack_tcp_loose"}})
	s.setup = ""
	s.both(t, bad{args: applying("203.0.113.9:80"), exit: badUsage, names: []string{"203.0.113.9:80", "no route"}})
}

func TestBadInputRun(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	apply := applying(server + ":80")
	s.setup = "mount -o remount,bind,ro /run"
	s.both(t, bad{args: apply, exit: failed, names: []string{"/run/synproxyctl", "read-only"}})
	s.setup = "mount -t tmpfs -o size=16k tmpfs /run; head -c 1000000 /dev/zero >/run/fill 2>&- || :"
	s.both(t, bad{args: apply, exit: failed, names: []string{"undo record", "no space"}})

	dir := filepath.Join(s.run, "synproxyctl")
	remove := func() {
		t.Helper()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	s.setup = ""
	remove()
	if err := os.Symlink(s.work, dir); err != nil {
		t.Fatal(err)
	}
	s.remember()
	s.both(t, bad{args: apply, exit: failed, names: []string{"/run/synproxyctl", "not a directory"}})
	if entries, err := os.ReadDir(s.work); err != nil || len(entries) > 0 {
		t.Errorf("something was written behind the link: %v, %v", entries, err)
	}
	remove()
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.remember()
	s.both(t, bad{args: apply, exit: failed, names: []string{"/run/synproxyctl", "not a directory"}})
}

func TestBadInputRecord(t *testing.T) {
	s := newBadHost(t)
	path := s.recordPath()
	file := func(content string) func() error {
		return func() error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	for what, make := range map[string]func() error{
		"garbage":              file("\x00\xff garbage"),
		"empty":                file(""),
		"a list":               file("[]"),
		"of a later version":   file(`{"schema":99}`),
		"of another namespace": file(`{"schema":1,"namespace":"cookie-1"}`),
		"with a bad service":   file(`{"schema":1,"services":[{"destination":"127.0.0.1/32","port":0,"hook":"input"}]}`),
		"a link": func() error { // to what would do, were it not a link
			other := filepath.Join(s.work, "record")
			id := strings.TrimSuffix(filepath.Base(path), ".json")
			content := fmt.Sprintf(`{"schema":1,"namespace":%q,"backend":"iptables-nft"}`, id)
			return errors.Join(os.WriteFile(other, []byte(content), 0o600), os.Symlink(other, path))
		},
		"a FIFO":      func() error { return unix.Mkfifo(path, 0o600) },
		"a directory": func() error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(what, func(t *testing.T) {
			if err := errors.Join(os.RemoveAll(path), make()); err != nil {
				t.Fatal(err)
			}
			s.t = t
			s.remember()
			for _, args := range [][]string{applying(server + ":80"), line("status"), line("verify"), line("revert")} {
				s.both(t, bad{args: args, exit: unsupported, names: []string{"undo record", filepath.Base(path), "remove it"}})
			}
		})
	}
}

func TestBadInputLock(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	lock := flock.New(strings.TrimSuffix(s.recordPath(), ".json")+".lock", flock.SetPermissions(0o600))
	if ok, err := lock.TryLock(); !ok {
		t.Fatal("the lock is held:", err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	for _, wait := range []time.Duration{0, 300 * time.Millisecond} {
		for _, args := range [][]string{applying(server + ":80"), line("revert")} {
			start := time.Now()
			s.both(t, bad{args: append(args, "--lock-timeout", wait.String()), exit: unsupported, names: []string{"another instance", wait.String(), "--lock-timeout"}})
			if took := time.Since(start); took < 2*wait || took > 2*wait+8*time.Second {
				t.Errorf("two waits of %v took %v", wait, took)
			}
		}
	}
	// Those that change nothing do not wait.
	for _, args := range [][]string{line("status"), applying(server+":80", "--dry-run"), line("probe " + server + ":80")} {
		if stdout, stderr, code := s.synproxyctl("", args...); code != 0 {
			t.Errorf("%v: exit %d: %s%s", args, code, stdout, stderr)
		}
	}
	s.untouched()
}

func TestBadInputNames(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	for name, content := range map[string]string{"nsswitch": "hosts: files\n", "dns": "hosts: dns\n", "resolv": "nameserver " + server + "\noptions timeout:1 attempts:1\n"} {
		if err := os.WriteFile(filepath.Join(s.work, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.setup = `mount --bind "$WORK/nsswitch" /etc/nsswitch.conf`
	for _, verb := range []string{"probe", "apply"} {
		s.both(t, bad{args: []string{verb, "nosuch.invalid:80"}, exit: badUsage, names: []string{"nosuch.invalid:80", "the name has no address"}})
	}
	// A name server that does not answer may do so next time.
	s.setup = `mount --bind "$WORK/dns" /etc/nsswitch.conf; mount --bind "$WORK/resolv" /etc/resolv.conf`
	s.both(t, bad{args: applying("nosuch.invalid:80"), exit: failed, names: []string{"nosuch.invalid:80", "cannot resolve"}})
}

// TestBadInputStreams takes standard output and input away.
func TestBadInputStreams(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	s.prefix = []string{"sh", "-c", `exec "$@" >/dev/full`, "sh"}
	for _, args := range [][]string{
		line("--help"), line("status"), line("status --json"), line("probe --json " + server + ":80"), applying("--dry-run", server+":80"),
	} {
		stdout, stderr, exit := s.synproxyctl("", args...)
		if exit != failed || stdout != "" || !strings.Contains(stderr, "standard output: ") || !strings.Contains(stderr, "no space left") || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("%v on a full standard output: exit %d, %q", args, exit, stderr)
		}
	}
	// An error of the command's own is not lost, nor its exit status.
	if _, stderr, exit := s.synproxyctl("", line("frobnicate --json")...); exit != badUsage || !strings.Contains(stderr, `"frobnicate"`) || !strings.Contains(stderr, "no space left") {
		t.Errorf("bad usage on a full standard output: exit %d, %q", exit, stderr)
	}
	s.untouched()
	s.prefix = []string{"sh", "-c", `exec "$@" <&-`, "sh"}
	s.both(t, bad{args: applying("-"), exit: badUsage, names: []string{"standard input", "no target"}})
	// The Go runtime opens /dev/null in the place of a standard output that is closed: what is written goes nowhere,
	// above all not into a file of ours that got its number.
	s.prefix = []string{"sh", "-c", `exec "$@" >&- 2>&- <&-`, "sh"}
	for _, args := range [][]string{applying(server+":80", "--json"), line("status"), line("revert --json")} {
		if stdout, stderr, exit := s.synproxyctl("", args...); exit != 0 || stdout != "" || stderr != "" {
			t.Errorf("%v without standard streams: exit %d, %q, %q", args, exit, stdout, stderr)
		}
	}
	s.untouched()
}
