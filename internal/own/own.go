// Package own tells whether what a file says can be relied upon: whether it is
// ours alone, and whether it stayed as it was while it was read. What such files
// say is acted on with the rights of root.
package own

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// Check checks that nobody else could have written a file or directory: it is
// a plain one, belongs to us, others may not write to it, and a file has no
// other name elsewhere.
func Check(fi fs.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.IsDir() && !fi.Mode().IsRegular():
		return errors.New("not a plain file")
	case !ok || int(st.Uid) != os.Geteuid():
		return errors.New("belongs to somebody else")
	case fi.Mode().Perm()&0o022 != 0:
		return errors.New("others may write to it")
	case fi.Mode().IsRegular() && st.Nlink > 1: // 0: it has just been replaced
		return errors.New("has another name elsewhere")
	}
	return nil
}

// Unchanged tells from what the kernel knows of an open file, before and after
// it was read, whether nobody wrote to it meanwhile.
func Unchanged(before, after fs.FileInfo) bool {
	a, aok := before.Sys().(*syscall.Stat_t)
	b, bok := after.Sys().(*syscall.Stat_t)
	return aok && bok && before.Size() == after.Size() && a.Mtim == b.Mtim && a.Ctim == b.Ctim
}
