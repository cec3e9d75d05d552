package live

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// namePrefix begins the names of the host's ends.
const namePrefix = "synproxyctl"

// ownAlias is the alias of an interface of this process. It tells a later one
// whether the process still lives; a number that another process has got since
// is told by its starting time.
func ownAlias() string { return aliasOf(os.Getpid()) }

const aliasFormat = "synproxyctl verify --live, process %d of tick %s"

func aliasOf(pid int) string {
	return fmt.Sprintf(aliasFormat, pid, startTime(pid))
}

// startTime returns when a process began, in clock ticks after the boot, or ""
// if there is none.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return statStart(string(stat))
}

// statStart finds field 22 of proc_pid_stat(5). The name in field 2 may hold
// anything, so it is counted from its last parenthesis on.
func statStart(stat string) string {
	const after = 22 - 3
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= after {
		return ""
	}
	return fields[after]
}

// isLeftOver tells whether an alias is that of a process that is gone.
func isLeftOver(alias string) bool {
	var pid int
	var tick string
	if _, err := fmt.Sscanf(alias, aliasFormat, &pid, &tick); err != nil {
		return false
	}
	return alias != aliasOf(pid)
}

// removeLeftOvers removes the host's ends of processes that are gone. They go
// by themselves, unless something else held their namespace.
func removeLeftOvers() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list of interfaces: %w", err)
	}
	var errs []error
	for _, link := range links {
		a := link.Attrs()
		if link.Type() == "veth" && strings.HasPrefix(a.Name, namePrefix) && isLeftOver(a.Alias) {
			errs = append(errs, remove(a.Name, a.Index))
		}
	}
	return errors.Join(errs...)
}

// freeName returns a name that no interface has now.
func freeName() (string, error) {
	const most = 1000
	for n := range most {
		name := fmt.Sprintf("%s%d", namePrefix, n)
		_, err := netlink.LinkByName(name)
		if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
			return name, nil
		}
		if err != nil {
			return "", fmt.Errorf("interface %s: %w", name, err)
		}
	}
	return "", fmt.Errorf("interfaces %s0 to %s%d all exist", namePrefix, namePrefix, most-1)
}

// remove removes an interface, with its other end, if it is still that one.
func remove(name string, index int) error {
	link, err := netlink.LinkByName(name)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return nil
	}
	if err == nil && (index == 0 || link.Attrs().Index == index) {
		err = netlink.LinkDel(link)
	}
	if notFound := (netlink.LinkNotFoundError{}); err != nil && !errors.As(err, &notFound) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// randomMAC returns a random unicast address of those that are administered
// locally (IEEE 802).
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails
	mac[0] = mac[0]&^3 | 2
	return mac
}
