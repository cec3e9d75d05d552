package rules

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The part of linux/netfilter/ipset/ip_set.h that is needed (Linux 6.18,
// protocol 7, which kernels since 4.20 speak).
const (
	ipsetProtocol = 7

	ipsetCreate  = 2
	ipsetDestroy = 3
	ipsetSwap    = 6
	ipsetList    = 7
	ipsetAdd     = 9
	ipsetDel     = 10
	ipsetType    = 13

	ipsetAttrProtocol = 1
	ipsetAttrName     = 2
	ipsetAttrTypename = 3 // also the second name of a swap
	ipsetAttrRevision = 4
	ipsetAttrFamily   = 5
	ipsetAttrFlags    = 6
	ipsetAttrData     = 7
	ipsetAttrADT      = 8
	ipsetAttrLine     = 9

	ipsetDataIP       = 1
	ipsetDataCIDR     = 3
	ipsetDataPort     = 4
	ipsetDataProto    = 7
	ipsetDataFlags    = 8
	ipsetDataHashSize = 18
	ipsetDataMaxElem  = 19
	ipsetDataPackets  = 25

	ipsetFlagListNames = 1 << 1 // IPSET_FLAG_LIST_SETNAME
	ipsetFlagCounters  = 1 << 3 // IPSET_FLAG_WITH_COUNTERS, in the creation of a set
	ipsetFlagNoMatch   = 1 << 2 // IPSET_FLAG_NOMATCH, of a member that is an exception
	ipsetErrExist      = 4103   // IPSET_ERR_EXIST
	ipsetErrBusy       = 4100   // IPSET_ERR_BUSY, since something uses the set
	ipsetErrFull       = 4352   // IPSET_ERR_HASH_FULL
)

// maxMembers bounds a set; the kernel's own default is 65,536.
const maxMembers = 1 << 20

// ipsets is a connection to the kernel's sets.
type ipsets struct{ *netfilter }

func dialIPSet() (ipsets, error) {
	n, err := dialNetlink(context.Background())
	return ipsets{n}, err
}

func (s Set) typeName() string {
	if s.Networks {
		return "hash:net,port"
	}
	return "hash:ip,port"
}

func text(s string) []byte { return append([]byte(s), 0) }

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func ipsetRequest(command int) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_IPSET<<8 | command)
}

// do makes a change.
func (i ipsets) do(command int, flags netlink.HeaderFlags, f Family, attrs ...attr) error {
	attrs = append([]attr{leaf(ipsetAttrProtocol, []byte{ipsetProtocol})}, attrs...)
	return ipsetError(i.ask(ipsetRequest(command), netlink.Acknowledge|flags, nfgenmsg(protocol(f), 0), attrs, func(_, _ []byte) error { return nil }))
}

// ipsetError gives the errors of ipset, which no errno has, a text.
func ipsetError(err error) error {
	var code unix.Errno
	if !errors.As(err, &code) {
		return err
	}
	switch code {
	case ipsetErrExist:
		return fmt.Errorf("it exists already: %w", unix.EEXIST)
	case ipsetErrBusy:
		return fmt.Errorf("something uses it: %w", unix.EBUSY)
	case ipsetErrFull:
		return fmt.Errorf("the set is full: %w", unix.ENOSPC)
	}
	return err
}

// revision returns the newest form of a type that the kernel has.
func (i ipsets) revision(typeName string, f Family) (uint8, error) {
	var newest []byte
	err := i.ask(ipsetRequest(ipsetType), 0, nfgenmsg(protocol(f), 0), []attr{
		leaf(ipsetAttrProtocol, []byte{ipsetProtocol}), leaf(ipsetAttrTypename, text(typeName)), leaf(ipsetAttrFamily, []byte{protocol(f)}),
	}, func(_, attrs []byte) error {
		a, err := fields(attrs)
		newest = a[ipsetAttrRevision]
		return err
	})
	if err = ipsetError(err); err != nil {
		return 0, fmt.Errorf("%w: ipset type %s: %w", ErrUnsupported, typeName, err)
	}
	if len(newest) != 1 {
		return 0, fmt.Errorf("%w: ipset type %s: the kernel does not tell its revision", ErrUnsupported, typeName)
	}
	return newest[0], nil
}

func (i ipsets) create(name string, s Set) error {
	revision, err := i.revision(s.typeName(), s.Family)
	if err != nil {
		return err
	}
	const least, perBucket = 64, 4
	size := max(least, 1<<bits.Len(uint(len(s.Members)/perBucket)))
	return i.do(ipsetCreate, netlink.Create|netlink.Excl, s.Family,
		leaf(ipsetAttrName, text(name)), leaf(ipsetAttrTypename, text(s.typeName())),
		leaf(ipsetAttrRevision, []byte{revision}), leaf(ipsetAttrFamily, []byte{protocol(s.Family)}),
		nest(ipsetAttrData,
			leaf(ipsetDataHashSize|unix.NLA_F_NET_BYTEORDER, be32(uint32(size))),
			leaf(ipsetDataMaxElem|unix.NLA_F_NET_BYTEORDER, be32(maxMembers)),
			leaf(ipsetDataFlags|unix.NLA_F_NET_BYTEORDER, be32(ipsetFlagCounters))))
}

// patiently does what the kernel refuses as long as somebody has a set listed, or
// the rules that have just gone are not yet forgotten, which nf_tables does in
// the background.
func patiently(do func() error) error {
	const wait, attempts = 5 * time.Millisecond, 400
	for n := 1; ; n++ {
		if err := do(); n == attempts || !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(wait)
	}
}

func (i ipsets) destroy(f Family, name string) error {
	return patiently(func() error {
		err := i.do(ipsetDestroy, 0, f, leaf(ipsetAttrName, text(name)))
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

func (i ipsets) swap(f Family, a, b string) error {
	return patiently(func() error {
		return i.do(ipsetSwap, 0, f, leaf(ipsetAttrName, text(a)), leaf(ipsetAttrTypename, text(b)))
	})
}

// change adds members to a set, or deletes them from it, many with each message.
// A member that is there already, or is gone, is no error. After an error some
// of them may be done.
func (i ipsets) change(command int, f Family, name string, members []Member) error {
	const each = 512 // an attribute's length has 16 bits
	var list []byte  // of one message after the other
	for part := range slices.Chunk(members, each) {
		list = list[:0]
		for _, m := range part {
			list = appendIPSetMember(list, m)
		}
		err := i.do(command, 0, f, leaf(ipsetAttrName, text(name)), leaf(ipsetAttrLine, be32(0)), leaf(ipsetAttrADT|unix.NLA_F_NESTED, list))
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// appendIPSetMember appends one member as the kernel reads it.
func appendIPSetMember(b []byte, m Member) []byte {
	begin := len(b)
	b = append(b, 0, 0, ipsetAttrData, unix.NLA_F_NESTED>>8)
	ip := m.Prefix.Addr().AsSlice()
	kind := byte(1) // IPSET_ATTR_IPADDR_IPV4
	if len(ip) > 4 {
		kind = 2
	}
	native := binary.NativeEndian
	b = native.AppendUint16(b, uint16(8+len(ip)))
	b = append(b, ipsetDataIP, unix.NLA_F_NESTED>>8)
	b = native.AppendUint16(b, uint16(4+len(ip)))
	b = append(b, kind, unix.NLA_F_NET_BYTEORDER>>8)
	b = append(b, ip...)
	if !m.Prefix.IsSingleIP() {
		b = native.AppendUint16(b, 5)
		b = append(b, ipsetDataCIDR, 0, byte(m.Prefix.Bits()), 0, 0, 0)
	}
	b = native.AppendUint16(b, 6)
	b = append(b, ipsetDataPort, unix.NLA_F_NET_BYTEORDER>>8, byte(m.Port>>8), byte(m.Port), 0, 0)
	b = native.AppendUint16(b, 5)
	b = append(b, ipsetDataProto, 0, unix.IPPROTO_TCP, 0, 0, 0)
	native.PutUint16(b[begin:], uint16(len(b)-begin))
	return b
}

// list returns the sets whose names begin with the given prefix. Sets of others
// are not read: they may be large.
func (i ipsets) list(ctx context.Context, prefix string) (map[setID]Set, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	names, err := i.dump(leaf(ipsetAttrFlags|unix.NLA_F_NET_BYTEORDER, be32(ipsetFlagListNames)))
	if errors.Is(err, unix.EINVAL) {
		return map[setID]Set{}, nil // this kernel has no sets
	}
	if err != nil {
		return nil, err
	}
	sets := map[setID]Set{}
	for _, n := range names {
		if !strings.HasPrefix(n.Name, prefix) {
			continue
		}
		parts, err := i.dump(leaf(ipsetAttrName, text(n.Name)))
		if errors.Is(err, unix.ENOENT) || len(parts) == 0 {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		s := parts[0] // only the first part of a large one tells its type
		for _, p := range parts[1:] {
			s.Members = append(s.Members, p.Members...)
			if p.Foreign != "" {
				s.Foreign = p.Foreign
			}
		}
		s.normalize()
		sets[setID{s.Family, s.Name}] = s
	}
	return sets, nil
}

// dump returns sets, or parts of one.
func (i ipsets) dump(which attr) ([]Set, error) {
	var parts []Set
	err := i.ask(ipsetRequest(ipsetList), netlink.Dump, nfgenmsg(protocol(IPv4), 0), []attr{leaf(ipsetAttrProtocol, []byte{ipsetProtocol}), which},
		func(_, attrs []byte) error {
			s, err := decodeIPSet(attrs)
			parts = append(parts, s)
			return err
		})
	if err = ipsetError(err); err != nil {
		return nil, fmt.Errorf("ipset: %w", err)
	}
	return parts, nil
}

// decodeIPSet reads the attributes of one part of the dump of a set.
func decodeIPSet(attrs []byte) (Set, error) {
	d, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return Set{}, err
	}
	var s Set
	typeName := ""
	for d.Next() {
		switch d.Type() {
		case ipsetAttrName:
			s.Name = d.String()
		case ipsetAttrTypename:
			typeName = d.String()
		case ipsetAttrFamily:
			s.Family = IPv4
			if d.Uint8() == unix.NFPROTO_IPV6 {
				s.Family = IPv6
			}
		case ipsetAttrData:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				n.ByteOrder = binary.BigEndian
				for n.Next() {
					if n.Type() == ipsetDataFlags {
						s.Counted = n.Uint32()&ipsetFlagCounters != 0
					}
				}
				return n.Err()
			})
		case ipsetAttrADT:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					m, ok := decodeIPSetMember(n.Bytes())
					if !ok {
						s.Foreign = "a member of another kind"
						continue
					}
					s.Members = append(s.Members, m)
				}
				return n.Err()
			})
		}
	}
	switch typeName {
	case "", "hash:ip,port": // not repeated in the later parts of a large set
	case "hash:net,port":
		s.Networks = true
	default:
		s.Foreign, s.Members = typeName, nil
	}
	return s, d.Err()
}

// decodeIPSetMember reads one member: an address or a network, with a port of
// TCP.
func decodeIPSetMember(attrs []byte) (Member, bool) {
	d, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return Member{}, false
	}
	d.ByteOrder = binary.BigEndian
	var m Member
	var addr netip.Addr
	length, isTCP, inverted := -1, false, false
	for d.Next() {
		switch d.Type() {
		case ipsetDataIP:
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					addr, _ = netip.AddrFromSlice(n.Bytes())
				}
				return n.Err()
			})
		case ipsetDataCIDR:
			length = int(d.Uint8())
		case ipsetDataPort:
			m.Port = d.Uint16()
		case ipsetDataPackets:
			m.Packets = d.Uint64()
		case ipsetDataProto:
			isTCP = d.Uint8() == unix.IPPROTO_TCP
		case ipsetDataFlags:
			inverted = d.Uint32()&ipsetFlagNoMatch != 0
		}
	}
	if length < 0 {
		length = addr.BitLen()
	}
	m.Prefix = netip.PrefixFrom(addr, length)
	return m, d.Err() == nil && isTCP && !inverted && m.Prefix.IsValid() && m.Port != 0
}
