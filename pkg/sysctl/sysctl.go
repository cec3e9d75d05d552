package sysctl

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Default is the kernel's own tree of settings.
const Default FS = "/proc/sys"

// maxValue bounds what is read of one setting, in bytes. The longest that the
// kernel prints, the bitmap of reserved ports, is well below it.
const maxValue = 1 << 20

// An FS is the directory that holds the settings as files. The zero value is
// [Default]. No key leads out of the directory, not even through a symbolic
// link.
type FS string

// A Setting is what a caller wants a key to be.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// A Change is one step from what a setting is to what it shall be. Both values
// have their white space normalised, as [FS.Get] returns it.
type Change struct {
	Key    string `json:"key"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// A ValueError reports a setting that does not have the value that it should
// have: the kernel took a write without an error but holds something else, or
// someone has changed the setting since it was planned.
type ValueError struct {
	Key  string
	Want string
	Got  string
	// Written tells the two cases apart: true when Want was written and did
	// not stick, false when nothing was written.
	Written bool
}

func (e *ValueError) Error() string {
	if e.Written {
		return fmt.Sprintf("sysctl %s: wrote %q, but it reads %q", e.Key, e.Want, e.Got)
	}
	return fmt.Sprintf("sysctl %s: expected %q, but it has become %q since it was planned", e.Key, e.Want, e.Got)
}

// Get returns the value of key, its words separated by single spaces. A key
// that the kernel does not have (its module is not loaded, or the interface in
// it is gone) is [fs.ErrNotExist]; one that may not be read is
// [fs.ErrPermission]; one that cannot be a key is [ErrKey].
func (f FS) Get(key string) (string, error) {
	file, err := f.open(key, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxValue+1))
	if err != nil {
		return "", subject(key, "read", err)
	}
	if len(text) > maxValue {
		return "", fmt.Errorf("sysctl %s: value is longer than %d bytes", key, maxValue)
	}
	return normalise(string(text)), nil
}

// Plan returns the changes that lead from what the kernel holds to what is
// wanted, in the order of want, without those that are so already. It writes
// nothing. A key that is wanted twice with different values is an error; so is
// a key that does not exist, as in [FS.Get]. All faults are returned, joined.
func (f FS) Plan(want []Setting) ([]Change, error) {
	var (
		changes []Change
		faults  []error
		wanted  = map[string]string{}
	)
	for _, s := range want {
		path, err := keyPath(s.Key)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		value := normalise(s.Value)
		if other, again := wanted[path]; again {
			if other != value {
				faults = append(faults, fmt.Errorf("sysctl %s: wanted as %q and as %q", s.Key, other, value))
			}
			continue
		}
		wanted[path] = value
		have, err := f.Get(s.Key)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if have != value {
			changes = append(changes, Change{Key: s.Key, Before: have, After: value})
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return changes, nil
}

// open opens the file of a key inside the root directory. It never makes one.
func (f FS) open(key string, flag int) (*os.File, error) {
	path, err := keyPath(key)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(cmp.Or(string(f), string(Default)))
	if err != nil {
		return nil, subject(key, "open", err)
	}
	defer root.Close()
	file, err := root.OpenFile(path, flag, 0)
	if err != nil {
		return nil, subject(key, "open", err)
	}
	return file, nil
}

// subject names the key in an error of the file system. A read-only mount of
// /proc/sys, as containers have it, is a lack of permission to our callers.
func subject(key, verb string, err error) error {
	if perr := (*fs.PathError)(nil); errors.As(err, &perr) {
		err = perr.Err
	}
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("sysctl %s: %s: %w (%w)", key, verb, fs.ErrPermission, err)
	}
	return fmt.Errorf("sysctl %s: %s: %w", key, verb, err)
}

func normalise(value string) string {
	return strings.Join(strings.Fields(value), " ")
}
