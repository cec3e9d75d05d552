package lab

import (
	"context"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TakeXDP lets an interface of the host take XDP frames from the other end of its link, as [Host.Storm] sends them, by
// giving it a receive queue of its own (generic receive offload on).
func (h *Host) TakeXDP(iface string) error {
	const sgro = 0x2c
	if err := h.Do(func() error { return ethtool(iface, sgro, 1) }); err != nil {
		return fmt.Errorf("host %s: interface %s: generic receive offload: %w", h.name, iface, err)
	}
	return nil
}

// Unsegmented lets an interface of the host send no segments for the hardware to cut. If the other end has a receive
// queue of its own, by [Host.TakeXDP], all packets then go there: the kernel puts those that come from elsewhere into the
// CPU's common backlog otherwise, where a flood leaves no room for them.
func (h *Host) Unsegmented(iface string) error {
	const stso = 0x1f
	if err := h.Do(func() error { return ethtool(iface, stso, 0) }); err != nil {
		return fmt.Errorf("host %s: interface %s: segmentation offload: %w", h.name, iface, err)
	}
	return nil
}

// ethtool sets one value, as ethtool(8) does.
func ethtool(iface string, command, setting uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := [2]uint32{command, setting}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data *[2]uint32
		_    [16]byte
	}{data: &value}
	copy(request.name[:unix.IFNAMSIZ-1], iface)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Steer lets one CPU do the work for all packets that an interface of the host receives, from the IP layer on (receive
// packet steering), as the one queue of a network card would.
func (h *Host) Steer(ctx context.Context, iface string, cpu int) error {
	// ip(8) mounts the /sys of the namespace.
	_, err := h.Run(ctx, "ip", "netns", "exec", h.Namespace(), "sh", "-c", `printf %x "$1" >"/sys/class/net/$2/queues/rx-0/rps_cpus"`,
		"sh", fmt.Sprint(1<<cpu), iface)
	if err != nil {
		return fmt.Errorf("host %s: steer %s to CPU %d: %w", h.name, iface, cpu, err)
	}
	return nil
}
