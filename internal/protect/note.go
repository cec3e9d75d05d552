package protect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Notes are what is worth knowing of before, beside the undo record: what became
// of the last verification, and how far SYNPROXY has counted. Nothing is done by
// them, and without them only less is known.

// notesLock is held while a note is read and written anew.
func (s store) notesLock() string { return filepath.Join(s.dir, s.id+".notes.lock") }

// alone keeps others from the notes until it is released. The directory must be
// there. It waits for a second at most: nobody writes notes for longer than that.
func (s store) alone(ctx context.Context) (release func(), err error) {
	if err := s.checkFolder(); err != nil {
		return nil, err
	}
	if err := checkPlain(s.notesLock()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l := flock.New(s.notesLock(), flock.SetFlag(os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK), flock.SetPermissions(0o600))
	const longest, poll = time.Second, 5 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	ok, err := l.TryLockContext(ctx, poll)
	if err == nil && !ok {
		err = ErrBusy
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", s.notesLock(), err)
	}
	return func() { _ = l.Close() }, nil
}

// readNote reads a note into v. The error is [fs.ErrNotExist] if there is none.
func readNote(path string, v any) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil {
		err = trusted(fi)
	}
	var text []byte
	if err == nil {
		const longest = 4096
		text, err = io.ReadAll(io.LimitReader(f, longest))
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeNote replaces a note, so that at any moment there is the old or the new one.
func (s store) writeNote(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(0o600), renameio.WithTempDir(s.dir))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }()
	if _, err := f.Write(append(text, '\n')); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
