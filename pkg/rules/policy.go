package rules

import "slices"

// The chains that this package makes, and where the jumps to them stand. A
// jump comes first in its chain: a rule ahead of it that accepts, or drops
// INVALID packets, would take the packets that the protection needs.
const (
	chainPre     = ChainPrefix + "_PRE"
	chainIn      = ChainPrefix + "_IN"
	chainForward = ChainPrefix + "_FWD"
	chainOut     = ChainPrefix + "_OUT"
	// chainAnchor has no jump. Its rule keeps the kernel's hooks in place that
	// the packets of proxied connections need (nf_synproxy_ipv4_init in
	// net/netfilter/nf_synproxy_core.c, 6.18), while everything else comes and goes.
	chainAnchor = ChainPrefix + "_ANCHOR"
	anchorTable = Filter
)

// handshake are the flags that tell the steps of a handshake apart.
const handshake = FIN | SYN | RST | ACK

// Rules returns the rules that protect the policy's services, in the order in
// which they must stand in their chains, the jumps in the built-in chains among
// them. It is a pure function, and equal policies give equal rules. The policy
// must be valid.
//
// The ACK that brings a cookie back is judged in the mangle table, ahead of the
// host's own filters, which would drop it as INVALID. SYNs are answered in the
// security table, behind them, so that whom they deny stays out.
func (p Policy) Rules() []Rule {
	var rules []Rule
	for _, family := range Families {
		b := builder{family: family}
		anchored := slices.Contains(p.Anchors, family)
		for _, s := range p.Services {
			if s.Family() == family {
				b.diverted(s)
				b.judged(s)
				anchored, b.answering = true, true
			}
		}
		for _, s := range p.Closing {
			if s.Family() == family {
				b.judged(s)
				anchored = true
			}
		}
		if p.Window && b.answering {
			b.rules = append(b.rules, Rule{Family: family, Table: Window, Chain: chainWindow, Foreign: windowText})
		}
		if anchored {
			b.add(anchorTable, chainAnchor, SYNPROXY{}, TCP{})
		}
		rules = append(rules, b.jumps()...)
		rules = append(rules, b.rules...)
	}
	return rules
}

// builder collects the rules of one family.
type builder struct {
	family    Family
	rules     []Rule
	answering bool // there is a service whose SYNs are answered
}

func (b *builder) add(table Table, chain string, target Target, matches ...Match) {
	r := Rule{Family: b.family, Table: table, Chain: chain, Matches: matches, Target: target}
	r.Matches = r.sorted()
	b.rules = append(b.rules, r)
}

// entrance returns the chain that packets to the service meet.
func (s Service) entrance() string {
	if s.Hook == Input {
		return chainIn
	}
	return chainForward
}

// diverted answers the SYNs of clients.
func (b *builder) diverted(s Service) {
	to := Destination{Prefix: s.Destination}
	syn := TCP{DstPort: s.Port, Mask: handshake, Set: SYN}
	// A cookie for a server that is published under another address would not
	// hold: its client sends the ACK to that address, where it is made for this.
	//
	// Filters of the host say nothing about packets to an address that NAT
	// translates, so that there the SYN need not wait for them; they could
	// only take it for a connection to the host itself.
	table, state := Security, []Match{CTState{New | Untracked}, Translated{Not: true}}
	if s.Translated() {
		table, state = Mangle, []Match{CTState{Untracked}}
	}
	for _, in := range ingress(s) {
		if s.mode() == ModeNotrack {
			b.add(Raw, chainPre, Notrack{}, append([]Match{to, in, syn}, side(s)...)...)
		}
		b.add(table, s.entrance(), SYNPROXY{s.Options}, append([]Match{to, in, syn}, state...)...)
	}
	if s.mode() == ModeNotrack {
		b.answers(s)
	}
}

// judged handles what follows the answer to a SYN: the ACK that brings the
// cookie back, and the connection that the proxy then opens to the backend.
func (b *builder) judged(s Service) {
	to, port := Destination{Prefix: s.Destination}, s.Port
	for _, in := range ingress(s) {
		ack := TCP{DstPort: port, Mask: handshake, Set: ACK}
		// Without options: all that is needed is in the cookie
		// (synproxy_recv_client_ack in net/netfilter/nf_synproxy_core.c, 6.18).
		b.add(Mangle, s.entrance(), SYNPROXY{}, to, in, ack, CTState{Invalid})
		b.add(Mangle, s.entrance(), Drop, to, in, TCP{DstPort: port}, CTState{Invalid})
	}
	if s.Hook == Input {
		// The proxied SYN of a local service comes in by lo with the client's
		// address. Clients on this machine are left to the host's own rules.
		b.add(Filter, chainIn, Accept, append(s.really(), InInterface{Name: "lo"}, SourceType{Not: true})...)
	}
	b.thirdACK(s)
	proxied := []Match{SourceType{Not: true}, Socket{Not: true}}
	if s.To.IsValid() {
		b.add(NAT, chainOut, DNAT{s.To}, append([]Match{to, TCP{DstPort: port}}, proxied...)...)
	}
	b.add(Filter, chainOut, Accept, append(s.really(), proxied...)...)
	// To its clients go the SYN+ACK and the ACK that opens the window, which no
	// host that lets go only what is its own, or NEW, would let go.
	b.add(Filter, chainOut, Accept, Source{Prefix: s.Destination}, TCP{SrcPort: port}, Socket{Not: true})
}

// really matches packets of connections to the service behind a translation of
// its address, which in the filter table has already happened.
func (s Service) really() []Match {
	if s.Translated() {
		return []Match{TCP{}, Original{s.Destination, s.Port}}
	}
	return []Match{Destination{Prefix: s.Destination}, TCP{DstPort: s.Port}}
}

// side keeps a prefix to the addresses that pass its hook. Of a routed network,
// this machine usually has an address too, whose SYNs would become untracked
// without a SYNPROXY to answer them, and be dropped by the host's own rules.
func side(s Service) []Match {
	if s.Destination.IsSingleIP() {
		return nil
	}
	return []Match{DestinationType{Not: s.Hook == Forward}}
}

// ingress returns the interface matches of a service, of which any one must
// hold. Never lo: the proxied SYN itself comes in by it.
func ingress(s Service) []InInterface {
	if len(s.Interfaces) == 0 {
		return []InInterface{{Name: "lo", Not: true}}
	}
	var in []InInterface
	for _, name := range s.Interfaces {
		in = append(in, InInterface{Name: name})
	}
	return in
}

// answers handles the proxy's SYN+ACK to an untracked SYN. It must not meet the
// conntrack entry that an earlier connection from the same port left behind,
// whose sequence adjustment would spoil the cookie. (That to a tracked SYN
// belongs to the connection which the SYN began.)
func (b *builder) answers(s Service) {
	from := Source{Prefix: s.Destination}
	synAck := TCP{SrcPort: s.Port, Mask: handshake, Set: SYN | ACK}
	matches := []Match{from, synAck, Socket{Not: true}}
	if s.Hook == Input || !s.Destination.IsSingleIP() {
		// A local backend that sends SYN cookies attaches no socket to its
		// SYN+ACK either (tcp_make_synack, net/ipv4/tcp_output.c), but only
		// the proxy's has window 0.
		matches = append(matches, windowZero(b.family))
	}
	b.add(Raw, chainOut, Notrack{}, matches...)
}

// windowZero matches TCP segments with window 0 that follow an IP header without
// options or extension headers, as the proxy's own do.
func windowZero(f Family) U32 {
	const window = 12 // offset of data offset, flags and window in the TCP header
	header := uint8(20)
	if f == IPv6 {
		header = 40
	}
	return U32{Offset: header + window, Mask: 0xffff}
}

// thirdACK repairs the ACK that the proxy sends to the backend: a packet of its
// own with the client's address, which belongs to no socket. In mangle it still
// has the address that the client used.
func (b *builder) thirdACK(s Service) {
	bare := []Match{
		Destination{Prefix: s.Destination}, TCP{DstPort: s.Port, Mask: handshake, Set: ACK}, SourceType{Not: true}, Socket{Not: true},
	}
	switch s.ThirdACK() {
	case RepairStrip:
		b.add(Mangle, chainOut, TCPOptStrip{[]uint8{KindTimestamps}}, bare...)
	case RepairDrop:
		b.add(Mangle, chainOut, Drop, bare...)
	case RepairNotrack:
		b.add(Raw, chainOut, Notrack{}, bare...)
	}
}

// jumps returns the jumps to the chains that have rules.
func (b *builder) jumps() []Rule {
	var jumps []Rule
	for _, h := range hooks {
		for _, r := range b.rules {
			if r.Table == h.table && r.Chain == h.chain {
				jumps = append(jumps, h.jump(b.family))
				break
			}
		}
	}
	return jumps
}

// hook is a place where a chain of ours is entered.
type hook struct {
	table Table
	base  string // the built-in chain
	chain string // ours
}

var hooks = [...]hook{
	{Raw, "PREROUTING", chainPre},
	{Raw, "OUTPUT", chainOut},
	{Mangle, "INPUT", chainIn},
	{Mangle, "FORWARD", chainForward},
	{Mangle, "OUTPUT", chainOut},
	{NAT, "OUTPUT", chainOut},
	{Filter, "INPUT", chainIn},
	{Filter, "OUTPUT", chainOut},
	{Security, "INPUT", chainIn},
	{Security, "FORWARD", chainForward},
}

func (h hook) jump(f Family) Rule {
	return Rule{Family: f, Table: h.table, Chain: h.base, Target: Jump{h.chain}}
}
