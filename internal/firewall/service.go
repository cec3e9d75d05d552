package firewall

import (
	"net/netip"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Service is a protected TCP service as the host's rules see it.
type Service struct {
	Destination netip.Prefix // where clients connect to
	Port        uint16
	Hook        Hook     // [Input] or [Forward]: where SYNs are answered
	Interfaces  []string // that clients come in by; empty: any but lo
	// Tracked tells that SYNs are tracked, and answered after the filters;
	// else they are not tracked.
	Tracked bool
	// To is where destination NAT leads; the zero value: there is none. ToLocal
	// tells that this is an address of this machine.
	To      netip.AddrPort
	ToLocal bool
	// Out are the interfaces that the packets leave by to where destination NAT
	// leads; empty: any but lo.
	Out []string
	// Backend is the variant of iptables whose built-in chains hold our rules in
	// the first place, or nftables, whose chains are ours alone; empty: none does.
	Backend Origin
}

const handshake = rules.SYN | rules.ACK

// toService is a packet of a client, before destination NAT.
func (s *Service) toService(h Hook, f rules.TCPFlags, states rules.States) Packet {
	p := Packet{
		Hook: h, In: s.Interfaces, Destination: s.Destination, DestinationPort: s.Port,
		DestinationLocal: s.Hook == Input, Flags: f, States: states,
	}
	return p
}

// reply is a packet of the backend to a client, where it first meets the rules.
func (s *Service) reply() Packet {
	p := Packet{Hook: Prerouting, Source: s.Destination, SourcePort: s.Port, Flags: rules.ACK, States: rules.Established}
	if s.To.IsValid() {
		p.Source, p.SourcePort = netip.PrefixFrom(s.To.Addr(), s.To.Addr().BitLen()), s.To.Port()
	}
	if s.toLo() {
		p.Hook, p.SourceLocal = Output, true
	}
	return p
}

// translated returns the packet as it is after destination NAT.
func (s *Service) translated(p Packet) Packet {
	if s.To.IsValid() {
		p.Destination = netip.PrefixFrom(s.To.Addr(), s.To.Addr().BitLen())
		p.DestinationPort, p.DestinationLocal, p.Translated = s.To.Port(), s.ToLocal, true
		if p.Hook == Forward || p.Hook == Postrouting && !s.toLo() {
			p.Out = s.Out
		}
	}
	return p
}

// backendHook is where packets to the backend go, when clients send them.
func (s *Service) backendHook() Hook {
	switch {
	case !s.To.IsValid():
		return s.Hook
	case s.ToLocal:
		return Input
	}
	return Forward
}

// toLo reports whether the proxied SYN comes back by lo.
func (s *Service) toLo() bool { return s.backendHook() == Input }

// answer is the SYN+ACK of SYNPROXY, on its way to a client.
func (s *Service) answer(h Hook) Packet {
	states := rules.Established
	if !s.Tracked {
		states = rules.Invalid | rules.Untracked
	}
	return Packet{
		Hook: h, Out: s.Interfaces, Source: s.Destination, SourcePort: s.Port, SourceLocal: s.Hook == Input,
		Flags: handshake, States: states, Made: true,
	}
}

// proxied is the SYN that SYNPROXY sends to the backend, with the client's
// source, before destination NAT.
func (s *Service) proxied(h Hook) Packet {
	p := s.toService(h, rules.SYN, rules.New)
	p.In, p.Made = nil, true
	if s.toLo() {
		p.In, p.Out = []string{"lo"}, []string{"lo"}
	}
	return p
}

// builtin reports whether a chain is the given one of our backend.
func (s *Service) builtin(c *Chain, table string) bool {
	return s.Backend != "" && c.Origin == s.Backend && c.Table == table && c.Hook != ""
}

// answered returns the priority at which SYNs are answered.
func (s *Service) answered() int32 {
	if s.Backend == rules.NFTables {
		return rules.PriorityAnswer
	}
	return PrioritySecurity
}

// without leaves the built-in chain out in which our own rule comes first.
func (s *Service) without(table string) func(*Chain) bool {
	return func(c *Chain) bool { return s.builtin(c, table) }
}

// Restricts reports whether the host's rules speak about who may reach the
// service: whether the first packet of a connection does not surely pass them,
// whoever sends it. The fate tells the rules. Such a service needs tracked
// mode, in which its SYNs meet the rules that are made for new connections.
func (fw Firewall) Restricts(s Service) (Fate, bool) {
	p := s.translated(s.toService(s.backendHook(), rules.SYN, rules.New))
	if fate := fw.Fate(p, Everything); fate.Outcome != Accepted {
		return fate, true
	}
	// What prerouting denies it denies in either mode, unless it asks for the
	// state. Before connection tracking it has none.
	late := Everything.After(PriorityConntrack)
	fate := fw.Fate(s.toService(Prerouting, rules.SYN, rules.New), late)
	plain := fw.Fate(s.toService(Prerouting, rules.SYN, rules.Untracked), late)
	return fate, fate.Outcome != Accepted && plain.Outcome != fate.Outcome
}

// everyPacket returns the packets of the service's connections at each hook
// that they meet.
func (s *Service) everyPacket() []Packet {
	const whatever = rules.New | rules.Untracked | rules.Invalid | rules.Established
	ps := []Packet{
		s.toService(Prerouting, rules.SYN, whatever), s.toService(Prerouting, rules.ACK, whatever),
		s.toService(s.Hook, rules.SYN, whatever), s.toService(s.Hook, rules.ACK, whatever),
		s.answer(Output), s.answer(Postrouting),
		s.proxied(Output), s.translated(s.proxied(Postrouting)),
	}
	if s.To.IsValid() {
		ps = append(ps, s.translated(s.toService(s.backendHook(), rules.ACK, whatever)))
	}
	if s.toLo() {
		ps = append(ps, s.translated(s.proxied(Prerouting)), s.translated(s.proxied(Input)))
	}
	return ps
}
