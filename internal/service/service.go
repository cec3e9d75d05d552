package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

var (
	// ErrPath reports a path that cannot stand in a unit.
	ErrPath = errors.New("not a path for a unit: absolute, without blanks, quotes, % or $")
	// ErrForeign reports a file of somebody else in the place of ours.
	ErrForeign = errors.New("is not ours")
	// ErrNoSystemd reports a host that systemd does not manage.
	ErrNoSystemd = errors.New("systemd does not run here")
)

// System is a root directory and its systemd.
type System struct {
	// Root is the directory; empty: that of this host, whose systemd must run.
	Root string
	// DryRun has everything told and nothing done.
	DryRun bool
}

// Done is what was changed, or would be.
type Done struct {
	Changed  bool     `json:"changed"`
	DryRun   bool     `json:"dry_run"`
	Written  []string `json:"written"`
	Removed  []string `json:"removed"`
	Enabled  []string `json:"enabled"`
	Disabled []string `json:"disabled"`
	Started  []string `json:"started"`
}

func (s System) begin() (*Done, error) {
	if s.Root == "" {
		if fi, err := os.Stat("/run/systemd/system"); err != nil || !fi.IsDir() {
			return nil, ErrNoSystemd
		}
	}
	return &Done{DryRun: s.DryRun, Written: []string{}, Removed: []string{}, Enabled: []string{}, Disabled: []string{}, Started: []string{}}, nil
}

func (s System) at(path string) string { return filepath.Join("/", s.Root, path) }

// Install writes the units that no package has written already, enables the
// wanted ones and disables the others of ours. With now they are started too.
// Again, it changes nothing.
func (s System) Install(ctx context.Context, w Wish, wanted []string, now bool) (*Done, error) {
	d, err := s.begin()
	if err != nil {
		return nil, err
	}
	list, err := w.files()
	if err != nil {
		return nil, err
	}
	// Whoever is in the way is seen before anything is written.
	have := make([]string, len(list))
	for i, f := range list {
		if have[i], err = s.own(f.path); err != nil {
			return nil, err
		}
	}
	for i, f := range list {
		want := mark + f.text
		if s.packaged(f) {
			want = ""
		}
		if err := s.write(d, f.path, have[i], want); err != nil {
			return d, err
		}
	}
	if err := s.reload(ctx, d); err != nil {
		return d, err
	}
	for _, unit := range []string{Boot, Check, Watch, Exporter} {
		on := false
		for _, one := range wanted {
			on = on || one == unit
		}
		if err := s.enable(ctx, d, unit, on); err != nil {
			return d, err
		}
		if err := s.run(ctx, d, unit, on, now); err != nil {
			return d, err
		}
	}
	return d, nil
}

// Remove disables the units and removes what Install has written. What is
// protected stays so, unless revert is set.
func (s System) Remove(ctx context.Context, revert bool) (*Done, error) {
	d, err := s.begin()
	if err != nil {
		return nil, err
	}
	list, err := Wish{Program: Program, Config: Config}.files()
	if err != nil {
		return nil, err
	}
	for _, unit := range []string{Socket, Exporter, Watch, Check, Boot} {
		if err := s.enable(ctx, d, unit, false); err != nil {
			return d, err
		}
		if s.Root == "" && !s.DryRun && (unit != Boot || revert) {
			if err := s.systemctl(ctx, "stop", unit); err != nil && s.active(ctx, unit) {
				return d, err
			}
		}
	}
	for _, f := range list {
		have, err := s.own(f.path)
		if errors.Is(err, ErrForeign) {
			continue
		}
		if err == nil {
			err = s.write(d, f.path, have, "")
		}
		if err != nil {
			return d, err
		}
	}
	return d, s.reload(ctx, d)
}

// own returns the text of a file of ours; empty if it is not there.
func (s System) own(path string) (string, error) {
	text, err := os.ReadFile(s.at(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case !strings.HasPrefix(string(text), mark):
		return "", fmt.Errorf("%s: %w", s.at(path), ErrForeign)
	}
	return string(text), nil
}

// packaged reports whether a package has put a file there that says the same.
func (s System) packaged(f file) bool {
	for _, path := range f.vendor {
		if text, err := os.ReadFile(s.at(path)); err == nil {
			return string(text) == f.text
		}
	}
	return false
}

// write makes a file what it shall be; empty: not there.
func (s System) write(d *Done, path, have, want string) error {
	path = s.at(path)
	switch {
	case have == want:
		return nil
	case want == "":
		d.Changed, d.Removed = true, append(d.Removed, path)
		if s.DryRun {
			return nil
		}
		return os.Remove(path)
	}
	d.Changed, d.Written = true, append(d.Written, path)
	if s.DryRun {
		return nil
	}
	const dirMode, mode = 0o755, 0o644
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	return renameio.WriteFile(path, []byte(want), mode, renameio.IgnoreUmask())
}

func (s System) reload(ctx context.Context, d *Done) error {
	if s.Root != "" || s.DryRun || len(d.Written)+len(d.Removed) == 0 {
		return nil
	}
	return s.systemctl(ctx, "daemon-reload")
}

// enable has a unit start at boot, or not.
func (s System) enable(ctx context.Context, d *Done, unit string, on bool) error {
	is := s.systemctl(ctx, "is-enabled", "--quiet", unit) == nil
	if is == on {
		return nil
	}
	verb, told := "enable", &d.Enabled
	if !on {
		verb, told = "disable", &d.Disabled
	}
	d.Changed, *told = true, append(*told, unit)
	if s.DryRun {
		return nil
	}
	return s.systemctl(ctx, verb, "--quiet", unit)
}

// run starts a unit that is wanted, and stops one that is not, if it shall be now.
func (s System) run(ctx context.Context, d *Done, unit string, on, now bool) error {
	if s.Root != "" || !now && on || s.active(ctx, unit) == on || unit == Boot && !on {
		return nil
	}
	d.Changed = true
	verb := "stop"
	if on {
		verb, d.Started = "start", append(d.Started, unit)
	}
	if s.DryRun {
		return nil
	}
	return s.systemctl(ctx, verb, unit)
}

func (s System) active(ctx context.Context, unit string) bool {
	return s.Root == "" && s.systemctl(ctx, "is-active", "--quiet", unit) == nil
}

// systemctl runs it with fixed words only. The error carries what it said.
func (s System) systemctl(ctx context.Context, words ...string) error {
	program := "/usr/bin/systemctl"
	if _, err := os.Stat(program); err != nil {
		program = "/bin/systemctl"
	}
	if s.Root != "" {
		words = append([]string{"--root=" + s.Root}, words...)
	}
	cmd := exec.CommandContext(ctx, program, words...)
	cmd.Dir, cmd.Env = "/", []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", program, ErrNoSystemd)
	}
	said, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return fmt.Errorf("systemctl %s: %w: %s", strings.Join(words, " "), err, said)
}
