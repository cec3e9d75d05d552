package firewall

import (
	"bytes"
	"cmp"
	"slices"
)

// Field is something of a packet that a rule can look at.
type Field uint8

// The fields. Their values are byte strings that compare like the values do.
const (
	Unknown         Field = iota // what no [Packet] tells
	Source                       // address, 4 or 16 bytes
	Destination                  // address, 4 or 16 bytes
	SourcePort                   // 2 bytes
	DestinationPort              // 2 bytes
	Flags                        // of TCP, 1 byte
	Protocol                     // of the transport layer, 1 byte
	NetFamily                    // NFPROTO_IPV4 or NFPROTO_IPV6, 1 byte
	EtherType                    // 2 bytes
	InInterface                  // name, 16 bytes, padded with zeros
	OutInterface                 // name, 16 bytes, padded with zeros
	CTState                      // 1 byte, the bits of rules.States
	SourceType                   // RTN_LOCAL and its like, 1 byte
	DestinationType              // RTN_LOCAL and its like, 1 byte
	PacketMark                   // 4 bytes, big endian
	ReversePath                  // the route back leads where the packet came from: 1 byte, 0 or 1
	Translated                   // destination NAT has changed the connection: 1 byte, 0 or 1
	Owned                        // a socket of this machine sent the packet: 1 byte, 0 or 1
	connectionMark               // 4 bytes; of no packet is it known
	fields                       // how many there are
)

// Key is a field under a mask.
type Key struct {
	Field Field
	Mask  []byte // nil: all bits
}

// Range is an interval of values, both ends included.
type Range struct {
	From, To []byte
}

func exactly(value ...byte) Range { return Range{value, value} }

func (r Range) holds(v []byte) bool {
	return len(v) == len(r.From) && bytes.Compare(r.From, v) <= 0 && bytes.Compare(v, r.To) <= 0
}

// Condition holds if the keys lie in one of the ranges.
type Condition struct {
	Keys []Key
	In   [][]Range // any of these; each has one range a key
	Not  bool      // holds if it would not

	label  string  // the name of the set, for people
	merged []Range // of one key, sorted and apart; made by [New]
}

// where builds the condition that one field lies in one of the ranges.
func where(f Field, in ...Range) Condition {
	c := Condition{Keys: []Key{{Field: f}}}
	for _, r := range in {
		c.In = append(c.In, []Range{r})
	}
	return c
}

// answer is a truth value of three.
type answer int8

const (
	no answer = iota
	maybe
	yes
)

func (a answer) not() answer { return yes - a }

// holds answers for a class of packets.
func (c *Condition) holds(v *view) answer {
	a := no
	if len(c.Keys) == 1 {
		rs := c.merged
		if rs == nil {
			rs = merge(c.ranges())
		}
		a = v.know(c.Keys[0].Field).within(c.Keys[0].Mask, rs)
	} else {
		for _, element := range c.In {
			a = max(a, c.element(v, element))
			if a == yes {
				break
			}
		}
	}
	if c.Not {
		return a.not()
	}
	return a
}

// element answers for one element of a concatenation.
func (c *Condition) element(v *view, element []Range) answer {
	a := yes
	for i, k := range c.Keys {
		if i >= len(element) {
			return maybe
		}
		if a = min(a, v.know(k.Field).within(k.Mask, element[i:i+1])); a == no {
			break
		}
	}
	return a
}

// ranges returns those of a condition with one key.
func (c *Condition) ranges() []Range {
	rs := make([]Range, 0, len(c.In))
	for _, element := range c.In {
		if len(element) == 1 {
			rs = append(rs, element[0])
		}
	}
	return rs
}

// knowledge is what is known of a field of a class of packets: it has one of
// the values, lies within one range, or may be anything but what is excluded.
type knowledge struct {
	values  [][]byte
	within0 *Range
	// size is the length of values if nothing else is known; 0: nothing is.
	size   int
	except []Range
	// usual makes the size of a range decide where nothing else does.
	usual bool
}

// within answers whether the field lies in one of the ranges, which are merged.
func (k *knowledge) within(mask []byte, rs []Range) answer {
	switch {
	case k.values != nil:
		return k.enumerate(mask, rs)
	case mask != nil || k.size == 0 && k.within0 == nil:
		return maybe
	}
	if k.within0 != nil {
		return k.within0.inside(rs)
	}
	return k.anything(rs)
}

// enumerate tries each possible value.
func (k *knowledge) enumerate(mask []byte, rs []Range) answer {
	hits := 0
	for _, v := range k.values {
		if mask != nil {
			if len(mask) != len(v) {
				return maybe
			}
			v = and(v, mask)
		}
		if among(rs, v) {
			hits++
		}
	}
	switch hits {
	case 0:
		return no
	case len(k.values):
		return yes
	}
	return maybe
}

// among reports whether a value lies in one of the ranges, which are merged.
func among(rs []Range, v []byte) bool {
	i, found := slices.BinarySearchFunc(rs, v, func(r Range, v []byte) int {
		return cmp.Or(len(r.From)-len(v), bytes.Compare(r.From, v))
	})
	return found || i > 0 && rs[i-1].holds(v)
}

// inside answers whether a value of the range r lies in one of those of rs,
// which are merged.
func (r Range) inside(rs []Range) answer {
	for _, o := range rs {
		if len(o.From) != len(r.From) {
			continue
		}
		if o.holds(r.From) && o.holds(r.To) {
			return yes
		}
		if bytes.Compare(o.From, r.To) <= 0 && bytes.Compare(r.From, o.To) <= 0 {
			return maybe
		}
	}
	return no
}

// anything answers for a value of which only what it is not is known.
func (k *knowledge) anything(rs []Range) answer {
	rs = slices.DeleteFunc(slices.Clone(rs), func(r Range) bool {
		return len(r.From) != k.size || slices.ContainsFunc(k.except, func(e Range) bool {
			return e.holds(r.From) && e.holds(r.To)
		})
	})
	if len(rs) == 0 {
		return no
	}
	all := merge(append(slices.Clone(rs), k.except...))
	first, last := bytes.Repeat([]byte{0}, k.size), bytes.Repeat([]byte{0xff}, k.size)
	if len(all) == 1 && all[0].holds(first) && all[0].holds(last) {
		return yes
	}
	if !k.usual {
		return maybe
	}
	if half(rs) {
		return yes
	}
	return no
}

// half reports whether the ranges cover at least half of all values, to the
// precision of the first two bytes.
func half(rs []Range) bool {
	sum := 0
	for _, r := range rs {
		from, to := lead(r.From), lead(r.To)
		sum += to - from
		if to > from {
			sum++
		}
	}
	return sum >= 1<<15
}

func lead(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	return int(b[0])<<8 | int(b[1])
}

// merge sorts ranges and joins those that touch.
func merge(rs []Range) []Range {
	if len(rs) < 2 {
		return slices.Clone(rs)
	}
	rs = slices.Clone(rs)
	slices.SortFunc(rs, func(a, b Range) int {
		if c := len(a.From) - len(b.From); c != 0 {
			return c
		}
		return bytes.Compare(a.From, b.From)
	})
	out := rs[:1]
	for _, r := range rs[1:] {
		last := &out[len(out)-1]
		if len(r.From) == len(last.From) && (bytes.Compare(r.From, last.To) <= 0 || bytes.Equal(r.From, next(last.To))) {
			if bytes.Compare(r.To, last.To) > 0 {
				last.To = r.To
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// next returns the value after v; after the last one comes nil.
func next(v []byte) []byte { return step(v, 0xff, 0, 1) }

// previous returns the value before v; before the first one comes nil.
func previous(v []byte) []byte { return step(v, 0, 0xff, 0xff) }

// step adds a difference to a number, with what a byte that runs over becomes.
func step(v []byte, limit, over, difference byte) []byte {
	v = bytes.Clone(v)
	for i := len(v) - 1; i >= 0; i-- {
		if v[i] != limit {
			v[i] += difference
			return v
		}
		v[i] = over
	}
	return nil
}

func and(v, mask []byte) []byte {
	out := make([]byte, len(v))
	for i := range v {
		out[i] = v[i] & mask[i]
	}
	return out
}
