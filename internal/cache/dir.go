package cache

import (
	"bufio"
	"context"
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

	"github.com/synproxyctl/synproxyctl/internal/own"
)

const (
	// maxFile bounds what is read, in bytes; an answer takes about 200.
	maxFile  = 64 << 20
	patience = 2 * time.Second
)

// Dir is the directory in which a cache is kept: DIR/probes.json, mode 0600 in
// a directory of mode 0700.
type Dir string

// Path returns the file of the cache.
func (d Dir) Path() string { return filepath.Join(string(d), "probes.json") }

// Load returns what is remembered; of a directory or file that is not there,
// nothing. An error means that what is there is damaged, or could be another's.
func (d Dir) Load() (*Cache, error) {
	f, err := d.open()
	if errors.Is(err, fs.ErrNotExist) {
		return &Cache{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := Parse(bufio.NewReader(io.LimitReader(f, maxFile)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Path(), err)
	}
	return c, nil
}

// open opens the file of the cache, if it is one that only we write to.
func (d Dir) open() (*os.File, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.Path(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = own.Check(fi)
	}
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a plain file")
	}
	if err == nil && fi.Size() > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", d.Path(), err)
	}
	return f, nil
}

// check checks that the directory is one that only we write to.
func (d Dir) check() error {
	fi, err := os.Lstat(string(d))
	switch {
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s: not a directory", d)
	}
	if err := own.Check(fi); err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	return nil
}

// Add remembers more answers. Other instances that do the same lose nothing; a
// file that is damaged is replaced. At any moment there is the old or the new one.
func (d Dir) Add(ctx context.Context, more *Cache) error {
	if err := os.Mkdir(string(d), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(string(d), "probes.lock"), flock.SetFlag(os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK), flock.SetPermissions(0o600))
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const poll = 10 * time.Millisecond
	if ok, err := lock.TryLockContext(waiting, poll); !ok {
		return fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	defer lock.Close()
	var older io.Reader
	if old, err := d.open(); err == nil { // else what it held is asked for anew
		defer old.Close()
		older = bufio.NewReader(io.LimitReader(old, maxFile))
	}
	f, err := renameio.NewPendingFile(d.Path(), renameio.WithPermissions(0o600), renameio.IgnoreUmask(), renameio.WithTempDir(string(d)))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // nothing, once it has its name
	if err := more.write(f, older, MaxAnswers); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
