package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/own"
)

// Stdin is what standard input is called in messages.
const Stdin = "standard input"

// reader reads files whole, and only such as can be relied upon.
type reader struct {
	between func() // if set, called while a file is read: tests change it then
}

// file returns what is in a plain file. A link to one is followed; a pipe or
// device is not waited for. Since it is root who acts on it, nobody else may be
// able to write to it just so. A file that changes meanwhile is a fault: half
// of a new one would take protection away.
func (r reader) file(path string, most int64) ([]byte, error) {
	at := Place{File: path}
	cannot := func(err error) error {
		if perr := (*fs.PathError)(nil); errors.As(err, &perr) {
			err = perr.Err
		}
		fs := &Faults{}
		fs.add(&Fault{Place: at, Code: "unreadable", Problem: fmt.Sprintf("cannot read it: %v", err), Advice: "check the path and its permissions", Err: err})
		return fs
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, cannot(err)
	}
	defer f.Close()
	before, err := f.Stat()
	switch {
	case err != nil:
		return nil, cannot(err)
	case before.IsDir():
		return nil, alone(at, "not-a-file", "name a file in it", "is a directory")
	case !before.Mode().IsRegular():
		return nil, alone(at, "not-a-file", "name a plain file; a configuration may also come from standard input: -", "is not a plain file")
	case before.Mode().Perm()&0o002 != 0:
		return nil, alone(at, "unsafe", "look at what is in it, and run: chmod o-w "+path, "everybody may write to it")
	case before.Size() > most:
		return nil, alone(at, "too-large", listAdvice, "is larger than %d bytes", most)
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, cannot(err)
	}
	if r.between != nil {
		r.between()
	}
	after, err := f.Stat()
	if err == nil {
		var there fs.FileInfo
		if there, err = os.Stat(path); err == nil && !os.SameFile(before, there) {
			err = errChanged
		}
	}
	if err != nil || int64(len(text)) != before.Size() || !own.Unchanged(before, after) {
		return nil, alone(at, "changed", "run the command again when it is written; best write a new file and rename it", "was changed while it was read")
	}
	return text, nil
}

var errChanged = errors.New("changed")

// stream returns what a stream holds.
func stream(in io.Reader, name string, most int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		fs := &Faults{}
		fs.add(&Fault{Place: Place{File: name}, Code: "unreadable", Problem: fmt.Sprintf("cannot read it: %v", err), Advice: "pipe the configuration into it", Err: err})
		return nil, fs
	}
	return text, nil
}
