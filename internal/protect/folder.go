package protect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/own"
)

// makeFolder makes the directory of the records, if it is not there, and makes
// sure that nobody else gets into it, whatever the umask. One that is not a
// plain directory of ours is left alone.
func (s store) makeFolder() error {
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("undo records: %w", err)
	}
	if err := s.checkFolder(); err != nil {
		return err
	}
	dir, err := os.OpenFile(s.dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrPermission) { // an odd umask, and no root
		if err = os.Chmod(s.dir, 0o700); err == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("undo records: %w", err)
	}
	defer dir.Close()
	fi, err := dir.Stat()
	if err == nil && fi.Mode().Perm() != 0o700 {
		err = dir.Chmod(0o700)
	}
	if err != nil {
		return fmt.Errorf("undo records: %w", err)
	}
	return nil
}

// checkFolder checks that the directory of the records, if there is one, is one
// that only we write to. No link is followed: what lies behind it is not ours.
func (s store) checkFolder() error {
	fi, err := os.Lstat(s.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("undo records: %w", err)
	case !fi.IsDir():
		return fmt.Errorf("undo records: %s: not a directory", s.dir)
	}
	if err := trusted(fi); err != nil {
		return Errorf(Conflict, "see who made it, and remove it", "undo records: %s: %w", s.dir, err)
	}
	return nil
}

// makeLock makes the file of the lock, if it is not there, and checks it.
func (s store) makeLock() error {
	f, err := os.OpenFile(s.lockPath(), os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = errors.Join(f.Chmod(0o600), f.Close()) // whatever the umask
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("lock: %w", err)
	}
	return s.checkLock()
}

// checkLock checks that the file of the lock is there and a plain one of ours.
func (s store) checkLock() error { return checkPlain(s.lockPath()) }

// checkPlain checks that the file of a lock is there and a plain one of ours.
func checkPlain(path string) error {
	fi, err := os.Lstat(path)
	if err == nil {
		err = trusted(fi)
	}
	if err == nil && fi.IsDir() {
		err = errors.New("not a plain file")
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return Errorf(Conflict, "synproxyctl makes a plain file there: see what it is, and remove it", "lock %s: %w", path, err)
}

// newLock prepares the lock, whose file is there. A link or a pipe that has come
// in its place is neither followed nor waited for.
func (s store) newLock() *flock.Flock {
	return flock.New(s.lockPath(), flock.SetFlag(os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK))
}

// trusted checks that nobody else could have written a file or directory: what
// the record says is written to the kernel.
func trusted(fi fs.FileInfo) error { return own.Check(fi) }
