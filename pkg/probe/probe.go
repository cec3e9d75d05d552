package probe

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// A Target is one address and port to ask.
type Target struct {
	// Name is how the user wrote the target, with the port. If it is empty, Addr stands in for it.
	Name string
	// Addr is the address and port. A link-local address needs a zone, or [Config.Interface].
	Addr netip.AddrPort
}

// Config says how to ask. The zero value is ready to use.
type Config struct {
	// Count is the number of samples for each target, 1 to 64. Zero means 3.
	Count int
	// Timeout is how long to wait for each answer. Zero means one second.
	Timeout time.Duration
	// Interface names the interface that the SYN leaves by. For an address of this machine it names the interface through
	// which the clients come in, whose MTU limits the MSS. Empty means whatever the routes say.
	Interface string
	// Source is the source address, which must belong to this machine. The zero Addr means the one that the route prefers.
	Source netip.Addr
	// Rate is the number of SYN segments per second over all targets. Zero means 500.
	Rate int
	// Connect asks to complete one handshake with each target that gave a usable answer, to find who speaks first.
	Connect bool
	// BannerWait is how long a silent server is listened to before the client is taken to speak first. Zero means 1.5 seconds.
	BannerWait time.Duration
	// Progress, if not nil, is called from the calling goroutine whenever another target is done.
	Progress func(done, total int)
}

// Probe asks all targets and returns their results in the same order.
func Probe(ctx context.Context, cfg Config, targets []Target) ([]Result, error) {
	return nil, errors.New("probe: not there yet")
}
