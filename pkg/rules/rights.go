package rules

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// passedOn are the capabilities that the programs need, and nobody else's.
var passedOn = [...]uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}

// The bits of capabilities(7), linux/securebits.h.
const (
	secureNoRoot         = 1 << 0 // SECBIT_NOROOT
	secureNoAmbientRaise = 1 << 6 // SECBIT_NO_CAP_AMBIENT_RAISE
)

// PassOn returns the capabilities to put into [syscall.SysProcAttr.AmbientCaps]
// of a program that the calling thread starts: those of CAP_NET_ADMIN and
// CAP_NET_RAW that it has. A program loses the capabilities of a user other than
// root unless they are ambient; root's keeps what the bounding set allows, and
// the list is empty.
//
// All other ambient capabilities are taken from the calling thread, which does
// not use them itself, so that no program gets them. The program must therefore
// be started on the same thread: see [runtime.LockOSThread].
func PassOn() []uintptr {
	secure, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil || syscall.Geteuid() == 0 && secure&secureNoRoot == 0 {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData // version 3 has 64 bits in two parts
	if err := unix.Capget(&header, &have[0]); err != nil {
		return nil
	}
	var pass []uintptr
	for c := range uintptr(64) {
		switch {
		case c != passedOn[0] && c != passedOn[1]:
			// A number that the kernel does not know is an error, and is not set.
			_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_LOWER, c, 0, 0)
		case have[c/32].Permitted>>(c%32)&1 == 1 && secure&secureNoAmbientRaise == 0:
			pass = append(pass, c)
		}
	}
	return pass
}
