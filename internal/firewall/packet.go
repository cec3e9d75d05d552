package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Packet is a class of TCP packets at one hook.
type Packet struct {
	Hook Hook
	// In and Out are the interfaces, any of them; empty means any but lo. Where
	// the hook has none (Out in prerouting, In in output), they are ignored.
	In, Out []string
	// Source and Destination hold the addresses, any of the prefix. The zero
	// value is any address that is not this machine's: a client somewhere.
	Source, Destination           netip.Prefix
	SourceLocal, DestinationLocal bool   // the prefix is of this machine
	SourcePort, DestinationPort   uint16 // 0: any
	Flags                         rules.TCPFlags
	// States are those of connection tracking that the packet may have once it
	// was tracked; of none is known.
	States rules.States
	// Made says that SYNPROXY made the packet, or that it comes from lo: it
	// has its state from the start, not only after connection tracking.
	Made bool
	// Translated says that destination NAT has led the packet here.
	Translated bool

	// usual has conditions that cannot be decided answered for most clients.
	usual bool
}

// Family returns the address family of the packets.
func (p *Packet) Family() rules.Family {
	if p.Source.IsValid() {
		return rules.FamilyOf(p.Source.Addr())
	}
	return rules.FamilyOf(p.Destination.Addr())
}

// view is a packet as a base chain of a given priority sees it.
type view struct {
	Packet
	state rules.States
	known [fields]*knowledge // what was asked before
}

// at returns how a base chain sees the packet. Before connection tracking the
// kernel calls every packet that has no connection INVALID (nft_ct_get_eval in
// net/netfilter/nft_ct.c, Linux 6.18, and xt_conntrack.c likewise).
func (p *Packet) at(priority int32) view {
	v := view{Packet: *p, state: p.States}
	if priority < PriorityConntrack && p.untracked() {
		v.state = rules.Invalid
	}
	return v
}

// untracked reports whether connection tracking has yet to see the packet.
func (p *Packet) untracked() bool {
	fromLo := p.Hook == Prerouting && slices.Equal(p.In, []string{"lo"})
	return !p.Made && !fromLo && (p.Hook == Prerouting || p.Hook == Output)
}

// know tells what is known of a field.
func (v *view) know(f Field) *knowledge {
	if f >= fields {
		return &knowledge{}
	}
	if v.known[f] == nil {
		k := v.find(f)
		v.known[f] = &k
	}
	return v.known[f]
}

func (v *view) find(f Field) knowledge {
	switch f {
	case Source:
		return v.address(v.Source)
	case Destination:
		return v.address(v.Destination)
	case SourcePort:
		return v.port(v.SourcePort)
	case DestinationPort:
		return v.port(v.DestinationPort)
	case Flags:
		return is(byte(v.Flags))
	case Protocol:
		return is(unix.IPPROTO_TCP)
	case NetFamily:
		return is(v.either(unix.NFPROTO_IPV4, unix.NFPROTO_IPV6))
	case EtherType:
		return knowledge{values: [][]byte{{v.either(0x08, 0x86), v.either(0x00, 0xdd)}}}
	case InInterface:
		return device(v.In, v.Hook == Output || v.Hook == Postrouting)
	case OutInterface:
		return device(v.Out, v.Hook == Prerouting || v.Hook == Input || v.Hook == Ingress)
	case CTState:
		return v.states()
	case SourceType:
		return addressType(v.Source, v.SourceLocal)
	case DestinationType:
		return addressType(v.Destination, v.DestinationLocal)
	case PacketMark:
		if v.usual {
			return is(0, 0, 0, 0)
		}
	case ReversePath:
		// The kernel takes what comes in by lo for right.
		if v.usual || slices.Equal(v.In, []string{"lo"}) {
			return is(1)
		}
	case Owned:
		if v.Made && (v.Hook == Output || v.Hook == Postrouting) {
			return is(0)
		}
	case Translated:
		if v.Translated {
			return is(1)
		}
		return is(0)
	}
	return knowledge{}
}

// port is what is known of a port: of an unknown one, that most clients have one
// of those that their system chooses.
func (v *view) port(n uint16) knowledge {
	const chosen = 40000 // within ip_local_port_range of any system
	if n == 0 && v.usual {
		n = chosen
	}
	return port(n)
}

func is(value ...byte) knowledge { return knowledge{values: [][]byte{value}} }

func (v *view) either(v4, v6 byte) byte {
	if v.Family() == rules.IPv6 {
		return v6
	}
	return v4
}

func (v *view) address(p netip.Prefix) knowledge {
	if !p.IsValid() {
		if v.Family() == rules.IPv6 {
			return knowledge{size: 16, except: nobody6, usual: v.usual}
		}
		return knowledge{size: 4, except: nobody4, usual: v.usual}
	}
	r := prefixRange(p)
	if p.IsSingleIP() {
		return knowledge{values: [][]byte{r.From}}
	}
	return knowledge{within0: &r}
}

// nobody4 and nobody6 are no addresses of a host elsewhere.
var (
	nobody4 = prefixRanges("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")
	nobody6 = prefixRanges("::/127", "ff00::/8")
)

func prefixRanges(texts ...string) []Range {
	rs := make([]Range, len(texts))
	for i, text := range texts {
		rs[i] = prefixRange(netip.MustParsePrefix(text))
	}
	return rs
}

// prefixRange returns the addresses of a prefix.
func prefixRange(p netip.Prefix) Range {
	from := p.Masked().Addr().AsSlice()
	to := slices.Clone(from)
	for i := range to {
		switch bits := p.Bits() - 8*i; {
		case bits <= 0:
			to[i] = 0xff
		case bits < 8:
			to[i] |= 0xff >> bits
		}
	}
	return Range{from, to}
}

func port(n uint16) knowledge {
	if n == 0 {
		return knowledge{size: 2, except: []Range{exactly(0, 0)}}
	}
	return knowledge{values: [][]byte{binary.BigEndian.AppendUint16(nil, n)}}
}

func device(names []string, none bool) knowledge {
	switch {
	case none:
		return knowledge{values: [][]byte{deviceName("")}}
	case len(names) == 0:
		return knowledge{size: unix.IFNAMSIZ, except: []Range{exactly(deviceName("lo")...), exactly(deviceName("")...)}}
	}
	k := knowledge{}
	for _, name := range names {
		k.values = append(k.values, deviceName(name))
	}
	return k
}

// deviceName pads the name of an interface.
func deviceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func (v *view) states() knowledge {
	k := knowledge{}
	for bit := rules.Invalid; bit <= rules.Untracked; bit <<= 1 {
		if v.state&bit != 0 {
			k.values = append(k.values, []byte{byte(bit)})
		}
	}
	return k
}

func addressType(p netip.Prefix, local bool) knowledge {
	if local && p.IsValid() {
		return is(unix.RTN_LOCAL)
	}
	if p.IsValid() {
		return is(unix.RTN_UNICAST)
	}
	// A client's address may have any route, but is no address of ours.
	return knowledge{values: [][]byte{{unix.RTN_UNICAST}}}
}
