package rules

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Registers, as the kernel names them (nft_parse_register and nft_dump_register in
// net/netfilter/nf_tables_api.c): register 1 has 16 bytes, and begins where
// the register of 4 bytes begins that follows the first.
const (
	regVerdict = 0
	regFirst   = 1
	regSecond4 = 9 // the 4 bytes behind the first 4 of regFirst
	regSecond  = 2 // the bytes behind the 16 of regFirst
)

// Constants of linux/netfilter/nf_tables.h that x/sys/unix lacks (Linux 6.18).
const (
	nftObjrefSetSreg = 3  // NFTA_OBJREF_SET_SREG
	nftObjrefSetName = 4  // NFTA_OBJREF_SET_NAME
	nftSetExpr       = 17 // NFTA_SET_EXPR
	nftSetObjType    = 15 // NFTA_SET_OBJ_TYPE
	nftSetObject     = 64 // NFT_SET_OBJECT
	nftSetConcat     = 128
	nftDescConcat    = 2  // NFTA_SET_DESC_CONCAT
	nftElemKeyEnd    = 10 // NFTA_SET_ELEM_KEY_END
	nftObjSynproxy   = 10 // NFT_OBJECT_SYNPROXY
)

// expression is one expression of a rule.
func expression(name string, attrs ...attr) attr {
	list := []attr{leaf(unix.NFTA_EXPR_NAME, text(name))}
	if len(attrs) > 0 {
		list = append(list, nest(unix.NFTA_EXPR_DATA, attrs...))
	}
	return nest(unix.NFTA_LIST_ELEM, list...)
}

func value(kind uint16, data []byte) attr { return nest(kind, leaf(unix.NFTA_DATA_VALUE, data)) }

func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func compare(op uint32, data []byte) attr {
	return expression("cmp", leaf(unix.NFTA_CMP_SREG, be32(regFirst)), leaf(unix.NFTA_CMP_OP, be32(op)), value(unix.NFTA_CMP_DATA, data))
}

func equals(data []byte) attr  { return compare(unix.NFT_CMP_EQ, data) }
func differs(data []byte) attr { return compare(unix.NFT_CMP_NEQ, data) }

// equalsIf is equals, or with not its contrary.
func equalsIf(not bool, data []byte) attr {
	if not {
		return differs(data)
	}
	return equals(data)
}

func meta(key uint32) attr {
	return expression("meta", leaf(unix.NFTA_META_KEY, be32(key)), leaf(unix.NFTA_META_DREG, be32(regFirst)))
}

func ct(key uint32) attr {
	return expression("ct", leaf(unix.NFTA_CT_DREG, be32(regFirst)), leaf(unix.NFTA_CT_KEY, be32(key)))
}

func payload(base, offset, size, register uint32) attr {
	return expression("payload", leaf(unix.NFTA_PAYLOAD_DREG, be32(register)), leaf(unix.NFTA_PAYLOAD_BASE, be32(base)),
		leaf(unix.NFTA_PAYLOAD_OFFSET, be32(offset)), leaf(unix.NFTA_PAYLOAD_LEN, be32(size)))
}

func masked(mask []byte) attr {
	return expression("bitwise", leaf(unix.NFTA_BITWISE_SREG, be32(regFirst)), leaf(unix.NFTA_BITWISE_DREG, be32(regFirst)),
		leaf(unix.NFTA_BITWISE_LEN, be32(uint32(len(mask)))), value(unix.NFTA_BITWISE_MASK, mask), value(unix.NFTA_BITWISE_XOR, make([]byte, len(mask))))
}

func immediate(register uint32, data []byte) attr {
	return expression("immediate", leaf(unix.NFTA_IMMEDIATE_DREG, be32(register)), value(unix.NFTA_IMMEDIATE_DATA, data))
}

func verdictOf(code int32) attr {
	return expression("immediate", leaf(unix.NFTA_IMMEDIATE_DREG, be32(regVerdict)),
		nest(unix.NFTA_IMMEDIATE_DATA, nest(unix.NFTA_DATA_VERDICT, leaf(unix.NFTA_VERDICT_CODE, be32(uint32(code))))))
}

// header says where a family's packets hold what is matched.
type header struct{ source, destination, size uint32 }

func headerOf(f Family) header {
	if f == IPv6 {
		return header{source: 8, destination: 24, size: 16}
	}
	return header{source: 12, destination: 16, size: 4}
}

const (
	network   = unix.NFT_PAYLOAD_NETWORK_HEADER
	transport = unix.NFT_PAYLOAD_TRANSPORT_HEADER

	tcpSource, tcpDestination, tcpFlags = 0, 2, 13 // offsets in the TCP header
)

// expressions returns what the rule is to nf_tables. It counts its packets.
func (r Rule) expressions() ([]attr, error) {
	if r.Foreign == windowText {
		return windowExpressions(), nil
	}
	if r.Foreign != "" {
		return nil, fmt.Errorf("rule %q: not one of ours", r.Foreign)
	}
	var list []attr
	for _, m := range slices.SortedStableFunc(slices.Values(r.Matches), func(a, b Match) int { return cmp.Compare(price(a), price(b)) }) {
		more, err := matchExpressions(r.Family, m)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	list = append(list, expression("counter", leaf(unix.NFTA_COUNTER_BYTES, make([]byte, 8)), leaf(unix.NFTA_COUNTER_PACKETS, make([]byte, 8))))
	target, err := targetExpressions(r.Family, r.Target)
	return append(list, target...), err
}

// price orders matches so that a packet which is not meant leaves a rule soon:
// most differ in their flags or their state, which cost little to look at.
func price(m Match) int {
	switch m := m.(type) {
	case TCP:
		if m.Mask != 0 {
			return 0
		}
	case CTState:
		return 1
	}
	return 2 + m.rank()
}

func matchExpressions(f Family, m Match) ([]attr, error) {
	h := headerOf(f)
	switch m := m.(type) {
	case Source:
		return addressIs(h.source, m.Prefix.Addr().AsSlice(), m.Prefix.Bits(), m.Not), nil
	case Destination:
		return addressIs(h.destination, m.Prefix.Addr().AsSlice(), m.Prefix.Bits(), m.Not), nil
	case InInterface:
		if m.Name == "lo" { // whose number never changes: LOOPBACK_IFINDEX in include/net/net_namespace.h
			return []attr{meta(unix.NFT_META_IIF), equalsIf(m.Not, native32(1))}, nil
		}
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, m.Name)
		return []attr{meta(unix.NFT_META_IIFNAME), equalsIf(m.Not, name)}, nil
	case TCP:
		return m.expressions(), nil
	case CTState:
		return []attr{ct(unix.NFT_CT_STATE), masked(native32(m.States.bits())), differs(native32(0))}, nil
	case Translated:
		const dnat = 1 << 5 // IPS_DST_NAT in linux/netfilter/nf_conntrack_common.h
		return []attr{ct(unix.NFT_CT_STATUS), masked(native32(dnat)), equalsIf(m.Not, native32(dnat))}, nil
	case Members:
		return append(lookupKey(f, m.Source), expression("lookup", leaf(unix.NFTA_LOOKUP_SET, text(m.Set)), leaf(unix.NFTA_LOOKUP_SREG, be32(regFirst)))), nil
	case SourceType:
		return localAddress(unix.NFTA_FIB_F_SADDR, m.Not), nil
	case DestinationType:
		return localAddress(unix.NFTA_FIB_F_DADDR, m.Not), nil
	case Socket:
		if !m.Not { // without a socket, it has no owner, and the rule ends there
			return []attr{meta(unix.NFT_META_SKUID), compare(unix.NFT_CMP_GTE, native32(0))}, nil
		}
	case U32:
		return []attr{payload(network, uint32(m.Offset), 4, regFirst), masked(be32(m.Mask)), equals(be32(m.Value))}, nil
	}
	return nil, fmt.Errorf("match %v: nf_tables has no word for it", m.args())
}

func addressIs(offset uint32, ip []byte, length int, not bool) []attr {
	list := []attr{payload(network, offset, uint32(len(ip)), regFirst)}
	if length < 8*len(ip) {
		mask := make([]byte, len(ip))
		for i := range length {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		list = append(list, masked(mask))
	}
	return append(list, equalsIf(not, ip))
}

func (m TCP) expressions() []attr {
	list := []attr{meta(unix.NFT_META_L4PROTO), equals([]byte{unix.IPPROTO_TCP})}
	if m.Mask != 0 {
		list = append(list, payload(transport, tcpFlags, 1, regFirst), masked([]byte{byte(m.Mask)}), equals([]byte{byte(m.Set)}))
	}
	if m.SrcPort != 0 {
		list = append(list, payload(transport, tcpSource, 2, regFirst), equals(be16(m.SrcPort)))
	}
	if m.DstPort != 0 {
		list = append(list, payload(transport, tcpDestination, 2, regFirst), equals(be16(m.DstPort)))
	}
	return list
}

// bits returns the states as nf_tables numbers them (NF_CT_STATE_BIT in
// net/netfilter/nf_conntrack_core.h, by enum ip_conntrack_info).
func (s States) bits() uint32 {
	var set uint32
	for state, bit := range map[States]uint32{Invalid: 1, Established: 2, Related: 4, New: 8, Untracked: 64} {
		if s&state != 0 {
			set |= bit
		}
	}
	return set
}

func localAddress(which uint32, not bool) []attr {
	return []attr{
		expression("fib", leaf(unix.NFTA_FIB_DREG, be32(regFirst)), leaf(unix.NFTA_FIB_RESULT, be32(unix.NFT_FIB_RESULT_ADDRTYPE)), leaf(unix.NFTA_FIB_FLAGS, be32(which))),
		equalsIf(not, native32(unix.RTN_LOCAL)),
	}
}

// lookupKey loads the address and the port that a set is asked for.
func lookupKey(f Family, source bool) []attr {
	h := headerOf(f)
	at, port := h.destination, uint32(tcpDestination)
	if source {
		at, port = h.source, tcpSource
	}
	second := uint32(regSecond4)
	if f == IPv6 {
		second = regSecond
	}
	return []attr{payload(network, at, h.size, regFirst), payload(transport, port, 2, second)}
}

func targetExpressions(f Family, t Target) ([]attr, error) {
	switch t := t.(type) {
	case Verdict:
		code := map[Verdict]int32{Accept: 1, Drop: 0}[t] // NF_ACCEPT, NF_DROP
		return []attr{verdictOf(code)}, nil
	case Notrack:
		return []attr{expression("notrack")}, nil
	case SYNPROXY:
		return []attr{expression("synproxy", t.Options.attrs()...)}, nil
	case Lookup:
		return append(lookupKey(f, false), expression("objref", leaf(nftObjrefSetSreg, be32(regFirst)), leaf(nftObjrefSetName, text(t.Map)))), nil
	case TCPOptStrip:
		var list []attr
		for _, kind := range t.Kinds {
			list = append(list, expression("exthdr", leaf(unix.NFTA_EXTHDR_TYPE, []byte{kind}), leaf(unix.NFTA_EXTHDR_OP, be32(unix.NFT_EXTHDR_OP_TCPOPT))))
		}
		return list, nil
	case DNAT:
		second := uint32(regSecond4)
		if f == IPv6 {
			second = regSecond
		}
		// The ends of the ranges and the flags are what the kernel would fill in,
		// and tells of (nft_nat_init and nft_nat_dump in net/netfilter/nft_nat.c, 6.18).
		const mapAddress, mapPort = 1 << 0, 1 << 1 // NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_SPECIFIED
		return []attr{
			immediate(regFirst, t.To.Addr().AsSlice()), immediate(second, be16(t.To.Port())),
			expression("nat", leaf(unix.NFTA_NAT_TYPE, be32(unix.NFT_NAT_DNAT)), leaf(unix.NFTA_NAT_FAMILY, be32(uint32(protocol(f)))),
				leaf(unix.NFTA_NAT_REG_ADDR_MIN, be32(regFirst)), leaf(unix.NFTA_NAT_REG_ADDR_MAX, be32(regFirst)),
				leaf(unix.NFTA_NAT_REG_PROTO_MIN, be32(second)), leaf(unix.NFTA_NAT_REG_PROTO_MAX, be32(second)),
				leaf(unix.NFTA_NAT_FLAGS, be32(mapAddress|mapPort))),
		}, nil
	}
	return nil, fmt.Errorf("target %v: nf_tables has no word for it", t)
}

// attrs returns the options as the synproxy expression and object hold them
// (nft_synproxy_do_init in net/netfilter/nft_synproxy.c, 6.18).
func (o Options) attrs() []attr {
	var list []attr
	var flags uint32
	if o.MSS != nil {
		flags |= 1
		list = append(list, leaf(1, be16(*o.MSS)))
	}
	if o.WScale != nil {
		flags |= 2
		list = append(list, leaf(2, []byte{*o.WScale}))
	}
	if o.SACKPerm {
		flags |= 4
	}
	if o.Timestamps {
		flags |= 8
	}
	return append(list, leaf(3, be32(flags)))
}

func windowExpressions() []attr {
	const window, checksum = 14, 16
	return slices.Concat(
		TCP{Mask: handshake, Set: SYN | ACK}.expressions(),
		[]attr{
			payload(transport, window, 2, regFirst), equals(be16(0)), immediate(regFirst, be16(1)),
			expression("payload", leaf(unix.NFTA_PAYLOAD_SREG, be32(regFirst)), leaf(unix.NFTA_PAYLOAD_BASE, be32(transport)),
				leaf(unix.NFTA_PAYLOAD_OFFSET, be32(window)), leaf(unix.NFTA_PAYLOAD_LEN, be32(2)),
				leaf(unix.NFTA_PAYLOAD_CSUM_TYPE, be32(unix.NFT_PAYLOAD_CSUM_INET)), leaf(unix.NFTA_PAYLOAD_CSUM_OFFSET, be32(checksum))),
		})
}
