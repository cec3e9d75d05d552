package sysctl

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestApplyAndRestore(t *testing.T) {
	t.Parallel()
	f := tree(t)
	changes := []Change{{loose, "1", "0"}, {rmem, "4096 131072 6291456", "4096 262144 33554432"}, {vlan, "2", "1"}}
	done, err := f.Apply(changes)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(changes, done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
	for _, c := range changes {
		if now := mustGet(t, f, c.Key); now != c.After {
			t.Errorf("%s is %q after Apply, want %q", c.Key, now, c.After)
		}
	}
	as(t, f, rmem, "1 2 3")
	as(t, f, vlan, "2")
	got, err := f.Restore(changes)
	if err != nil {
		t.Fatal(err)
	}
	want := []Outcome{{changes[0], Restored, "1"}, {changes[1], Foreign, "1 2 3"}, {changes[2], Already, "2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if a, b := mustGet(t, f, loose), mustGet(t, f, rmem); a != "1" || b != "1 2 3" {
		t.Errorf("after Restore %s is %q and %s is %q", loose, a, rmem, b)
	}
}

func TestRestoreOfAKeyThatIsGone(t *testing.T) {
	t.Parallel()
	got, err := tree(t).Restore([]Change{{"net.ipv4.conf.gone.x", "0", "1"}})
	if err != nil || len(got) != 1 || got[0].State != Gone {
		t.Errorf("Restore = %+v, %v; want %q", got, err, Gone)
	}
}

func TestRestoreGoesOnAfterAFailure(t *testing.T) {
	t.Parallel()
	f := tree(t)
	as(t, f, loose, "0")
	got, err := f.Restore([]Change{{loose, "1", "0"}, {"net.ipv4", "0", "1"}})
	if !errors.Is(err, unix.EISDIR) {
		t.Errorf("error %v, want EISDIR", err)
	}
	if len(got) != 2 || got[0].State != Restored || got[1].State != Failed {
		t.Errorf("outcomes %+v", got)
	}
}

// TestRestoreBackwards needs two changes of one key: only in reverse order do
// they lead back to the first value.
func TestRestoreBackwards(t *testing.T) {
	t.Parallel()
	f := tree(t)
	changes := []Change{{loose, "1", "0"}, {loose, "0", "7"}}
	if _, err := f.Apply(changes); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Restore(changes); err != nil {
		t.Fatal(err)
	}
	if now := mustGet(t, f, loose); now != "1" {
		t.Errorf("%s is %q, want 1", loose, now)
	}
}

func TestApplyStopsAtAValueThatHasMoved(t *testing.T) {
	t.Parallel()
	f := tree(t)
	as(t, f, vlan, "0")
	done, err := f.Apply([]Change{{loose, "1", "0"}, {vlan, "2", "1"}, {rmem, "4096 131072 6291456", "1 2 3"}})
	var verr *ValueError
	if !errors.As(err, &verr) || verr.Key != vlan || verr.Want != "2" || verr.Got != "0" || verr.Written {
		t.Fatalf("error %v, want a ValueError of %s that nothing was written", err, vlan)
	}
	if len(done) != 1 || done[0].Key != loose {
		t.Errorf("done %+v, want only %s", done, loose)
	}
	if a, b := mustGet(t, f, vlan), mustGet(t, f, rmem); a != "0" || b != "4096 131072 6291456" {
		t.Errorf("Apply went on: %s is %q, %s is %q", vlan, a, rmem, b)
	}
}

// TestApplyReportsAValueThatDoesNotStick writes to /dev/null, the one file of
// every machine that takes a write and holds nothing of it.
func TestApplyReportsAValueThatDoesNotStick(t *testing.T) {
	t.Parallel()
	done, err := FS("/dev").Apply([]Change{{"null", "", "1"}})
	var verr *ValueError
	if !errors.As(err, &verr) || *verr != (ValueError{Key: "null", Want: "1", Written: true}) {
		t.Fatalf("error %v, want a ValueError", err)
	}
	if want := `sysctl null: wrote "1", but it reads ""`; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if len(done) != 0 {
		t.Errorf("done %+v, want none", done)
	}
}

func TestWriteThatIsRefused(t *testing.T) {
	t.Parallel()
	// The kernel refuses to write this one to everybody, root included.
	done, err := Default.Apply([]Change{{"kernel.ostype", "Linux", "Hurd"}})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "sysctl kernel.ostype: open: ") {
		t.Errorf("error %v, want fs.ErrPermission with the key", err)
	}
	if len(done) != 0 {
		t.Errorf("done %+v, want none", done)
	}
	if err := FS("/dev").write("full", "1"); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `write "1"`) {
		t.Errorf("write to a full device: %v, want ENOSPC with the value", err)
	}
	f := tree(t)
	if err := f.write("net.ipv4.absent", "1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write of an absent key: %v, want fs.ErrNotExist", err)
	}
	if _, err := os.Stat(filepath.Join(string(f), "net/ipv4/absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write made the file of an absent key: %v", err)
	}
}

func TestPutBack(t *testing.T) {
	t.Parallel()
	f := tree(t)
	as(t, f, loose, "3")
	if err := f.putBack(loose, "1"); err != nil {
		t.Fatal(err)
	}
	if now := mustGet(t, f, loose); now != "1" {
		t.Errorf("%s is %q, want 1", loose, now)
	}
	if err := f.putBack("net.absent", "1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("putBack that cannot write: %v, want its cause", err)
	}
}

func TestOutcomeAsJSON(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(Outcome{Change{loose, "1", "0"}, Foreign, "5"})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"key":"` + loose + `","before":"1","after":"0","state":"foreign","now":"5"}`
	if string(text) != want {
		t.Errorf("JSON is %s, want %s", text, want)
	}
}
