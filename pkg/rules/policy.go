package rules

// The chains that this package makes, and where the jumps to them stand. A
// jump comes first in its chain: a rule ahead of it that accepts, or drops
// INVALID packets, would take the packets that the protection needs.
const (
	chainPre     = ChainPrefix + "_PRE"
	chainIn      = ChainPrefix + "_IN"
	chainForward = ChainPrefix + "_FWD"
	chainOut     = ChainPrefix + "_OUT"
)

// handshake are the flags that tell the steps of a handshake apart.
const handshake = FIN | SYN | RST | ACK

// Rules returns the rules that protect the policy's services, in the order in
// which they must stand in their chains, the jumps in the built-in chains among
// them. It is a pure function, and equal policies give equal rules. The policy
// must be valid.
func (p Policy) Rules() []Rule {
	var rules []Rule
	for _, family := range Families {
		b := builder{family: family}
		for _, s := range p.Services {
			if s.Family() == family {
				b.service(s)
			}
		}
		rules = append(rules, b.jumps()...)
		rules = append(rules, b.rules...)
	}
	return rules
}

// builder collects the rules of one family.
type builder struct {
	family Family
	rules  []Rule
}

func (b *builder) add(table Table, chain string, target Target, matches ...Match) {
	r := Rule{Family: b.family, Table: table, Chain: chain, Matches: matches, Target: target}
	r.Matches = r.sorted()
	b.rules = append(b.rules, r)
}

func (b *builder) service(s Service) {
	b.arriving(s)
	b.answers(s)
	b.thirdACK(s)
}

// arriving handles what clients send: SYNs and the ACKs that bring a cookie back.
func (b *builder) arriving(s Service) {
	chain := chainForward
	if s.Hook == Input {
		chain = chainIn
	}
	to, port := Destination{Prefix: s.Destination}, s.Port
	for _, in := range ingress(s) {
		b.add(Raw, chainPre, Notrack{}, append([]Match{to, in, TCP{DstPort: port, Mask: handshake, Set: SYN}}, side(s)...)...)
		b.add(Filter, chain, SYNPROXY{s.Options}, to, in, TCP{DstPort: port}, CTState{Invalid | Untracked})
		b.add(Filter, chain, Drop, to, in, TCP{DstPort: port}, CTState{Invalid})
	}
	if s.Hook == Input {
		// The proxied SYN of a local service comes in by lo with the client's
		// address. Clients on this machine are left to the host's own rules.
		b.add(Filter, chain, Accept, to, InInterface{Name: "lo"}, TCP{DstPort: port}, SourceType{Not: true})
	}
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

// answers handles the proxy's SYN+ACK to the client. It must not meet the
// conntrack entry that an earlier connection from the same port left behind,
// whose sequence adjustment would spoil the cookie; and OUTPUT must let it go.
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
	b.add(Filter, chainOut, Accept, from, synAck, CTState{Invalid | Untracked})
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

// thirdACK handles what the proxy sends to the backend: packets of its own with
// the client's address, which belong to no socket.
func (b *builder) thirdACK(s Service) {
	to := Destination{Prefix: s.Destination}
	ack := TCP{DstPort: s.Port, Mask: handshake, Set: ACK}
	proxied := []Match{SourceType{Not: true}, Socket{Not: true}}
	bare := append([]Match{to, ack}, proxied...)
	switch s.ThirdACK() {
	case RepairStrip:
		b.add(Mangle, chainOut, TCPOptStrip{[]uint8{KindTimestamps}}, bare...)
	case RepairDrop:
		b.add(Filter, chainOut, Drop, bare...)
	case RepairNotrack:
		b.add(Raw, chainOut, Notrack{}, bare...)
	}
	b.add(Filter, chainOut, Accept, append([]Match{to, TCP{DstPort: s.Port}}, proxied...)...)
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
	{Mangle, "OUTPUT", chainOut},
	{Filter, "INPUT", chainIn},
	{Filter, "FORWARD", chainForward},
	{Filter, "OUTPUT", chainOut},
}

func (h hook) jump(f Family) Rule {
	return Rule{Family: f, Table: h.table, Chain: h.base, Target: Jump{h.chain}}
}
