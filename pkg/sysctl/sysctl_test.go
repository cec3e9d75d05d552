package sysctl

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	loose = "net.netfilter.nf_conntrack_tcp_loose"
	rmem  = "net.ipv4.tcp_rmem"
	vlan  = "net.ipv4.conf.eth0/100.rp_filter"
)

// tree makes a root directory that looks like /proc/sys for three keys.
func tree(t *testing.T) FS {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{
		"net/netfilter/nf_conntrack_tcp_loose": "1\n",
		"net/ipv4/tcp_rmem":                    "4096\t131072\t6291456\n",
		"net/ipv4/conf/eth0.100/rp_filter":     "2\n",
	} {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return FS(root)
}

func mustGet(t *testing.T, f FS, key string) string {
	t.Helper()
	value, err := f.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// as sets a key behind the back of the code under test.
func as(t *testing.T, f FS, key, value string) {
	t.Helper()
	if err := f.write(key, value); err != nil {
		t.Fatal(err)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	f := tree(t)
	for key, want := range map[string]string{loose: "1", rmem: "4096 131072 6291456", vlan: "2"} {
		if got := mustGet(t, f, key); got != want {
			t.Errorf("Get(%q) = %q, want %q", key, got, want)
		}
	}
	if _, err := f.Get("net.ipv4.absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of an absent key: %v, want fs.ErrNotExist", err)
	}
	if _, err := f.Get("net.ipv4"); !errors.Is(err, unix.EISDIR) {
		t.Errorf("Get of a directory: %v, want EISDIR", err)
	}
	if got := mustGet(t, "", "kernel.ostype"); got != "Linux" {
		t.Errorf("the zero FS reads kernel.ostype as %q", got)
	}
	if _, err := FS("/dev").Get("zero"); err == nil {
		t.Error("Get of an endless file ended without an error")
	}
}

func TestGetDoesNotFollowLinksOut(t *testing.T) {
	t.Parallel()
	f := tree(t)
	if err := os.Symlink("/proc/sys/kernel/ostype", filepath.Join(string(f), "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Get("link"); err == nil {
		t.Errorf("Get through a link out of the root = %q, want an error", got)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	f := tree(t)
	got, err := f.Plan([]Setting{
		{loose, "0"},
		{rmem, "4096 131072\t6291456"},
		{"net/ipv4/conf/eth0.100/rp_filter", " 1\n"},
		{vlan, "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Change{{loose, "1", "0"}, {"net/ipv4/conf/eth0.100/rp_filter", "2", "1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if now := mustGet(t, f, loose); now != "1" {
		t.Errorf("Plan wrote %q", now)
	}
}

func TestPlanReturnsEveryFault(t *testing.T) {
	t.Parallel()
	changes, err := tree(t).Plan([]Setting{{loose, "0"}, {loose, "1"}, {"net.absent", "1"}, {"..", "1"}})
	if changes != nil || !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrKey) {
		t.Fatalf("Plan = %v, %v", changes, err)
	}
	want := "sysctl " + loose + `: wanted as "0" and as "1"` + "\n" +
		"sysctl net.absent: open: no such file or directory\n" +
		`bad sysctl key "..": a part of it is empty`
	if err.Error() != want {
		t.Errorf("error:\n%s\nwant:\n%s", err, want)
	}
}

func TestChangeSurvivesJSON(t *testing.T) {
	t.Parallel()
	want := Change{rmem, "4096 131072 6291456", "4096 262144 33554432"}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const form = `{"key":"net.ipv4.tcp_rmem","before":"4096 131072 6291456","after":"4096 262144 33554432"}`
	if string(text) != form {
		t.Errorf("JSON is %s, want %s", text, form)
	}
	var got Change
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("back from JSON: %+v, %v", got, err)
	}
}

func TestReadOnlyMountIsPermission(t *testing.T) {
	t.Parallel()
	err := subject(loose, "open", &fs.PathError{Op: "openat", Path: "x", Err: unix.EROFS})
	if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, unix.EROFS) {
		t.Errorf("%v is not both fs.ErrPermission and EROFS", err)
	}
}
