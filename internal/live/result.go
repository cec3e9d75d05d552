package live

import (
	"net/netip"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// A Target is a service whose protection is to be proven.
type Target struct {
	// Name is for people; it comes back in the [Result].
	Name string
	// Destination is what clients connect to.
	Destination netip.AddrPort
	// Interfaces are those by which clients come; empty means all but lo.
	Interfaces []string
	// Hook is where the rules stand.
	Hook rules.Hook
	// First says whose data is awaited: a server that speaks first must send
	// some, any other must acknowledge some of ours. "" is unknown.
	First rules.First
}

// A Verdict is what became of a proof.
type Verdict string

// The verdicts, from good to bad.
const (
	// Proven says that connections take the SYNPROXY's path, that data flows
	// and that forged SYNs leave nothing behind.
	Proven Verdict = "proven"
	// Unproven says that there is no proof, nor a proof of the contrary.
	Unproven Verdict = "unproven"
	// Failed says that the protection, or the service behind it, does not work.
	Failed Verdict = "failed"
)

// A Code names a reason. Codes are stable.
type Code string

// Why there is no proof.
const (
	// NotPossible: the process lacks a capability, or the kernel a feature.
	NotPossible Code = "not-possible"
	// BadTarget: the destination is not one that a client can connect to.
	BadTarget Code = "bad-target"
	// NoInterface: an interface of the service does not exist or is down.
	NoInterface Code = "no-interface"
	// ReversePath: strict rp_filter on an interface would drop what comes from
	// an address that is not behind it.
	ReversePath Code = "rp-filter"
	// NotForwarding: the host does not forward what comes in by the interface.
	NotForwarding Code = "not-forwarding"
	// Routing: the answers of the service would not come back to the proof's
	// client, because of policy routing.
	Routing Code = "routing"
	// NoAnswer: nothing answered the SYN. It may be that the host's own filters
	// do not accept it from here.
	NoAnswer Code = "no-answer"
	// Refused: the SYN was answered by a RST or an ICMP error, which a SYNPROXY
	// never does; again it may be the host's own filters.
	Refused Code = "refused"
	// ForgedUnanswered: the connection is good, and some of the forged SYNs got
	// no answer, so that it cannot be told where they went.
	ForgedUnanswered Code = "forged-unanswered"
)

// What does not work.
const (
	// NotProxied: the connection was opened, but not by a SYNPROXY.
	NotProxied Code = "not-proxied"
	// NoData: the proxy answered, and then no data came or went.
	NoData Code = "no-data"
	// NotCounted: SYNPROXY's counters did not rise.
	NotCounted Code = "not-counted"
	// ForgedReached: something other than the proxy answered forged SYNs, or
	// they are half-open connections of the service.
	ForgedReached Code = "forged-reached"
	// ForgedEntry: forged SYNs left entries in the conntrack table.
	ForgedEntry Code = "forged-entry"
)

// A Result says what was proven of a target, by all its interfaces.
type Result struct {
	Target Target
	// Verdict is the worst of the paths'.
	Verdict Verdict
	// Code and Message say why it is not [Proven]; empty if it is. They are
	// those of the first path with that verdict.
	Code    Code
	Message string
	// Paths has one for each interface of the target, or one without a name;
	// none if no path could be tried.
	Paths []Path
}

// A Path is a way to a service, and what was seen on it.
type Path struct {
	// Interface is where the packets came in; empty means by the veth itself.
	Interface string
	Verdict   Verdict
	Code      Code
	Message   string
	// Client is who connected; the forged SYNs came from other addresses of
	// its network.
	Client netip.AddrPort
	// Connected is the time from the SYN to the proxy's answer, Data that from
	// there until the service's first data or acknowledgement; 0 means never.
	Connected, Data time.Duration
	// Forged SYNs were sent, of which the proxy answered Answered; Entries is
	// how many conntrack entries they left, and HalfOpen how many half-open
	// connections of a local service.
	Forged, Answered, Entries, HalfOpen int
	// Counters is by how much SYNPROXY's counters rose meanwhile, also by other
	// traffic of the host.
	Counters kernel.SynproxyStats
}

// fault is an error that decides a path.
type fault struct {
	verdict Verdict
	code    Code
	message string
}

func (f *fault) Error() string { return f.message }

func unproven(code Code, message string) error { return &fault{Unproven, code, message} }

func failed(code Code, message string) error { return &fault{Failed, code, message} }

// sum makes the result of a target from its paths.
func (r *Result) sum() {
	r.Verdict = Proven
	if len(r.Paths) == 0 {
		r.Verdict = Unproven
	}
	for _, p := range r.Paths {
		if p.Verdict.rank() > r.Verdict.rank() {
			r.Verdict, r.Code, r.Message = p.Verdict, p.Code, p.Message
		}
	}
	if r.Verdict == "" {
		r.Verdict = Unproven
	}
}

// rank orders verdicts from good to bad; what is none is not good.
func (v Verdict) rank() int {
	switch v {
	case Proven:
		return 0
	case Failed:
		return 2
	}
	return 1
}
