package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// NetNSID returns the identity of the calling thread's network namespace, made
// of letters, digits and a dash so that it can be part of a file name.
//
// Since Linux 5.14 it is "cookie-N", where N is never used again until the next
// boot (SO_NETNS_COOKIE, net/core/sock.c). Before, it is "inode-N", the number
// that /proc/PID/ns/net shows; the kernel may give that of a namespace that is
// gone to a new one.
func NetNSID() (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("identify the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	switch {
	case err == nil:
		return fmt.Sprintf("cookie-%d", cookie), nil
	case errors.Is(err, unix.ENOPROTOOPT):
		return netNSInode()
	}
	return "", fmt.Errorf("identify the network namespace: %w", err)
}

func netNSInode() (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &stat); err != nil {
		return "", fmt.Errorf("identify the network namespace: %w", err)
	}
	return fmt.Sprintf("inode-%d", stat.Ino), nil
}
