package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// An annex is what programs of others see of the file system: directories of their own in the place of the machine's,
// so that real firewalls keep their state there and nothing of the machine's is touched.
type annex struct {
	*stand
	dir    string
	mounts []string // shell commands, made anew for each program, whose mounts only it sees
}

func (s *stand) annex() *annex {
	s.Helper()
	a := &annex{stand: s, dir: s.TempDir()}
	a.mount("/run")
	// No program may load or unload modules of the kernel, which all share.
	for _, name := range []string{"modprobe", "rmmod"} {
		if path, err := exec.LookPath(name); err == nil {
			a.replace(path, "true")
		}
	}
	if s.backend == rules.Legacy {
		// "iptables" is, by way of links, a name of one program for all of nf_tables.
		a.replace(s.look("iptables"), "iptables-legacy")
	}
	return a
}

// look returns the path of a program without links.
func (s *stand) look(name string) string {
	s.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		s.Fatal(err)
	}
	return path
}

// mount shows a directory of our own as path.
func (a *annex) mount(path string) {
	a.Helper()
	dir := filepath.Join(a.dir, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		a.Fatal(err)
	}
	a.mounts = append(a.mounts, fmt.Sprintf("mount --bind %s %s", dir, path))
}

// replace shows one program in the place of another.
func (a *annex) replace(name, by string) {
	a.Helper()
	if a.look(name) != a.look(by) {
		a.mounts = append(a.mounts, fmt.Sprintf("mount --bind %s %s", a.look(by), a.look(name)))
	}
}

// write puts a file of the annex in place, by its path there. Names of the stand are filled in.
func (a *annex) write(path, text string) {
	a.Helper()
	path = filepath.Join(a.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		a.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(a.fill(text)), 0o600); err != nil {
		a.Fatal(err)
	}
}

// command prepares a program to run on the firewall in the annex.
func (a *annex) command(ctx context.Context, name string, args ...string) *lab.Command {
	script := strings.Join(a.mounts, "\n") + "\n" + `exec "$@"`
	return a.Firewall.Command(ctx, "unshare", slices.Concat([]string{"-m", "sh", "-euc", script, "sh", name}, args)...)
}

// run runs a program, which must succeed.
func (a *annex) run(name string, args ...string) {
	a.Helper()
	for i := range args {
		args[i] = a.fill(args[i])
	}
	ctx, cancel := context.WithTimeout(a.Context(), 20*time.Second)
	defer cancel()
	out, err := a.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		a.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// mended looks at what a change of others has left: either nothing of ours is broken, or verify says so and the same
// apply mends it. Then the friend is served, and the foe kept out if it is denied.
func (s *stand) mended(event string, denied bool) {
	s.Helper()
	stdout, stderr, exit := synproxyctl(s, s.Firewall, "verify", "--json")
	switch exit {
	case 0:
		s.Logf("%s: all stands", event)
	case 3:
		found := codes(oneObject(s, stdout))
		s.Logf("%s: verify says %s", event, strings.Join(slices.Compact(found), ", "))
		if done := s.apply(); done["verified"] != true {
			s.Errorf("%s: %v", event, done)
		}
	default:
		s.Fatalf("%s: verify: exit %d\n%s%s", event, exit, stdout, stderr)
	}
	s.served()
	if denied {
		s.keptOut()
	}
	if s.Failed() {
		s.Fatalf("%s: see above", event)
	}
}
