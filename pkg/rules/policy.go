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

// Rules returns the rules that protect the policy's services by the named
// backend, in the order in which they must stand in their chains, the jumps in
// the built-in chains among them. It is a pure function, and equal policies give
// equal rules. The policy must be valid, and the backend one of this package.
//
// The ACK that brings a cookie back is judged in the mangle table, ahead of the
// host's own filters, which would drop it as INVALID. SYNs are answered in the
// security table, behind them, so that whom they deny stays out.
func (p Policy) Rules(backend string) []Rule {
	rules, _ := p.build(layouts[backend])
	return rules
}

// build returns the rules and the sets that they look into.
func (p Policy) build(l layout) ([]Rule, []Set) {
	var rules []Rule
	var sets []Set
	for _, family := range Families {
		b := builder{family: family, native: l.native, named: map[string]bool{}}
		anchored := slices.Contains(p.Anchors, family)
		for _, g := range p.groups(l, family) {
			services := p.Services
			if g.closing {
				services = p.Closing
			} else {
				b.diverted(g)
				b.answering = true
			}
			b.judged(g)
			b.translated(g, services)
			more := g.sets(services)
			sets, anchored = append(sets, more...), true
			b.objects(more)
		}
		if p.Window && b.answering && !l.native {
			b.rules = append(b.rules, Rule{Family: family, Table: Window, Chain: chainWindow, Foreign: windowText})
		}
		if anchored {
			b.add(anchorTable, chainAnchor, SYNPROXY{}, TCP{})
		}
		if l.native {
			b.spareSockets()
		} else {
			rules = append(rules, b.jumps()...)
		}
		rules = append(rules, b.rules...)
	}
	return rules, sets
}

// sets returns what the rules of the group look into.
func (g group) sets(services []Service) []Set {
	if g.set == "" {
		return nil
	}
	s := Set{Family: g.like.Family(), Name: g.set, Networks: !g.like.Destination.IsSingleIP(), Counted: !g.layout.native, Mapped: g.layout.native && !g.closing}
	s.Members = make([]Member, len(g.services))
	names := map[optionKey]string{}
	for i, at := range g.services {
		m := Member{Prefix: services[at].Destination, Port: services[at].Port}
		if s.Mapped {
			key := services[at].Options.key()
			if names[key] == "" {
				names[key] = services[at].Options.Name()
			}
			m.Object = names[key]
		}
		s.Members[i] = m
	}
	s.normalize()
	if !s.Mapped {
		return []Set{s}
	}
	counted := Set{Family: s.Family, Name: s.Name + countedSuffix, Networks: s.Networks, Counted: true, Members: slices.Clone(s.Members)}
	for i := range counted.Members {
		counted.Members[i].Object = ""
	}
	return []Set{s, counted}
}

// builder collects the rules of one family.
type builder struct {
	family    Family
	rules     []Rule
	native    bool
	named     map[string]bool // objects that are among the rules
	answering bool            // there is a service whose SYNs are answered
}

func (b *builder) add(table Table, chain string, target Target, matches ...Match) {
	r := Rule{Family: b.family, Table: table, Chain: chain, Matches: matches, Target: target}
	r.Matches = r.sorted()
	b.rules = append(b.rules, r)
}

// unowned matches what belongs to no socket; native chains let the rest go at
// their begin.
func (b *builder) unowned() []Match {
	if b.native {
		return nil
	}
	return []Match{Socket{Not: true}}
}

// spareSockets puts a rule into chains of OUTPUT that lets go whatever belongs to
// a socket: to match that nothing owns a packet, nft has no word. Ahead of it
// stands what a flood meets: answers, which are known by their window of 0.
func (b *builder) spareSockets() {
	for _, table := range []Table{Raw, Mangle, NAT} {
		var answers, others, rest []Rule
		for _, r := range b.rules {
			switch {
			case r.Table != table || r.Chain != chainOut:
				rest = append(rest, r)
			case slices.ContainsFunc(r.Matches, func(m Match) bool { t, ok := m.(TCP); return ok && t.Set == SYN|ACK }):
				answers = append(answers, r)
			default:
				others = append(others, r)
			}
		}
		if table == Mangle && b.answering {
			answers = append(answers, Rule{Family: b.family, Table: Mangle, Chain: chainOut, Foreign: windowText})
		}
		if others != nil {
			others = slices.Insert(others, 0, Rule{Family: b.family, Table: table, Chain: chainOut, Matches: []Match{Socket{}}, Target: Accept})
		}
		b.rules = slices.Concat(answers, others, rest)
	}
}

// objects adds what the members of maps lead to.
func (b *builder) objects(sets []Set) {
	for _, s := range sets {
		for _, m := range s.Members {
			if m.Object == "" || b.named[m.Object] {
				continue
			}
			if o, err := optionsNamed(m.Object); err == nil {
				b.rules = append(b.rules, Rule{Family: b.family, Table: Objects, Chain: m.Object, Target: SYNPROXY{o}})
			}
			b.named[m.Object] = true
		}
	}
}

// entrance returns the chain that packets to the services meet.
func (g group) entrance() string {
	if g.like.Hook == Input {
		return chainIn
	}
	return chainForward
}

// diverted answers the SYNs of clients.
func (b *builder) diverted(g group) {
	s := g.like
	syn := TCP{Mask: handshake, Set: SYN}
	// A cookie for a server that is published under another address would not
	// hold: its client sends the ACK to that address, where it is made for this.
	//
	// Filters of the host say nothing about packets to an address that NAT
	// translates, so that there the SYN need not wait for them; they could
	// only take it for a connection to the host itself.
	table, state := Security, []Match{CTState{New | Untracked}, Translated{Not: true}}
	switch {
	case s.Translated():
		table, state = Mangle, []Match{CTState{Untracked}}
	case b.native && s.mode() == ModeNotrack:
		// What is not tracked has no status, and would not match (nft_ct_get_eval
		// in net/netfilter/nft_ct.c, 6.18). A change of the mode needs no state
		// between the two that serves both: it is one transaction.
		state = []Match{CTState{Untracked}}
	case b.native:
		state[0] = CTState{New}
	}
	for _, in := range ingress(s) {
		answer := g.counting
		if s.mode() == ModeNotrack {
			b.add(Raw, chainPre, Notrack{}, slices.Concat(g.counting(syn), []Match{in}, side(s))...)
			answer = g.to
		}
		if _, found := g.proxy().(Lookup); found && s.mode() == ModeNotrack {
			b.add(table, g.entrance(), g.proxy(), slices.Concat([]Match{syn, in}, state)...)
			continue
		}
		b.add(table, g.entrance(), g.proxy(), slices.Concat(answer(syn), []Match{in}, state)...)
	}
	if s.mode() == ModeNotrack {
		b.answers(g)
	}
}

// judged handles what follows the answer to a SYN: the ACK that brings the
// cookie back, and the connection that the proxy then opens to the backend.
func (b *builder) judged(g group) {
	s := g.like
	for _, in := range ingress(s) {
		// Without options: all that is needed is in the cookie
		// (synproxy_recv_client_ack in net/netfilter/nf_synproxy_core.c, 6.18).
		ack := TCP{Mask: handshake, Set: ACK}
		b.add(Mangle, g.entrance(), SYNPROXY{}, append(g.to(ack), in, CTState{Invalid})...)
		b.add(Mangle, g.entrance(), Drop, append(g.to(TCP{}), in, CTState{Invalid})...)
	}
	b.thirdACK(g)
	if g.layout.native {
		return // to accept in a chain of our own saves from nobody else's drop
	}
	if s.Hook == Input {
		// The proxied SYN of a local service comes in by lo with the client's
		// address. Clients on this machine are left to the host's own rules.
		b.add(Filter, chainIn, Accept, append(g.really(), InInterface{Name: "lo"}, SourceType{Not: true})...)
	}
	b.add(Filter, chainOut, Accept, append(g.really(), SourceType{Not: true}, Socket{Not: true})...)
	// To its clients go the SYN+ACK and the ACK that opens the window, which no
	// host that lets go only what is its own, or NEW, would let go.
	b.add(Filter, chainOut, Accept, append(g.from(TCP{}), Socket{Not: true})...)
}

// translated leads the connections that the proxy opens to where the servers
// really are. Only their first packets come here, after the cookie was good.
func (b *builder) translated(g group, services []Service) {
	if !g.like.Translated() {
		return
	}
	for _, at := range g.services {
		if s := services[at]; s.To.IsValid() {
			b.add(NAT, chainOut, DNAT{s.To}, append([]Match{Destination{Prefix: s.Destination}, TCP{DstPort: s.Port}, SourceType{Not: true}}, b.unowned()...)...)
		}
	}
}

// really matches packets of connections to the services behind a translation of
// their addresses, which in the filter table has already happened.
func (g group) really() []Match {
	switch {
	case !g.like.Translated():
		return g.to(TCP{})
	case g.set == "":
		return []Match{TCP{}, Original{g.like.Destination, g.like.Port}}
	}
	// What has a client's source and no socket is the proxy's. No set knows the
	// addresses of both sides of a translation.
	return []Match{TCP{}, Translated{}}
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
func ingress(s Service) []Match {
	if len(s.Interfaces) == 0 {
		return []Match{InInterface{Name: "lo", Not: true}}
	}
	var in []Match
	for _, name := range s.Interfaces {
		in = append(in, InInterface{Name: name})
	}
	return in
}

// answers handles the proxy's SYN+ACK to an untracked SYN. It must not meet the
// conntrack entry that an earlier connection from the same port left behind,
// whose sequence adjustment would spoil the cookie. (That to a tracked SYN
// belongs to the connection which the SYN began.)
func (b *builder) answers(g group) {
	matches := append(g.from(TCP{Mask: handshake, Set: SYN | ACK}), b.unowned()...)
	if b.native || g.like.Hook == Input || !g.like.Destination.IsSingleIP() {
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
func (b *builder) thirdACK(g group) {
	bare := append(append(g.to(TCP{Mask: handshake, Set: ACK}), SourceType{Not: true}), b.unowned()...)
	switch g.like.ThirdACK() {
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
