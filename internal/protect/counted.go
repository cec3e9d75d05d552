package protect

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
)

func (s store) countedPath() string { return filepath.Join(s.dir, s.id+".counted") }

// CountOn reads SYNPROXY's counters and counts on in 64 bits from where anybody
// on this host has got to since it was booted, and notes where that is. Of
// several at once each gets at least what those before it got. Without rights
// the error is [fs.ErrPermission].
func (h *Host) CountOn(ctx context.Context) (kernel.SynproxyTotal, error) {
	s, err := h.open()
	if err == nil {
		err = s.makeFolder()
	}
	if err != nil {
		return kernel.SynproxyTotal{}, err
	}
	return s.countOn(ctx, kernel.ReadSynproxyStats)
}

func (s store) countOn(ctx context.Context, read func() (kernel.SynproxyStats, error)) (t kernel.SynproxyTotal, err error) {
	release, err := s.alone(ctx)
	if err != nil {
		return t, err
	}
	defer release()
	// One that is damaged is begun anew, as after a boot.
	if readNote(s.countedPath(), &t) != nil {
		t = kernel.SynproxyTotal{}
	}
	// Read behind the lock: an older reading than the noted one would look like a
	// module that was loaded anew.
	now, err := read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t.Gone()
	case err != nil:
		return t, err
	default:
		t.Add(now)
	}
	return t, s.writeNote(s.countedPath(), t)
}
