package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// A stage is a host, and a file system on which the program runs, with a /run of its own.
type stage struct {
	t      testing.TB
	host   *lab.Host
	run    string   // what is mounted on /run
	work   string   // for what the set-up needs; $WORK to it
	setup  string   // shell commands that change mounts, which only the program sees
	prefix []string // a program that runs the program, such as setpriv
	dump   string
	files  string
}

func newStage(t testing.TB, host *lab.Host) *stage {
	t.Helper()
	for _, name := range []string{"unshare", "mount", "setpriv"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v; hint: install util-linux", err)
		}
	}
	return &stage{t: t, host: host, run: t.TempDir(), work: t.TempDir()}
}

// synproxyctl runs the program on the stage.
func (s *stage) synproxyctl(stdin string, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	var out, errOut strings.Builder
	cmd := s.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// command prepares a run of the program on the stage.
func (s *stage) command(args ...string) *lab.Command {
	s.t.Helper()
	path, err := program()
	if err != nil {
		s.t.Fatal(err)
	}
	script := `mount --bind "$STAGE" /run; ` + s.setup + "\n" + `exec "$@"`
	words := slices.Concat([]string{"-m", "sh", "-euc", script, "sh"}, s.prefix, []string{path}, unhurried(args))
	const longest = 30 * time.Second
	ctx, cancel := context.WithTimeout(s.t.Context(), longest)
	s.t.Cleanup(cancel)
	cmd := s.host.Command(ctx, "unshare", words...)
	cmd.Env = append(os.Environ(), "STAGE="+s.run, "WORK="+s.work)
	return cmd
}

// remember notes how everything is before bad input.
func (s *stage) remember() {
	s.t.Helper()
	s.dump, s.files = dump(s.t, s.host), s.listing()
}

// untouched checks that neither the kernel nor the undo record has changed.
func (s *stage) untouched() {
	s.t.Helper()
	sameDump(s.t, s.dump, dump(s.t, s.host))
	s.sameFiles()
}

// sameFiles checks that the undo record has not changed, and that nothing came beside it.
func (s *stage) sameFiles() {
	s.t.Helper()
	if files := s.listing(); files != s.files {
		s.t.Errorf("/run/synproxyctl was:\n%s\nand is:\n%s", s.files, files)
	}
}

// listing shows every file in /run/synproxyctl with its content, except for a lock that is empty, and for notes, which
// those leave who only look.
func (s *stage) listing() string {
	s.t.Helper()
	var b strings.Builder
	dir := filepath.Join(s.run, "synproxyctl")
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		return fi.Mode().String()
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			fmt.Fprintf(&b, "%s: %v\n", e.Name(), e.Type())
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			s.t.Fatal(err)
		}
		if len(content) == 0 && emptyLock.MatchString(e.Name()) || note.MatchString(e.Name()) {
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", e.Name(), content)
	}
	return b.String()
}

var (
	emptyLock = regexp.MustCompile(`^(cookie|inode)-\d+(\.notes)?\.lock$`)
	note      = regexp.MustCompile(`^(cookie|inode)-\d+\.(verified|counted)$`)
)

// swap shows the program other programs than the host has: the scripts in the place of those of their names, and of
// those that match the patterns none. In a script, REAL is the directory of the real ones.
func (s *stage) swap(hidden []string, scripts map[string]string) {
	s.t.Helper()
	at, err := exec.LookPath("iptables-nft-save")
	if err != nil {
		s.t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(at))
	if err != nil {
		s.t.Fatal(err)
	}
	whole, instead := filepath.Join(s.work, "real"), filepath.Join(s.work, "instead")
	if err := errors.Join(os.RemoveAll(instead), os.MkdirAll(whole, 0o700), os.MkdirAll(instead, 0o700)); err != nil {
		s.t.Fatal(err)
	}
	// Read-only, so that nothing that goes wrong here can reach the real programs through a link.
	s.setup = fmt.Sprintf(`PATH="$PATH:%[2]s"; mount --bind %[1]s %[2]s; mount -o remount,bind,ro %[2]s; mount -t tmpfs tmpfs %[1]s; ln -s %[2]s/* %[1]s/; cd %[1]s; `, dir, whole)
	for name, script := range scripts {
		text := "#!/bin/sh\n" + strings.ReplaceAll(script, "REAL", whole) + "\n"
		if err := os.WriteFile(filepath.Join(instead, name), []byte(text), 0o700); err != nil {
			s.t.Fatal(err)
		}
		hidden = append(hidden, name)
	}
	if len(hidden) > 0 {
		s.setup += "rm -f " + strings.Join(hidden, " ") + "; "
	}
	if len(scripts) > 0 {
		s.setup += "cp --remove-destination " + instead + "/* .; "
	}
	s.setup += "cd /"
}

// recordPath returns where the undo record of the host is kept, as the test sees it; its lock is beside it.
func (s *stage) recordPath() string {
	s.t.Helper()
	var id string
	err := s.host.Do(func() (err error) {
		id, err = kernel.NetNSID()
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	dir := filepath.Join(s.run, "synproxyctl")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return filepath.Join(dir, id+".json")
}
