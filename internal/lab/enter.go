package lab

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// reportFD is the pipe on which the inner process tells why it could not set itself up; closed empty means ready.
const reportFD = 3

// outerNamespaces names the mount and network namespace of the calling process.
func outerNamespaces() (string, error) {
	mnt, err := inode("/proc/self/ns/mnt")
	if err != nil {
		return "", err
	}
	network, err := inode("/proc/self/ns/net")
	return fmt.Sprintf("%d:%d", mnt, network), err
}

// enter sets up the inner process. It changes mounts, so it first makes sure that it is not the outer process with
// a stray environment variable.
func enter(mark string) (*World, error) {
	var mnt, network uint64
	if _, err := fmt.Sscanf(mark, "%d:%d", &mnt, &network); err != nil {
		return nil, strayMark(err)
	}
	ownMnt, err1 := inode("/proc/self/ns/mnt")
	ownNet, err2 := inode("/proc/self/ns/net")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if ownMnt == mnt || ownNet == network {
		return nil, strayMark(errors.New("the namespaces are not new"))
	}
	var st unix.Stat_t
	if err := unix.Fstat(reportFD, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, strayMark(errors.New("no pipe to the outer process"))
	}
	report := os.NewFile(reportFD, "report")
	defer report.Close()
	unix.CloseOnExec(reportFD)
	if err := os.Unsetenv(envInside); err != nil {
		return nil, err
	}
	if err := setUp(); err != nil {
		fmt.Fprintln(report, err)
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return &World{outerNet: network}, nil
}

func strayMark(err error) error {
	return fmt.Errorf("%s is set, but this process is not isolated: %w; hint: unset it", envInside, err)
}

// setUp makes the mounts private and the lab's own, and brings lo up.
func setUp() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := shadowState(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs on /run: %w", err)
	}
	if err := os.Mkdir(netnsDir, 0o755); err != nil {
		return err
	}
	if os.Getpid() == 1 {
		const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err := unix.Mount("proc", "/proc", "proc", flags, ""); err != nil {
			return fmt.Errorf("mount a new /proc: %w", err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo up: %w", err)
	}
	return nil
}

// stateDir is where programs keep what outlives a reboot.
const stateDir = "/var/lib"

// shadowState lets what is written to /var/lib go to memory. What is there can
// still be read, except where the kernel has no overlays for us.
func shadowState() error {
	const at = "/run" // the lab's own tmpfs will cover it
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", at, err)
	}
	for _, dir := range []string{at + "/upper", at + "/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	layers := "lowerdir=" + stateDir + ",upperdir=" + at + "/upper,workdir=" + at + "/work"
	for _, options := range []string{layers + ",userxattr", layers} {
		if unix.Mount("overlay", stateDir, "overlay", unix.MS_NOSUID|unix.MS_NODEV, options) == nil {
			return nil
		}
	}
	if err := unix.Mount("tmpfs", stateDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", stateDir, err)
	}
	return nil
}

// inode returns the number that identifies a namespace file.
func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return st.Ino, nil
}
