package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestFolderFiles looks at the modes of what is written, whatever the umask, by root and by another user; and at what
// was there before with a mode that is too wide.
func TestFolderFiles(t *testing.T) {
	for _, w := range standings(t)[:2] {
		for _, umask := range []string{"0", "0777", "0027"} {
			t.Run(w.name+"-"+umask, func(t *testing.T) {
				s := newBadHost(t)
				s.take(w)
				dir := filepath.Join(s.run, "synproxyctl")
				if w.uid == 0 { // then it is made anew; another user cannot make it
					if err := os.Remove(dir); err != nil {
						t.Fatal(err)
					}
				} else if err := os.Chmod(dir, 0o755); err != nil { // as systemd's RuntimeDirectory has it
					t.Fatal(err)
				}
				s.prefix = slices.Concat([]string{"sh", "-c", "umask " + umask + `; exec "$@"`, "sh"}, s.prefix)
				s.does(0, applying(server+":80", "--backend", rules.NFT)...)
				s.does(0, applying(server+":81", "--backend", rules.NFT)...)
				entries, err := os.ReadDir(dir)
				if err != nil || len(entries) != 2 {
					t.Errorf("there are %v: %v", entries, err)
				}
				for name, want := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, filepath.Base(s.recordPath()): 0o600, strings.TrimSuffix(filepath.Base(s.recordPath()), "json") + "lock": 0o600} {
					if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || fi.Mode() != want {
						t.Errorf("%q has the mode %v, want %v: %v", name, fi.Mode(), want, err)
					}
				}
				s.does(0, "revert", "--now")
			})
		}
	}
}

// TestPlanted puts what could lead astray in the place of the folder, the record and the lock. Records of other kinds
// are in [TestBadInputRecord].
func TestPlanted(t *testing.T) {
	s := newBadHost(t)
	record := s.recordPath()
	dir, lock := filepath.Dir(record), strings.TrimSuffix(record, "json")+"lock"
	elsewhere := filepath.Join(s.work, "elsewhere")
	write := func(path string, mode fs.FileMode) error {
		return errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode))
	}
	id := strings.TrimSuffix(filepath.Base(record), ".json")
	valid := fmt.Appendf(nil, `{"schema":1,"namespace":%q,"backend":"iptables-nft"}`, id)
	changes := [][]string{applying(server + ":80"), line("revert"), line("confirm")}
	looks := [][]string{line("status"), line("verify")}
	for _, c := range []struct {
		what string
		make func() error
		args [][]string
		exit int
		says []string
	}{
		{"lock is a link", func() error { return os.Symlink(elsewhere, lock) }, changes, unsupported, []string{lock[len(s.run):], "plain file"}},
		{"lock is a link to a file", func() error {
			return errors.Join(write(filepath.Join(s.work, "file"), 0o600), os.Symlink(filepath.Join(s.work, "file"), lock))
		}, changes, unsupported, []string{"lock", "plain file"}},
		{"lock is a FIFO", func() error { return unix.Mkfifo(lock, 0o600) }, changes, unsupported, []string{"lock", "plain file"}},
		{"lock is a directory", func() error { return os.Mkdir(lock, 0o700) }, changes, unsupported, []string{"lock", "remove it"}},
		{"lock is open to all", func() error { return write(lock, 0o666) }, changes, unsupported, []string{"lock", "others may write"}},
		{"lock has another name", func() error {
			return errors.Join(write(lock, 0o600), os.Link(lock, lock+"2"))
		}, changes, unsupported, []string{"lock", "another name"}},
		{"record has another name", func() error {
			return errors.Join(os.WriteFile(record, valid, 0o600), os.Link(record, record+"2"))
		}, slices.Concat(changes, looks), unsupported, []string{"undo record", "another name"}},
		{"record is open to all", func() error {
			return errors.Join(os.WriteFile(record, valid, 0o600), os.Chmod(record, 0o622))
		}, slices.Concat(changes, looks), unsupported, []string{"undo record", "others may write"}},
		{"folder is open to all", func() error { return os.Chmod(dir, 0o777) }, slices.Concat(changes, looks), unsupported, []string{"/run/synproxyctl", "others may write"}},
		{"folder is a FIFO", func() error { return errors.Join(os.Remove(dir), unix.Mkfifo(dir, 0o600)) }, slices.Concat(changes, looks), failed, []string{"/run/synproxyctl", "not a directory"}},
		{"folder is a link to one with a record", func() error {
			return errors.Join(os.Remove(dir), os.Mkdir(elsewhere, 0o700), os.WriteFile(filepath.Join(elsewhere, id+".json"), valid, 0o600), os.Symlink(elsewhere, dir))
		}, slices.Concat(changes, looks), failed, []string{"/run/synproxyctl", "not a directory"}},
		{"lock is another's", func() error { return errors.Join(write(lock, 0o600), os.Chown(lock, stranger, -1)) }, changes, unsupported, []string{"lock", "somebody else"}},
		{"record is another's", func() error {
			return errors.Join(os.WriteFile(record, valid, 0o600), os.Chown(record, stranger, -1))
		}, slices.Concat(changes, looks), unsupported, []string{"undo record", "somebody else"}},
		{"folder is another's", func() error { return os.Chown(dir, stranger, -1) }, slices.Concat(changes, looks), unsupported, []string{"/run/synproxyctl", "somebody else"}},
	} {
		if strings.HasSuffix(c.what, "another's") && !mapped(t) {
			continue // this user namespace has no other user to own anything
		}
		t.Run(c.what, func(t *testing.T) {
			if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(elsewhere), os.Mkdir(dir, 0o700), c.make()); err != nil {
				t.Fatal(err)
			}
			s.t = t
			s.remember()
			for _, args := range c.args {
				start := time.Now()
				s.both(t, bad{args: args, exit: c.exit, names: c.says})
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("it waited for %v", took)
				}
			}
			if c.what == "lock is a link" {
				if _, err := os.Lstat(elsewhere); err == nil {
					t.Error("something was made behind the link")
				}
			}
		})
	}
}

// TestHostileCaller starts the program with limits, signals and a directory that are meant to make it stop halfway.
func TestHostileCaller(t *testing.T) {
	s := newBadHost(t)
	s.remember()
	gone := filepath.Join(s.run, "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		script string
		exit   int // -1: any but 0
	}{
		"no child is waited for":     {`trap "" CHLD; exec "$@"`, 0},
		"its directory is gone":      {`mkdir -p /run/gone; cd /run/gone; rmdir /run/gone; exec "$@"`, 0},
		"no file may grow":           {`ulimit -f 0; exec "$@"`, -1},
		"few descriptors":            {`ulimit -n 5; exec "$@"`, -1},
		"every signal is ignored":    {`trap "" HUP INT QUIT TERM PIPE USR1 USR2 ALRM; exec "$@"`, 0},
		"the descriptors are closed": {`exec 0<&- 3<&- 4<&- 5<&-; exec "$@"`, 0},
	} {
		t.Run(what, func(t *testing.T) {
			s.t = t
			s.prefix = []string{"bash", "-c", c.script, "bash"}
			_, stderr, exit := s.synproxyctl("", applying(server+":80", "--json")...)
			if exit != c.exit && (c.exit != -1 || exit == 0) {
				t.Errorf("exit %d: %s", exit, stderr)
			}
			s.prefix = nil
			if c.exit == 0 {
				s.does(0, "verify")
				s.does(0, "revert", "--now")
			}
			s.untouched()
		})
	}
}
