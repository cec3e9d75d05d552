package kernel

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"unicode"

	"github.com/vishvananda/netlink"
)

// maxName is the longest name of an interface in bytes, IFNAMSIZ less the
// final NUL (include/uapi/linux/if.h).
const maxName = 15

// ErrInterfaceName reports a name that no interface can have, or that would
// mean something else in a rule.
var ErrInterfaceName = errors.New("bad interface name")

// CheckInterfaceName tells whether name can be that of one interface: 1 to 15
// bytes, none of those that the kernel refuses (dev_valid_name in
// net/core/dev.c) nor quotes, backslashes, wildcards or other characters that
// iptables and nft read as something else. Whether the interface exists is
// another matter; see [InterfaceExists].
func CheckInterfaceName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrInterfaceName)
	case len(name) > maxName:
		return fmt.Errorf("%w %q: longer than %d bytes", ErrInterfaceName, name, maxName)
	case name == "." || name == "..":
		return fmt.Errorf("%w %q", ErrInterfaceName, name)
	case strings.HasPrefix(name, "-") || strings.HasPrefix(name, "!"):
		return fmt.Errorf("%w %q: it begins with %q", ErrInterfaceName, name, name[:1])
	case strings.HasSuffix(name, "+"):
		return fmt.Errorf("%w %q: iptables takes a %q at the end for any interface that begins so", ErrInterfaceName, name, "+")
	}
	for _, r := range name {
		if r == unicode.ReplacementChar || !unicode.IsGraphic(r) || unicode.IsSpace(r) || strings.ContainsRune("/:\"'`\\*;$", r) {
			return fmt.Errorf("%w %q: it holds %q", ErrInterfaceName, name, r)
		}
	}
	return nil
}

// InterfaceExists tells whether the network namespace has an interface of that
// name now. A name that cannot be one is [ErrInterfaceName].
func InterfaceExists(name string) (bool, error) {
	if err := CheckInterfaceName(name); err != nil {
		return false, err
	}
	_, err := netlink.LinkByName(name)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("interface %s: %w", name, err)
	}
	return true, nil
}

// Alone reports whether no interface but loopback is up: nothing comes in, and
// nothing goes out, as at boot before the network is there.
func Alone() (bool, error) {
	all, err := net.Interfaces()
	if err != nil {
		return false, fmt.Errorf("interfaces: %w", err)
	}
	return !slices.ContainsFunc(all, func(i net.Interface) bool {
		return i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0
	}), nil
}
