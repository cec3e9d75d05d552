package rules

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Options are the TCP options that SYNPROXY announces in its SYN+ACK on behalf
// of a backend. They must be the backend's own: the client's stack acts on
// them for the whole life of the connection. The zero value announces none.
type Options struct {
	MSS        *uint16 `json:"mss"`        // maximum segment size, 88 to 65535 bytes; nil: not announced
	WScale     *uint8  `json:"wscale"`     // window scale shift, 0 to 14 (RFC 7323); nil: not announced
	SACKPerm   bool    `json:"sack_perm"`  // SACK permitted (RFC 2018)
	Timestamps bool    `json:"timestamps"` // timestamps (RFC 7323); the cookie carries wscale and SACK in them
}

// minMSS is the smallest segment size that Linux works with: TCP_MIN_MSS in
// include/net/tcp.h.
const minMSS = 88

func (o Options) faults() []error {
	var errs []error
	if o.MSS != nil && *o.MSS < minMSS {
		errs = append(errs, fmt.Errorf("mss %d: less than %d", *o.MSS, minMSS))
	}
	if o.WScale != nil && *o.WScale > 14 {
		errs = append(errs, fmt.Errorf("wscale %d: more than 14 (RFC 7323)", *o.WScale))
	}
	return errs
}

// Repair is how the third ACK of the proxy's handshake with the backend is
// mended. SYNPROXY sends it with a timestamp echo that is wrong, because its
// own packet passes the timestamp adjustment a second time; backends from
// Linux 6.15 on reject it and wait a second for their retransmission.
type Repair string

// The repairs.
const (
	// RepairStrip removes the timestamp option: the backend accepts the ACK,
	// and the connection is established on both sides. It is right for a
	// server that speaks first.
	RepairStrip Repair = "strip"
	// RepairDrop drops the ACK, so that the client's first data completes the
	// handshake with all values right. It is best for clients that speak
	// first, since the backend then measures the client's round trip, not the
	// proxy's.
	RepairDrop Repair = "drop"
	// RepairNotrack keeps conntrack, and so the adjustment, away from it. It
	// is needed for a backend that uses SYN cookies, which keeps wscale and
	// SACK in the timestamp that RepairStrip removes.
	RepairNotrack Repair = "notrack"
)

// Service is one TCP service to protect.
type Service struct {
	Name        string       `json:"name,omitempty"`        // for people; may be empty
	Destination netip.Prefix `json:"destination"`           // one address, or a network whose hosts are all alike
	Port        uint16       `json:"port"`                  // 1 to 65535
	Hook        Hook         `json:"hook"`                  // where SYNs are answered
	Interfaces  []string     `json:"interfaces,omitempty"`  // SYNs are answered on these; empty: on all but lo
	Options     Options      `json:"options"`               // what the backend announces
	First       First        `json:"first,omitempty"`       // who speaks first; empty: unknown
	SynCookies  bool         `json:"syn_cookies,omitempty"` // the backend answers with SYN cookies of its own
	Mode        Mode         `json:"mode,omitempty"`        // how SYNs are answered; empty: [ModeTracked]
	// To is where connections to the destination really go. If it is valid the
	// rules translate the address (DNAT) on the way from the proxy to there.
	To netip.AddrPort `json:"to,omitzero"`
	// Published tells that the host's own rules translate the address, for
	// connections that the proxy opens too, as Docker's do in nat OUTPUT.
	Published bool `json:"published,omitempty"`
}

// Translated reports whether the connections of the service pass a DNAT.
func (s Service) Translated() bool { return s.To.IsValid() || s.Published }

// mode returns the mode, the default filled in.
func (s Service) mode() Mode {
	if s.Mode == "" {
		return ModeTracked
	}
	return s.Mode
}

// Family returns the address family of the destination.
func (s Service) Family() Family { return FamilyOf(s.Destination.Addr()) }

// String returns the destination and the port, as people write them.
func (s Service) String() string {
	if s.Destination.IsSingleIP() {
		return netip.AddrPortFrom(s.Destination.Addr(), s.Port).String()
	}
	if s.Destination.Addr().Is4() {
		return fmt.Sprintf("%s:%d", s.Destination, s.Port)
	}
	return fmt.Sprintf("[%s]:%d", s.Destination, s.Port)
}

// ThirdACK returns the repair that fits the service.
func (s Service) ThirdACK() Repair {
	switch {
	case s.First == FirstClient:
		return RepairDrop
	case s.SynCookies && !s.Translated(): // untracked, the ACK would miss its DNAT
		return RepairNotrack
	default:
		return RepairStrip
	}
}

func (s Service) faults() []error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	a := s.Destination.Addr()
	switch {
	case !s.Destination.IsValid():
		add("destination is missing or not valid")
	case s.Destination != s.Destination.Masked():
		add("destination has bits set beyond its prefix length; %s is meant?", s.Destination.Masked())
	case a.Is4In6():
		add("destination is an IPv4-mapped IPv6 address; write it as IPv4")
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		add("destination is not an address of a host on a network")
	case a.IsLinkLocalUnicast() && a.Is6():
		// The proxied SYN is routed by its destination alone and comes back.
		add("destination is link-local, which SYNPROXY cannot route")
	}
	if s.Port == 0 {
		add("port 0 is not a port of a service")
	}
	if _, err := ParseHook(string(s.Hook)); err != nil {
		errs = append(errs, err)
	}
	for i, name := range s.Interfaces {
		if err := validInterface(name); err != nil {
			errs = append(errs, err)
		}
		if slices.Contains(s.Interfaces[:i], name) {
			add("interface %q is named twice", name)
		}
	}
	if s.Mode != "" {
		if _, err := ParseMode(string(s.Mode)); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, s.translationFaults()...)
	switch s.First {
	case "", FirstUnknown, FirstClient, FirstServer:
	default:
		add("first speaker %q: neither client nor server", s.First)
	}
	return append(errs, s.Options.faults()...)
}

// translationFaults returns what is wrong with the target of a service.
func (s Service) translationFaults() []error {
	if !s.Translated() {
		return nil
	}
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Destination.IsValid() && !s.Destination.IsSingleIP() {
		add("a network cannot be translated; name each address")
	}
	if s.mode() == ModeTracked {
		// The cookie is made for the translated address and comes back to the
		// other one: every connection would end in a reset.
		add("address translation needs the mode notrack")
	}
	a := s.To.Addr()
	switch {
	case !s.To.IsValid():
	case s.To.Port() == 0:
		add("target %s: port 0 is not a port of a service", s.To)
	case a.Is4In6(), a.Zone() != "", a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast() && a.Is6():
		add("target %s: not an address of a host on a network", s.To)
	case a.IsLoopback():
		// The kernel refuses packets from elsewhere to a loopback address.
		add("target %s: a loopback address cannot be reached by way of lo with a client's address; name the address that the server listens on", s.To)
	case s.Destination.IsValid() && FamilyOf(a) != s.Family():
		add("target %s: not of the family of the destination", s.To)
	case netip.AddrPortFrom(s.Destination.Addr(), s.Port) == s.To:
		add("target %s: is the destination itself", s.To)
	}
	return errs
}

// validInterface applies the kernel's rule for names (dev_valid_name in
// net/core/dev.c), less what xtables or its text form would not take literally.
func validInterface(name string) error {
	const maxLen = 15 // IFNAMSIZ - 1
	switch {
	case name == "" || len(name) > maxLen:
		return fmt.Errorf("interface %q: a name has 1 to %d bytes", name, maxLen)
	case name == "." || name == ".." || strings.ContainsAny(name, "/:\"'\\!"):
		return fmt.Errorf("interface %q: not a name of an interface", name)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return fmt.Errorf("interface %q: white space, control or non-ASCII bytes", name)
	case strings.HasSuffix(name, "+"):
		return fmt.Errorf("interface %q: a trailing + means a wildcard to xtables", name)
	case name == "lo":
		return fmt.Errorf("interface %q: local traffic is never proxied", name)
	}
	return nil
}

// Policy is what to protect: the whole of it, since applying a policy replaces
// the one before. The zero value protects nothing.
type Policy struct {
	Services []Service `json:"services"`
	// Closing are services that are being given up: their SYNs go to the
	// backend again, and the cookies that are still on their way are judged.
	Closing []Service `json:"closing,omitempty"`
	// Window asks for what opens the window of the proxy's SYN+ACK; see [Window].
	Window bool `json:"window,omitempty"`
	// Anchors are the families whose proxied connections must live on: the
	// kernel translates their timestamps only as long as some SYNPROXY rule of
	// the family exists. Those of the services are among them, named or not.
	Anchors []Family `json:"anchors,omitempty"`
}

// Close returns the policy without the services that it does not share with
// next, which it closes: the way from one to the other that loses no cookie.
func (p Policy) Close(next Policy) Policy {
	type key struct {
		destination netip.Prefix
		port        uint16
	}
	stays := map[key]bool{}
	for _, s := range next.Services {
		stays[key{s.Destination, s.Port}] = true
	}
	var going []int
	for i, s := range p.Services {
		if !stays[key{s.Destination, s.Port}] {
			going = append(going, i)
		}
	}
	via := next
	via.Closing = slices.Grow(slices.Clip(next.Closing), len(going)) // what is appended is not next's
	for _, i := range going {
		via.Closing = append(via.Closing, p.Services[i])
	}
	return via
}

// Validate returns every fault of the policy, joined; nil if there is none. Of
// services that overlap, each is told with the widest that covers it.
func (p Policy) Validate() error {
	return ValidateServices(len(p.Services), func(i int) *Service { return &p.Services[i] })
}

// ValidateServices is [Policy.Validate] of n services, of which at returns each
// by its index: they may be parts of something larger.
func ValidateServices(n int, at func(i int) *Service) error {
	var errs []error
	cover := covers(n, at)
	for i := range n {
		s := at(i)
		faults := s.faults()
		if c, ok := cover[i]; ok {
			faults = append(faults, fmt.Errorf("overlaps with %s", at(c)))
		}
		for _, fault := range faults {
			errs = append(errs, fmt.Errorf("service %s: %w", s, fault))
		}
	}
	return errors.Join(errs...)
}

// covers maps each service that lies within an earlier or wider one to it, both
// by their indices. Prefixes are nested or disjoint, so that in the order of
// addresses, wider first, the one that covers comes before what it covers.
func covers(n int, at func(i int) *Service) map[int]int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := at(i), at(j)
		if c := cmp.Compare(a.Port, b.Port); c != 0 {
			return c
		}
		return cmp.Or(a.Destination.Masked().Addr().Compare(b.Destination.Masked().Addr()), cmp.Compare(a.Destination.Bits(), b.Destination.Bits()))
	})
	cover := map[int]int{}
	last := -1
	for _, i := range order {
		s := at(i)
		if last >= 0 && s.Port == at(last).Port && s.Destination.Overlaps(at(last).Destination) {
			cover[i] = last
			continue
		}
		last = i
	}
	return cover
}
