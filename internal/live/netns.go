package live

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const ownNetNS = "/proc/thread-self/ns/net"

// A netns is a network namespace, held by an open file.
type netns struct {
	file *os.File
}

// currentNetNS returns that of the calling thread.
func currentNetNS() (netns, error) {
	f, err := os.Open(ownNetNS)
	if err != nil {
		return netns{}, fmt.Errorf("network namespace: %w", err)
	}
	return netns{f}, nil
}

// newNetNS makes a network namespace that nothing but the returned file holds,
// so that it goes, with its interfaces, when the file is closed or the process
// ends in whatever way.
func newNetNS() (netns, error) {
	var made netns
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		var err error
		made, err = currentNetNS()
		return err
	})
	return made, err
}

func (n netns) close() error { return n.file.Close() }

// do runs f on a thread that is inside. Sockets that f opens stay inside; the
// goroutines that it starts do not run there.
func (n netns) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f, which may change the network namespace, on a thread of its
// own, and then takes the thread back to where it was. If that fails, the
// thread ends.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		before, err := currentNetNS()
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		err = f()
		// Go does not end the process's first thread, so that one must not be
		// left inside of what is to vanish.
		back := unix.Setns(int(before.file.Fd()), unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread()
		} else {
			err = errors.Join(err, fmt.Errorf("leave the network namespace: %w", back))
		}
		result <- errors.Join(err, before.close())
	}()
	return <-result
}
