package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// constant returns what an immediate expression has put into a register.
func (c *compiler) constant(as attributes, attribute uint16) []byte {
	l := c.registers[register(as.uint32(attribute))]
	if !as.has(attribute) || l == nil {
		return nil
	}
	return l.constant
}

func (c *compiler) nat(as attributes) {
	c.end(Accept)
	if as.uint32(unix.NFTA_NAT_TYPE) != unix.NFT_NAT_DNAT {
		c.say("snat")
		return
	}
	var t Target
	if as.has(unix.NFTA_NAT_REG_ADDR_MIN) {
		first, last := c.constant(as, unix.NFTA_NAT_REG_ADDR_MIN), c.constant(as, unix.NFTA_NAT_REG_ADDR_MAX)
		addr, ok := netip.AddrFromSlice(first)
		t.Addr, t.Many = addr, !ok || last != nil && !slices.Equal(first, last)
	}
	port, many := c.natPort(as, unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX)
	t.Port, t.Many = port, t.Many || many
	c.act(Action{Kind: Translate, To: t}, "dnat to "+t.String())
}

func (c *compiler) redirect(as attributes) {
	c.end(Accept)
	port, many := c.natPort(as, unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFTA_REDIR_REG_PROTO_MAX)
	t := Target{Port: port, Many: many}
	c.act(Action{Kind: Translate, To: t}, "redirect to "+t.String())
}

func (c *compiler) natPort(as attributes, from, to uint16) (port uint16, many bool) {
	if !as.has(from) {
		return 0, false
	}
	first, last := c.constant(as, from), c.constant(as, to)
	if len(first) < 2 {
		return 0, true
	}
	return uint16(first[0])<<8 | uint16(first[1]), last != nil && !slices.Equal(first, last)
}

func (c *compiler) synproxy() {
	c.act(Action{Kind: AnySynproxy}, "synproxy")
	c.end(Synproxy)
}

// object is a named counter, limit and so on, or one that a map names.
func (c *compiler) object(as attributes) {
	const objCounter, objQuota, objLimit, objConnLimit, objSynproxy = 1, 2, 4, 5, 10
	kind := as.uint32(unix.NFTA_OBJREF_IMM_TYPE)
	if name := as.text(unix.NFTA_OBJREF_SET_NAME); name != "" {
		s := c.sets[nftID{c.table.family, c.table.table, name}]
		c.inSet(s, as.uint32(unix.NFTA_OBJREF_SET_SREG), false)
		if s != nil {
			kind = s.objectType
		}
	}
	switch kind {
	case objQuota, objLimit, objConnLimit:
		c.obscure("limit")
	case objSynproxy:
		c.synproxy()
	}
}

// xtables is a target of iptables, whose options are binary.
func (c *compiler) xtables(as attributes) {
	name, info := as.text(unix.NFTA_TARGET_NAME), as[unix.NFTA_TARGET_INFO]
	c.say("xt target " + name)
	if !xtablesContinue[name] {
		kind, ok := xtablesVerdicts[name]
		if !ok {
			kind = Other
		}
		c.end(kind)
	}
	switch name {
	case "NOTRACK":
		c.rule.Actions = append(c.rule.Actions, Action{Kind: Notrack})
	case "CT":
		// struct xt_ct_target_info: flags and zone, 16 bits each.
		if len(info) >= 4 && (info[0]|info[1])&1 != 0 {
			c.rule.Actions = append(c.rule.Actions, Action{Kind: Notrack})
		}
		if len(info) >= 4 && (info[2]|info[3]) != 0 {
			c.rule.Actions = append(c.rule.Actions, Action{Kind: Zone})
		}
	case "MARK":
		c.rule.Actions = append(c.rule.Actions, Action{Kind: Mark})
	case "CONNMARK":
		c.rule.Actions = append(c.rule.Actions, Action{Kind: ConnMark}, Action{Kind: Mark, Mark: MarkChange{Restored: true}})
	case "SYNPROXY":
		c.rule.Actions = append(c.rule.Actions, Action{Kind: AnySynproxy})
	case "DNAT", "REDIRECT", "NETMAP":
		c.rule.Actions = append(c.rule.Actions, Action{Kind: Translate, To: Target{Many: true}})
	}
}

// xtablesMatch is a match of iptables, whose options are binary. Of them only
// the one that administrators use most is understood, the state.
func (c *compiler) xtablesMatch(as attributes) {
	name := as.text(unix.NFTA_MATCH_NAME)
	if name == "comment" {
		return
	}
	cond, ok := conntrackMatch(as[unix.NFTA_MATCH_INFO])
	if name != "conntrack" || !ok {
		c.obscure("xt match " + name)
		return
	}
	c.rule.Conditions = append(c.rule.Conditions, cond)
	c.say(cond.String())
}

// conntrackMatch reads struct xt_conntrack_mtinfo2 or 3 if it asks for nothing
// but the state (linux/netfilter/xt_conntrack.h).
func conntrackMatch(info []byte) (Condition, bool) {
	const flagsAt, invertAt, statesAt, onlyState = 146, 148, 150, 1
	if len(info) < statesAt+2 || binary.NativeEndian.Uint16(info[flagsAt:]) != onlyState {
		return Condition{}, false
	}
	mask := binary.NativeEndian.Uint16(info[statesAt:])
	var set rules.States
	for state, bit := range map[rules.States]uint16{
		rules.Invalid: 1, rules.Established: 2, rules.Related: 4, rules.New: 8, rules.Untracked: 256,
	} {
		if mask&bit != 0 {
			set |= state
			mask &^= bit
		}
	}
	cond := stateSet(set)
	cond.Not = binary.NativeEndian.Uint16(info[invertAt:])&onlyState != 0
	return cond, mask == 0
}
