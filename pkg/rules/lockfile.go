package rules

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// EnvLockFile is the environment variable that names, for iptables-legacy, the
// file of the lock that keeps two of its kind apart, where /run/xtables.lock
// cannot be had. The file must exist, as a plain file of root or of the calling
// user that nobody else may write to.
const EnvLockFile = "XTABLES_LOCKFILE"

// openLockFile opens the file that the environment names; nil if it names none.
//
// The programs would make the file if it is not there, and follow links to it:
// whoever has a say in our environment and none elsewhere could have root make
// an empty file anywhere, such as /etc/nologin. So it has to be there, a plain
// file of root or of our own user that nobody else can write to; and what the
// programs open is this file, whatever has become of the name meanwhile.
func openLockFile() (*os.File, error) {
	name := os.Getenv(EnvLockFile)
	if name == "" {
		return nil, nil //nolint:nilnil // that none is named is no error
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (it must be there)", EnvLockFile, err)
	}
	fi, err := f.Stat()
	if err == nil {
		st, ok := fi.Sys().(*syscall.Stat_t)
		switch {
		case !fi.Mode().IsRegular():
			err = errors.New("not a plain file")
		case !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid():
			err = errors.New("belongs to somebody else")
		case fi.Mode().Perm()&0o022 != 0:
			err = errors.New("others may write to it")
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %s: %w", EnvLockFile, name, err)
	}
	return f, nil
}
