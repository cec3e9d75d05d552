package protect

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
)

// What one verification notes stays until another notes the same.
func TestVerifyLeavesANote(t *testing.T) {
	s := store{dir: t.TempDir(), id: "cookie-7"}
	if s.lastVerify() != nil {
		t.Fatal("a note before the first verification")
	}
	s.note(t.Context(), func(l *LastVerify) { l.LastProbe = &LastProbe{Differ: 1} })
	if s.lastVerify() != nil {
		t.Error("an answer of backends alone passes for a verification")
	}
	(&Verified{store: s, Findings: []Finding{{Severity: Warn, Code: codeBusy}}}).note(t.Context())
	if s.lastVerify() != nil {
		t.Error("a verification that compared nothing is noted")
	}
	v := &Verified{store: s, Findings: []Finding{{Severity: Bad}, {Severity: Bad}, {Severity: Info}}, probed: &LastProbe{Asked: 2, Differ: 1}}
	v.note(t.Context())
	(&Verified{store: s, OK: true, Proofs: []Proof{}, unproven: 3}).note(t.Context())
	(&Verified{store: s, OK: true}).note(t.Context())
	l := s.lastVerify()
	switch {
	case l == nil || time.Since(l.Time) > time.Minute:
		t.Fatalf("noted: %+v", l)
	case !l.OK || l.Findings != Graded{} || l.Probed || l.Live:
		t.Errorf("noted: %+v", l)
	case l.LastProbe == nil || l.LastProbe.Differ != 1 || l.LastLive == nil || l.LastLive.Unproven != 3:
		t.Errorf("what was noted before is lost: %+v %+v", l.LastProbe, l.LastLive)
	}
}

// A note that cannot be written, or that somebody else has written, hurts nobody.
func TestNotesAreNotNeeded(t *testing.T) {
	gone := store{dir: t.TempDir() + "/gone", id: "cookie-7"}
	(&Verified{store: gone}).note(t.Context())
	if _, err := os.Lstat(gone.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a verification makes a directory")
	}
	s := store{dir: t.TempDir(), id: "cookie-7"}
	for name, put := range map[string]func(path string) error{
		"damaged":         func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
		"of another form": func(path string) error { return os.WriteFile(path, []byte(`{"time":7,"last":[]}`), 0o600) },
		"writable for all": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("{}"), 0o600), os.Chmod(path, 0o666))
		},
		"a link":      func(path string) error { return os.Symlink("/dev/zero", path) },
		"a huge file": func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) },
	} {
		for _, path := range []string{s.verifiedPath(), s.countedPath()} {
			_ = os.Remove(path)
			if err := put(path); err != nil {
				t.Fatal(err)
			}
		}
		if l := s.lastVerify(); l != nil {
			t.Errorf("%s: believed: %+v", name, l)
		}
		(&Verified{store: s, OK: true}).note(t.Context())
		if l := s.lastVerify(); l == nil || !l.OK {
			t.Errorf("%s: not replaced", name)
		}
		got, err := s.countOn(t.Context(), func() (kernel.SynproxyStats, error) { return kernel.SynproxyStats{SYNReceived: 9}, nil })
		if err != nil || got.Total.SYNReceived != 9 {
			t.Errorf("%s: counted %+v, %v", name, got, err)
		}
	}
}

// Many at once count each SYN once, across a wrap.
func TestCountingOnTogether(t *testing.T) {
	s := store{dir: t.TempDir(), id: "cookie-7"}
	const begin, each, many = 0xfffffff0, 7, 40
	var kernelCounter atomic.Uint32
	kernelCounter.Store(begin)
	loaded := true
	read := func() (kernel.SynproxyStats, error) {
		if !loaded {
			return kernel.SynproxyStats{}, fs.ErrNotExist
		}
		return kernel.SynproxyStats{SYNReceived: uint64(kernelCounter.Add(each))}, nil
	}
	var wg sync.WaitGroup
	for range many {
		wg.Go(func() {
			if _, err := s.countOn(context.Background(), read); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	loaded = false
	got, err := s.countOn(t.Context(), read)
	if want := uint64(begin + each*many); err != nil || got.Total.SYNReceived != want {
		t.Errorf("counted %#x, want %#x; %v", got.Total.SYNReceived, want, err)
	}
}
