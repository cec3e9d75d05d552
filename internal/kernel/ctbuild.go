package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxWScale is the largest window scale of RFC 7323; the kernel refuses more.
const maxWScale = 14

// attr returns a netlink attribute with parts as its payload, padded to the
// alignment of 4.
func attr(typ uint16, parts ...[]byte) []byte {
	size := nlattrLen
	for _, p := range parts {
		size += len(p)
	}
	out := make([]byte, 0, (size+3)&^3)
	out = binary.NativeEndian.AppendUint16(out, uint16(size))
	out = binary.NativeEndian.AppendUint16(out, typ)
	for _, p := range parts {
		out = append(out, p...)
	}
	return append(out, make([]byte, -size&3)...)
}

func nest(typ uint16, parts ...[]byte) []byte { return attr(typ|unix.NLA_F_NESTED, parts...) }

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// nfgenmsg returns the header of a netfilter message about addr's family.
func nfgenmsg(addr netip.Addr) []byte {
	family := byte(unix.AF_INET6)
	if addr.Is4() {
		family = unix.AF_INET
	}
	return []byte{family, nl.NFNETLINK_V0, 0, 0}
}

// tupleAttr returns a CTA_TUPLE_* of a protocol with ports.
func tupleAttr(typ uint16, transport uint8, t Tuple) []byte {
	src, dst := uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
	if t.Src.Addr().Is4() {
		src, dst = ctaIPv4Src, ctaIPv4Dst
	}
	return nest(typ,
		nest(ctaTupleIP, attr(src, t.Src.Addr().AsSlice()), attr(dst, t.Dst.Addr().AsSlice())),
		nest(ctaTupleProto, attr(ctaProtoNum, []byte{transport}),
			attr(ctaProtoSrcPort, be16(t.Src.Port())), attr(ctaProtoDstPort, be16(t.Dst.Port()))))
}

// naming returns the payload that names the entry of c in a request: by its
// tuple, its zone and, if known, the identity that another entry of the same
// tuple does not have.
func (c Conn) naming() []byte {
	msg := append(nfgenmsg(c.Original.Src.Addr()), tupleAttr(ctaTupleOrig, c.transport, c.Original)...)
	if c.Zone != 0 {
		msg = append(msg, attr(ctaZone, be16(c.Zone))...)
	}
	if c.id != 0 {
		msg = append(msg, attr(ctaID, be32(c.id))...)
	}
	return msg
}

// creating returns the payload of the request that makes the entry of c.
func (c Conn) creating() []byte {
	flags := func(f TCPFlags) []byte { return []byte{byte(f), 0xff} } // and the mask
	return slices.Concat(
		nfgenmsg(c.Original.Src.Addr()),
		tupleAttr(ctaTupleOrig, c.transport, c.Original),
		tupleAttr(ctaTupleReply, c.transport, c.Reply),
		attr(ctaStatus, be32(uint32(c.Status))),
		attr(ctaTimeout, be32(uint32(c.Timeout.Seconds()))),
		nest(ctaProtoInfo, nest(ctaProtoInfoTCP,
			attr(ctaProtoTCPState, []byte{byte(c.State)}),
			attr(ctaProtoTCPWScaleOriginal, []byte{min(c.WScaleOriginal, maxWScale)}),
			attr(ctaProtoTCPWScaleReply, []byte{min(c.WScaleReply, maxWScale)}),
			attr(ctaProtoTCPFlagsOriginal, flags(c.FlagsOriginal)),
			attr(ctaProtoTCPFlagsReply, flags(c.FlagsReply)))),
	)
}
