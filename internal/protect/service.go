package protect

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Source tells where the options of a service come from.
type Source string

// The sources.
const (
	Probed Source = "probed"
	Given  Source = "given"
	// Configured means that all of them stand in the configuration file.
	Configured Source = "config"
	// Cached means that an answer of before was taken.
	Cached Source = "cached"
)

// Service is a protected service and where its options come from.
type Service struct {
	rules.Service
	Source Source `json:"source"`
	// ProbeAt is whom to ask for the options; not valid for a prefix without
	// a server that stands for it.
	ProbeAt netip.AddrPort `json:"probe_at"`
	// Received is how many SYNs were sent to it; nil: not asked for.
	Received *uint64 `json:"-"`
	// ProbedAt is when the answer was given that was taken from the cache; zero
	// unless the source is [Cached].
	ProbedAt time.Time `json:"probed_at,omitzero"`
	// Fixed are the options that a person has given although others were probed.
	Fixed Fixed `json:"fixed,omitzero"`
}

// compare orders services by destination and port, so that the order in which
// they were named, or a resolver answered, makes no difference to the rules.
func (s Service) compare(o Service) int { return s.comparePlace(&o) }

func (s *Service) comparePlace(o *Service) int {
	if c := s.Destination.Addr().Compare(o.Destination.Addr()); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(s.Destination.Bits(), o.Destination.Bits()), cmp.Compare(s.Port, o.Port))
}

// sortServices sorts by [Service.compare]; most lists are sorted already.
func sortServices(services []Service) {
	if !slices.IsSortedFunc(services, Service.compare) {
		slices.SortStableFunc(services, Service.compare)
	}
}

// equal reports whether two services are the same in everything.
func (s Service) equal(o Service) bool {
	return s.Destination == o.Destination && s.Port == o.Port && s.alike(&o) && s.Name == o.Name && s.To == o.To && s.ProbeAt == o.ProbeAt
}

// alike reports whether services differ at most in where they are and what they
// are called.
func (s *Service) alike(o *Service) bool { return s.Kind() == o.Kind() }

// Kind is what a service has apart from where it is, where its server is and what
// it is called. Kinds can be compared, and serve as keys.
type Kind struct {
	hook             rules.Hook
	first            rules.First
	mode             rules.Mode
	source           Source
	interfaces       string
	mss, wscale      int // -1: not announced
	sack, timestamps bool
	cookies          bool
	published        bool
	probedAt         int64 // seconds; 0 of what was not cached
	fixed            Fixed
}

// Kind returns the kind of the service.
func (s *Service) Kind() Kind {
	k := Kind{
		hook: s.Hook, first: s.First, mode: s.Mode, source: s.Source, interfaces: strings.Join(s.Interfaces, "/"), mss: -1, wscale: -1,
		sack: s.Options.SACKPerm, timestamps: s.Options.Timestamps, cookies: s.SynCookies, published: s.Published, fixed: s.Fixed,
	}
	if !s.ProbedAt.IsZero() {
		k.probedAt = s.ProbedAt.Unix()
	}
	if s.Options.MSS != nil {
		k.mss = int(*s.Options.MSS)
	}
	if s.Options.WScale != nil {
		k.wscale = int(*s.Options.WScale)
	}
	return k
}

// validate returns every fault of services, joined; nil if there is none.
func validate(services []Service) error {
	return rules.ValidateServices(len(services), func(i int) *rules.Service { return &services[i].Service })
}

func policyOf(services []Service) rules.Policy {
	p := rules.Policy{Services: make([]rules.Service, len(services))}
	for i, s := range services {
		p.Services[i] = s.Service
	}
	return p
}

// serviceJSON is how the contract shows a service: an address without its
// prefix length, and every key always there.
type serviceJSON struct {
	Name        string        `json:"name"`
	Destination string        `json:"destination"`
	Port        uint16        `json:"port"`
	Family      rules.Family  `json:"family"`
	Hook        rules.Hook    `json:"hook"`
	Interfaces  []string      `json:"interfaces"`
	Options     rules.Options `json:"options"`
	First       rules.First   `json:"first"`
	ThirdACK    rules.Repair  `json:"third_ack"`
	Source      Source        `json:"source"`
	Mode        rules.Mode    `json:"mode"`
	To          string        `json:"to,omitempty"`        // where the connections really go
	Published   bool          `json:"published,omitempty"` // the host's own rules translate the address
	Received    *uint64       `json:"syn_received,omitempty"`
	ProbedAt    time.Time     `json:"probed_at,omitzero"` // when the backend gave the answer that was cached
}

// View returns the service as the JSON output shows it.
func (s Service) View() any {
	v := serviceJSON{
		s.Name, s.Destination.String(), s.Port, s.Family(), s.Hook, s.Interfaces, s.Options, s.First, s.ThirdACK(), s.Source, s.Mode, "", s.Published, s.Received, s.ProbedAt,
	}
	if s.To.IsValid() {
		v.To = s.To.String()
	}
	if s.Destination.IsSingleIP() {
		v.Destination = s.Destination.Addr().String()
	}
	if v.Interfaces == nil {
		v.Interfaces = []string{}
	}
	if v.First == "" {
		v.First = rules.FirstUnknown
	}
	return v
}

// Services is a list that shows itself as the contract says.
type Services []Service

// MarshalJSON returns the list of views; never null.
func (ss Services) MarshalJSON() ([]byte, error) {
	views := make([]any, len(ss))
	for i, s := range ss {
		views[i] = s.View()
	}
	return json.Marshal(views)
}
