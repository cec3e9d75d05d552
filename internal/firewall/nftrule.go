package firewall

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// compiler turns the expressions of one rule into conditions and a verdict. It
// follows the registers; what it does not know makes the rule obscure.
type compiler struct {
	*nftables
	table      nftID
	family     Family // of the packets, as far as the rule has said
	interfaces map[uint32]string
	registers  map[uint32]*load // by the number of their first 4 bytes
	rule       Rule
	words      []string
	ended      bool
	maps       []Rule // of a verdict map: one for each verdict
}

// compile returns a rule, or several if it holds a verdict map.
func (n *nftables) compile(r nftRule, family Family, interfaces map[uint32]string) []Rule {
	c := compiler{nftables: n, table: r.nftID, family: family, interfaces: interfaces, registers: map[uint32]*load{}}
	for _, e := range r.exprs {
		if c.ended {
			break
		}
		c.expression(e.name, e.attrs)
	}
	if c.maps != nil {
		return c.maps
	}
	if word := c.rule.Verdict.String(); word != "" {
		c.say(word)
	}
	c.rule.Text = joinWords(c.words)
	return []Rule{c.rule}
}

func (c *compiler) say(word string) { c.words = append(c.words, word) }

// obscure takes note of what is not understood.
func (c *compiler) obscure(word string) {
	c.rule.Obscure = true
	c.say("(" + word + ")")
}

func (c *compiler) end(kind VerdictKind) {
	c.rule.Verdict.Kind, c.ended = kind, true
}

func (c *compiler) act(a Action, word string) {
	c.rule.Actions = append(c.rule.Actions, a)
	c.say(word)
}

func (c *compiler) expression(name string, as attributes) {
	switch name {
	case "counter", "last", "log", "secmark", "cthelper", "cttimeout", "ctexpect", "dup", "flow_offload":
		if name == "log" {
			c.say("log")
		}
	case "meta":
		c.meta(as)
	case "ct":
		c.conntrack(as)
	case "payload":
		c.payload(as)
	case "fib":
		c.fib(as)
	case "immediate":
		c.immediate(as)
	case "bitwise":
		c.bitwise(as)
	case "byteorder": // only reorders what it has in one register
		c.byteorder(as)
	case "cmp", "range":
		c.compare(name, as)
	case "lookup":
		c.lookup(as)
	case "notrack":
		c.act(Action{Kind: Notrack}, "notrack")
	case "masq":
		c.end(Accept)
		c.say("masquerade")
	case "nat":
		c.nat(as)
	case "redir":
		c.redirect(as)
	case "reject":
		c.end(Reject)
	case "queue":
		c.end(Queue)
	case "fwd":
		c.end(Drop)
		c.say("fwd")
	case "synproxy":
		c.synproxy()
	case "objref":
		c.object(as)
	case "exthdr":
		c.exthdr(as)
	case "target":
		c.xtables(as)
	case "match":
		c.xtablesMatch(as)
	case "tproxy":
		c.obscure(name)
		c.end(Other)
	default:
		c.obscure(name)
		clear(c.registers)
	}
}

// register returns the number of a register's first 4 bytes (nft_parse_register
// in net/netfilter/nf_tables_api.c, Linux 6.18).
func register(n uint32) uint32 {
	const words = 4 // of 4 bytes each has one of the old registers
	if n <= unix.NFT_REG_4 {
		return n * words
	}
	return n - unix.NFT_REG32_00 + words
}

// put stores what was loaded; nil: something unknown.
func (c *compiler) put(to uint32, l *load, size int) {
	r := register(to)
	for n := range uint32(max(1, (size+3)/4)) {
		delete(c.registers, r+n)
	}
	if l != nil {
		c.registers[r] = l
	}
}

func (c *compiler) meta(as attributes) {
	key := as.uint32(unix.NFTA_META_KEY)
	if as.has(unix.NFTA_META_SREG) {
		if key == unix.NFT_META_MARK {
			c.act(Action{Kind: Mark, Mark: c.markSet(as, unix.NFTA_META_SREG)}, "meta mark set")
		}
		return
	}
	if key == unix.NFT_META_SKUID || key == unix.NFT_META_SKGID {
		// Without a socket the rule ends here (nft_meta_get_eval_skugid in
		// net/netfilter/nft_meta.c, Linux 6.18).
		c.rule.Conditions = append(c.rule.Conditions, where(Owned, exactly(1)))
	}
	c.put(as.uint32(unix.NFTA_META_DREG), metaLoad(key, c.interfaces), unix.IFNAMSIZ)
}

func (c *compiler) conntrack(as attributes) {
	key := as.uint32(unix.NFTA_CT_KEY)
	if as.has(unix.NFTA_CT_SREG) {
		switch key {
		case unix.NFT_CT_ZONE:
			l := c.registers[register(as.uint32(unix.NFTA_CT_SREG))]
			if l == nil || l.constant == nil || slices.ContainsFunc(l.constant, func(b byte) bool { return b != 0 }) {
				c.act(Action{Kind: Zone}, "ct zone set")
			}
		case unix.NFT_CT_MARK:
			c.act(Action{Kind: ConnMark, Mark: c.markSet(as, unix.NFTA_CT_SREG)}, "ct mark set")
		}
		return
	}
	var l *load
	switch key {
	case unix.NFT_CT_MARK:
		l = field(connectionMark, 4)
	case unix.NFT_CT_STATE:
		l = stateLoad()
	case unix.NFT_CT_STATUS:
		l = statusLoad()
	}
	c.put(as.uint32(unix.NFTA_CT_DREG), l, 16)
}

// markSet tells what a mark is set to: a constant, or what another mark was.
func (c *compiler) markSet(as attributes, source uint16) MarkChange {
	l := c.registers[register(as.uint32(source))]
	switch {
	case l == nil:
		return MarkChange{}
	case len(l.constant) == 4:
		return MarkChange{Value: binary.NativeEndian.Uint32(l.constant), Mask: math.MaxUint32, Known: true}
	}
	return MarkChange{Restored: len(l.fields) == 1 && l.fields[0].field == connectionMark}
}

func (c *compiler) payload(as attributes) {
	if as.has(unix.NFTA_PAYLOAD_SREG) {
		return // writes
	}
	base := as.uint32(unix.NFTA_PAYLOAD_BASE)
	offset, size := int(as.uint32(unix.NFTA_PAYLOAD_OFFSET)), int(as.uint32(unix.NFTA_PAYLOAD_LEN))
	family := c.family
	if family != IP6 && (family == IP || base == unix.NFT_PAYLOAD_TRANSPORT_HEADER) {
		family = IP
	}
	c.put(as.uint32(unix.NFTA_PAYLOAD_DREG), payloadLoad(family, base, offset, size), min(size, 1<<8))
}

func (c *compiler) fib(as attributes) {
	flags := as.uint32(unix.NFTA_FIB_FLAGS)
	const interfaces = unix.NFTA_FIB_F_IIF | unix.NFTA_FIB_F_OIF
	var l *load
	switch result := as.uint32(unix.NFTA_FIB_RESULT); {
	case result != unix.NFT_FIB_RESULT_ADDRTYPE && flags&unix.NFTA_FIB_F_SADDR != 0 && flags&unix.NFTA_FIB_F_IIF != 0:
		l = reversePathLoad()
	case result != unix.NFT_FIB_RESULT_ADDRTYPE, flags&interfaces != 0:
	case flags&unix.NFTA_FIB_F_SADDR != 0:
		l = addressTypeLoad(SourceType)
	case flags&unix.NFTA_FIB_F_DADDR != 0:
		l = addressTypeLoad(DestinationType)
	}
	c.put(as.uint32(unix.NFTA_FIB_DREG), l, 16)
}

func (c *compiler) immediate(as attributes) {
	to := as.uint32(unix.NFTA_IMMEDIATE_DREG)
	if to != unix.NFT_REG_VERDICT {
		data := as.data(unix.NFTA_IMMEDIATE_DATA)
		c.put(to, &load{constant: data}, len(data))
		return
	}
	if v := as.verdict(unix.NFTA_IMMEDIATE_DATA); v != nil {
		c.rule.Verdict, c.ended = *v, v.Kind != Continue
	}
}

// bitwise knows masks; what changes bits or shifts them is not understood.
func (c *compiler) bitwise(as attributes) {
	const op = 6 // NFTA_BITWISE_OP: 0 is mask and xor
	l := c.registers[register(as.uint32(unix.NFTA_BITWISE_SREG))]
	size := int(as.uint32(unix.NFTA_BITWISE_LEN))
	mask, xor := as.data(unix.NFTA_BITWISE_MASK), as.data(unix.NFTA_BITWISE_XOR)
	isMask := as.uint32(op) == 0 && len(mask) == size && !slices.ContainsFunc(xor, func(b byte) bool { return b != 0 })
	if l == nil || l.mask != nil || len(l.fields) != 1 || l.size() != size || !isMask {
		c.put(as.uint32(unix.NFTA_BITWISE_DREG), nil, min(size, 1<<8))
		return
	}
	c.put(as.uint32(unix.NFTA_BITWISE_DREG), l.underMask(mask), size)
}

func (c *compiler) byteorder(as attributes) {
	l := c.registers[register(as.uint32(unix.NFTA_BYTEORDER_SREG))]
	if l != nil && len(l.fields) == 1 && l.fields[0].field == PacketMark && l.mask == nil {
		l = field(PacketMark, 4)
	} else {
		l = nil
	}
	c.put(as.uint32(unix.NFTA_BYTEORDER_DREG), l, 16)
}

func (c *compiler) exthdr(as attributes) {
	if as.has(unix.NFTA_EXTHDR_DREG) {
		c.obscure("exthdr")
		c.put(as.uint32(unix.NFTA_EXTHDR_DREG), nil, 16)
	}
}

// learn takes from a condition which family the packets have.
func (c *compiler) learn(cond Condition) {
	if len(cond.Keys) != 1 || len(cond.In) != 1 || cond.Not {
		return
	}
	v4, v6 := Packet{Destination: anyV4}, Packet{Destination: anyV6}
	switch cond.Keys[0].Field {
	case NetFamily, EtherType:
		a, b := v4.at(0), v6.at(0)
		switch {
		case cond.holds(&a) == yes:
			c.family = IP
		case cond.holds(&b) == yes:
			c.family = IP6
		}
	}
}

var (
	anyV4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	anyV6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)
