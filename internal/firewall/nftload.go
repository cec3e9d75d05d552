package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// load is what an expression has put into registers: one field of the packet,
// or neighbouring ones.
type load struct {
	fields []loadedField
	mask   []byte // of a bitwise expression; nil: none
	// constant is the value of an immediate expression.
	constant []byte
}

// loadedField is a field, or the first bytes of it, in the form that the kernel
// has in its registers.
type loadedField struct {
	field Field
	size  int // bytes in the register
	full  int // bytes of the field
	// values lists all values that the kernel has for the field, and what
	// each is here. It is for fields that are written in another way here.
	values []loadedValue
	name   func([]byte) ([]byte, bool) // translates a value; nil: it stays
}

type loadedValue struct{ kernel, here []byte }

func (l *load) size() int {
	sum := len(l.constant)
	for _, f := range l.fields {
		sum += f.size
	}
	return sum
}

func field(f Field, size int) *load {
	return &load{fields: []loadedField{{field: f, size: size, full: size}}}
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// stateLoad is ct state: bits of its own (NF_CT_STATE_BIT of
// linux/netfilter/nf_conntrack_common.h).
func stateLoad() *load {
	f := loadedField{field: CTState, size: 4, full: 1}
	for state, bit := range map[rules.States]uint32{
		rules.Invalid: 1, rules.Established: 2, rules.Related: 4, rules.New: 8, rules.Untracked: 64,
	} {
		f.values = append(f.values, loadedValue{native(bit), []byte{byte(state)}})
	}
	return &load{fields: []loadedField{f}}
}

// statusLoad is ct status, of which only the bit for destination NAT is known
// (IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h), under a mask.
func statusLoad() *load {
	return &load{fields: []loadedField{{field: Translated, size: 4}}}
}

const statusDNAT = 1 << 5

// underMask returns what a bitwise expression makes of a load.
func (l *load) underMask(mask []byte) *load {
	if l.fields[0].field != Translated {
		return &load{fields: l.fields, mask: mask}
	}
	if !bytes.Equal(mask, native(statusDNAT)) {
		return nil
	}
	f := loadedField{field: Translated, size: 4, full: 1}
	f.values = []loadedValue{{native(0), []byte{0}}, {native(statusDNAT), []byte{1}}}
	return &load{fields: []loadedField{f}}
}

// addressTypeLoad is fib saddr type or fib daddr type.
func addressTypeLoad(field Field) *load {
	f := loadedField{field: field, size: 4, full: 1}
	for t := byte(unix.RTN_UNSPEC); t <= unix.RTN_PROHIBIT; t++ {
		f.values = append(f.values, loadedValue{native(uint32(t)), []byte{t}})
	}
	return &load{fields: []loadedField{f}}
}

// reversePathLoad is fib with an interface for its result, of which only is of
// interest whether there is one.
func reversePathLoad() *load {
	f := loadedField{field: ReversePath, size: 4, full: 1}
	f.name = func(v []byte) ([]byte, bool) {
		return []byte{0}, bytes.Equal(v, make([]byte, len(v)))
	}
	return &load{fields: []loadedField{f}}
}

func metaLoad(key uint32, interfaces map[uint32]string) *load {
	switch key {
	case unix.NFT_META_IIFNAME:
		return field(InInterface, unix.IFNAMSIZ)
	case unix.NFT_META_OIFNAME:
		return field(OutInterface, unix.IFNAMSIZ)
	case unix.NFT_META_IIF:
		return indexLoad(InInterface, interfaces)
	case unix.NFT_META_OIF:
		return indexLoad(OutInterface, interfaces)
	case unix.NFT_META_L4PROTO:
		return field(Protocol, 1)
	case unix.NFT_META_NFPROTO:
		return field(NetFamily, 1)
	case unix.NFT_META_PROTOCOL:
		return field(EtherType, 2)
	case unix.NFT_META_MARK:
		l := field(PacketMark, 4)
		l.fields[0].name = swap
		return l
	}
	return nil
}

// swap turns a number of the kernel's byte order into one of the network's.
func swap(v []byte) ([]byte, bool) {
	if len(v) != 4 {
		return nil, false
	}
	return binary.BigEndian.AppendUint32(nil, binary.NativeEndian.Uint32(v)), true
}

// indexLoad is an interface by its index. One that is gone has no name, and no
// packet comes by it.
func indexLoad(f Field, interfaces map[uint32]string) *load {
	l := &load{fields: []loadedField{{field: f, size: 4, full: unix.IFNAMSIZ}}}
	l.fields[0].name = func(v []byte) ([]byte, bool) {
		if len(v) != 4 {
			return nil, false
		}
		name, ok := interfaces[binary.NativeEndian.Uint32(v)]
		if !ok {
			name = "\xff"
		}
		return deviceName(name), true
	}
	return l
}

// headerFields are the places of the fields in the headers.
var headerFields = map[uint32]map[Family][]struct {
	offset, size int
	field        Field
}{
	unix.NFT_PAYLOAD_NETWORK_HEADER: {
		IP:  {{9, 1, Protocol}, {12, 4, Source}, {16, 4, Destination}},
		IP6: {{6, 1, Protocol}, {8, 16, Source}, {24, 16, Destination}},
	},
	unix.NFT_PAYLOAD_TRANSPORT_HEADER: {
		IP:  {{0, 2, SourcePort}, {2, 2, DestinationPort}, {13, 1, Flags}},
		IP6: {{0, 2, SourcePort}, {2, 2, DestinationPort}, {13, 1, Flags}},
	},
}

// payloadLoad finds the fields that a part of a header holds. Only the last one
// may be there in part: nft loads just the bytes that a prefix has.
func payloadLoad(family Family, base uint32, offset, size int) *load {
	l := &load{}
	for _, f := range headerFields[base][family] {
		if size > 0 && f.offset == offset {
			n := min(size, f.size)
			l.fields = append(l.fields, loadedField{field: f.field, size: n, full: f.size})
			offset, size = offset+n, size-n
		}
	}
	if size != 0 || len(l.fields) == 0 {
		return nil
	}
	return l
}

// convert turns an interval of values in the register into those of the field;
// false if that cannot be said.
func (f *loadedField) convert(r Range, mask []byte) ([]Range, bool) {
	switch {
	case len(r.From) != len(r.To):
		return nil, false
	case f.values != nil:
		return f.enumerate(r, mask)
	case f.name != nil:
		if !bytes.Equal(r.From, r.To) || mask != nil && f.field != PacketMark {
			return nil, false
		}
		v, ok := f.name(r.From)
		return []Range{exactly(v...)}, ok
	case mask != nil && len(mask) == len(r.From) && bytes.Equal(r.From, r.To):
		if whole, ok := maskRange(r.From, mask); ok && bytes.Equal(whole.From, r.From) {
			return []Range{f.pad(whole)}, true
		}
	}
	return []Range{f.pad(r)}, len(r.From) <= f.full
}

// pad adds the bytes that a prefix or a wildcard leaves open.
func (f *loadedField) pad(r Range) Range {
	n := max(0, f.full-len(r.From))
	return Range{
		append(bytes.Clone(r.From), make([]byte, n)...),
		append(bytes.Clone(r.To), bytes.Repeat([]byte{0xff}, n)...),
	}
}

// enumerate tries all values that the kernel has.
func (f *loadedField) enumerate(r Range, mask []byte) ([]Range, bool) {
	rs := []Range{}
	for _, v := range f.values {
		value := v.kernel
		if mask != nil {
			if len(mask) != len(value) {
				return nil, false
			}
			value = and(value, mask)
		}
		if r.holds(value) {
			rs = append(rs, exactly(v.here...))
		}
	}
	return rs, true
}

// complement says the same without the negation: nft writes "ct state invalid"
// as what is not all the others.
func (f *loadedField) complement(c Condition) Condition {
	in := c.ranges()
	var rest []Range
	for _, v := range f.values {
		if !slices.ContainsFunc(in, func(r Range) bool { return r.holds(v.here) }) {
			rest = append(rest, exactly(v.here...))
		}
	}
	return where(f.field, merge(rest)...)
}

// keyMask returns the mask that a condition needs, where convert has not made
// use of it.
func (f *loadedField) keyMask(mask []byte, in []Range) []byte {
	switch {
	case mask == nil || f.values != nil:
		return nil
	case f.name != nil:
		m, _ := f.name(mask)
		return m
	}
	for _, r := range in {
		if bytes.Equal(r.From, r.To) {
			if whole, ok := maskRange(r.From, mask); !ok || !bytes.Equal(whole.From, r.From) {
				return mask
			}
			continue
		}
		return mask
	}
	return nil
}
