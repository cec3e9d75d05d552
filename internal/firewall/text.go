package firewall

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// String writes a verdict in the words of nft; nothing if the next rule is
// asked.
func (v Verdict) String() string {
	switch v.Kind {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Reject:
		return "reject"
	case Return:
		return "return"
	case Jump:
		return "jump " + v.Chain
	case Goto:
		return "goto " + v.Chain
	case Queue:
		return "queue"
	}
	return ""
}

// String writes the target as people do.
func (t Target) String() string {
	text := ""
	if t.Addr.IsValid() {
		text = t.Addr.String()
		if t.Addr.Is6() && t.Port != 0 {
			text = "[" + text + "]"
		}
	}
	if t.Port != 0 {
		text += ":" + strconv.Itoa(int(t.Port))
	}
	if t.Many {
		text += "..."
	}
	return text
}

// fieldWords are the words of nft for the fields.
var fieldWords = map[Field]string{
	Source: "saddr", Destination: "daddr", SourcePort: "sport", DestinationPort: "dport", Flags: "tcp flags",
	Protocol: "meta l4proto", NetFamily: "meta nfproto", EtherType: "meta protocol", InInterface: "iifname",
	OutInterface: "oifname", CTState: "ct state", SourceType: "fib saddr type", DestinationType: "fib daddr type",
	PacketMark: "meta mark", connectionMark: "ct mark", ReversePath: "fib saddr . iif oif",
	Translated: "ct status dnat", Owned: "owner socket",
}

// String writes the condition much like nft does: it is for people to find the
// rule, not for nft to read.
func (c Condition) String() string {
	var b strings.Builder
	for i, k := range c.Keys {
		if i > 0 {
			b.WriteString(" . ")
		}
		b.WriteString(c.word(i, k.Field))
		if k.Mask != nil {
			fmt.Fprintf(&b, " & %s", value(k.Field, k.Mask))
		}
	}
	b.WriteByte(' ')
	if states, ok := c.states(); ok {
		b.WriteString(states)
		return b.String()
	}
	if c.Not {
		b.WriteString("!= ")
	}
	b.WriteString(c.values())
	return b.String()
}

// states writes a set of states the way round that is shorter: what nft calls
// "invalid" reaches the kernel as a mask.
func (c Condition) states() (string, bool) {
	if len(c.Keys) != 1 || c.Keys[0].Field != CTState || c.Keys[0].Mask != nil || c.label != "" {
		return "", false
	}
	var set rules.States
	for _, r := range c.ranges() {
		if !bytes.Equal(r.From, r.To) || len(r.From) != 1 {
			return "", false
		}
		set |= rules.States(r.From[0])
	}
	if c.Not {
		set = ^set & (rules.Untracked<<1 - 1)
	}
	return strings.ToLower(set.String()), true
}

func (c Condition) word(i int, f Field) string {
	word := fieldWords[f]
	if f != Source && f != Destination {
		return word
	}
	if len(c.In) > 0 && i < len(c.In[0]) && len(c.In[0][i].From) == 16 {
		return "ip6 " + word
	}
	return "ip " + word
}

// values writes a few of the values.
func (c Condition) values() string {
	if c.label != "" {
		return c.label
	}
	const most = 6
	var all []string
	for i, element := range c.In {
		if i == most {
			all = append(all, "...")
			break
		}
		var parts []string
		for j, r := range element {
			if j < len(c.Keys) {
				parts = append(parts, interval(c.Keys[j].Field, r))
			}
		}
		all = append(all, strings.Join(parts, " . "))
	}
	if len(all) == 1 {
		return all[0]
	}
	return "{ " + strings.Join(all, ", ") + " }"
}

func interval(f Field, r Range) string {
	if bytes.Equal(r.From, r.To) {
		return value(f, r.From)
	}
	if f == InInterface || f == OutInterface {
		return strconv.Quote(strings.TrimRight(string(r.From), "\x00") + "*")
	}
	if a, ok := netip.AddrFromSlice(r.From); ok && (f == Source || f == Destination) {
		for bits := range a.BitLen() {
			if p := prefixRange(netip.PrefixFrom(a, bits)); bytes.Equal(p.From, r.From) && bytes.Equal(p.To, r.To) {
				return netip.PrefixFrom(a, bits).String()
			}
		}
	}
	return value(f, r.From) + "-" + value(f, r.To)
}

func value(f Field, v []byte) string {
	switch f {
	case Source, Destination:
		if a, ok := netip.AddrFromSlice(v); ok {
			return a.String()
		}
	case SourcePort, DestinationPort:
		if len(v) == 2 {
			return strconv.Itoa(int(v[0])<<8 | int(v[1]))
		}
	case InInterface, OutInterface:
		return strconv.Quote(strings.TrimRight(string(v), "\x00"))
	}
	if len(v) == 1 {
		if text := byteValue(f, v[0]); text != "" {
			return text
		}
	}
	return fmt.Sprintf("0x%x", v)
}

func byteValue(f Field, v byte) string {
	switch f {
	case Flags:
		return strings.ToLower(strings.ReplaceAll(rules.TCPFlags(v).String(), ",", "|"))
	case CTState:
		return strings.ToLower(rules.States(v).String())
	case NetFamily:
		return map[byte]string{unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"}[v]
	case Protocol:
		for name, n := range protocolNumbers {
			if n == v && name != "icmpv6" {
				return name
			}
		}
	case SourceType, DestinationType:
		for name, n := range routeTypes {
			if n == v {
				return strings.ToLower(name)
			}
		}
	case ReversePath:
		return map[byte]string{0: "missing", 1: "exists"}[v]
	case Owned:
		return map[byte]string{0: "none", 1: "exists"}[v]
	}
	return ""
}

func joinWords(words []string) string { return strings.Join(words, " ") }
