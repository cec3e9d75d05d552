package main

import (
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// searchPath is where programs are looked for, whatever the caller's PATH says.
const searchPath = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"

// forgetCaller keeps from the programs that this one starts what the caller has
// left for them: they run with rights over the network that are not the caller's
// to lend.
func forgetCaller() error {
	keepDescriptors()
	return os.Setenv("PATH", searchPath)
}

// keepDescriptors keeps what the caller had open, beside the standard streams,
// from the programs that this one starts: whatever it is, it is not for them.
func keepDescriptors() {
	const first = 3
	if unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Before Linux 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}
