// Command synproxyctl protects TCP services from SYN floods with the kernel's
// SYNPROXY: it probes the backend's TCP options, applies rules and settings,
// verifies them, shows their status, and takes them away without a trace.
package main

import (
	"context"
	"math"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// thrift is from how many bytes on garbage is collected more often. A hundred
// thousand services need less than that; of ten thousand, it makes no difference.
const thrift = 160 << 20

func main() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // GOMEMLIMIT is not set
		debug.SetMemoryLimit(thrift)
	}
	_ = forgetCaller() // an environment that cannot be set is out of memory
	// Each of these rolls back what was begun. A second one does not stop the
	// rollback; only SIGKILL does. What the caller ignores, as nohup does, stays
	// ignored.
	signals := []os.Signal{unix.SIGTERM}
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGHUP} {
		if !signal.Ignored(s) {
			signals = append(signals, s)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	status := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(status)
}
