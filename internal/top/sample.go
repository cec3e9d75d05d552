// Package top turns looks at a host into the frames of a live view: samples
// and keys in, text out. It neither looks at a host nor touches a terminal, so
// that every frame can be tested; the command does both.
package top

import (
	"net/netip"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
)

// Sample is what one look at the host has shown.
type Sample struct {
	At   time.Time     // when the look ended
	Took time.Duration // how long it took
	Err  error         // why there was nothing to see; then only At and Took count besides

	State, Backend string // as status tells them
	Counters       kernel.SynproxyStats
	Conntrack      int // entries
	ConntrackMax   int // 0: no limit
	Proxied        int // connections that SYNPROXY opened and that are alive; negative: not known
	Services       []Service
	Findings       []Finding
	Watched        bool // a synproxyctl watch runs
	// Trial is when a change on trial goes back; zero: there is none.
	Trial time.Time
}

// Service is one protected service.
type Service struct {
	// Destination and Port tell services apart from one sample to the next.
	Destination netip.Prefix
	Port        uint16
	Name        string // for people
	SYNs        uint64 // sent to it since its rules were made
	// Unseen means that SYNs could not be read this time.
	Unseen bool
}

// Finding is something that a person should know.
type Finding struct {
	Severity string // "error", "warning" or "info"
	Code     string
	Message  string
	Hint     string
}

// The severities that have a colour.
const (
	bad  = "error"
	warn = "warning"
)
