package own

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string) error { return os.WriteFile(at(name), nil, 0o600) }
	err := errors.Join(
		write("plain"), write("group"), write("all"), write("twin"), os.Link(at("twin"), at("other")), os.Symlink("plain", at("link")), unix.Mkfifo(at("fifo"), 0o600),
		os.Mkdir(at("dir"), 0o700), os.Mkdir(at("open"), 0o700), os.Chmod(at("open"), 0o777), os.Chmod(at("group"), 0o620), os.Chmod(at("all"), 0o602), write("read"), os.Chmod(at("read"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"plain": "", "read": "", "dir": "", "group": "others may write", "all": "others may write", "open": "others may write",
		"twin": "another name", "link": "not a plain file", "fifo": "not a plain file",
	} {
		fi, err := os.Lstat(at(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(fi); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if fi, err := os.Stat("/proc/version"); err == nil && os.Geteuid() != 0 && Check(fi) == nil {
		t.Error("a file of root is taken for ours")
	}
}
