package kernel

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Capability is a privilege of capabilities(7), by its number.
type Capability uint

// The capabilities that the product needs.
const (
	// NetAdmin changes rules, sets, routes and settings.
	NetAdmin Capability = unix.CAP_NET_ADMIN
	// NetRaw opens raw and packet sockets, which the probe and iptables use.
	NetRaw Capability = unix.CAP_NET_RAW
)

// String returns the name as capabilities(7) writes it.
func (c Capability) String() string {
	switch c {
	case NetAdmin:
		return "CAP_NET_ADMIN"
	case NetRaw:
		return "CAP_NET_RAW"
	}
	return fmt.Sprintf("capability %d", uint(c))
}

// A CapabilityError says which capabilities the calling thread lacks. It is
// [os.ErrPermission] to errors.Is.
type CapabilityError struct {
	Missing []Capability
}

func (e *CapabilityError) Error() string {
	names := make([]string, len(e.Missing))
	for i, c := range e.Missing {
		names[i] = c.String()
	}
	return "not permitted: missing " + strings.Join(names, " and ")
}

// Is makes the error match os.ErrPermission.
func (e *CapabilityError) Is(target error) bool { return target == os.ErrPermission }

// Capabilities is a set of capabilities, bit N for number N.
type Capabilities uint64

// Has tells whether c is in the set.
func (s Capabilities) Has(c Capability) bool { return c < 64 && s>>c&1 == 1 }

// EffectiveCapabilities returns the effective set of the calling thread.
//
// They count in the thread's own user namespace. A thread that has them there
// but is in a network namespace of another user namespace is still refused by
// the kernel, with an error that is [os.ErrPermission].
func EffectiveCapabilities() (Capabilities, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // Pid 0: this thread
	var data [2]unix.CapUserData                                           // version 3 has 64 bits in two parts
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read the capabilities: %w", err)
	}
	return Capabilities(data[1].Effective)<<32 | Capabilities(data[0].Effective), nil
}

// Require returns a [*CapabilityError] that names those of wanted that the
// calling thread does not have, or nil.
func Require(wanted ...Capability) error {
	have, err := EffectiveCapabilities()
	if err != nil {
		return err
	}
	return have.require(wanted)
}

func (s Capabilities) require(wanted []Capability) error {
	var missing []Capability
	for _, c := range wanted {
		if !s.Has(c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return &CapabilityError{Missing: missing}
	}
	return nil
}
