package probe

import (
	"encoding/binary"
	"fmt"
)

// Kinds of TCP options (RFC 9293, 3.1; RFC 7323; RFC 2018).
const (
	kindEnd        = 0
	kindNop        = 1
	kindMSS        = 2
	kindWScale     = 3
	kindSACKPerm   = 4
	kindTimestamps = 8
)

// maxWScale is the largest shift that may be used; a larger one counts as 14 (RFC 7323, 2.3).
const maxWScale = 14

// optionSize is the only valid length of each kind that is understood, kind and length bytes included.
var optionSize = map[byte]int{kindMSS: 4, kindWScale: 3, kindSACKPerm: 2, kindTimestamps: 10}

// optionName is how the kinds are called in problems.
var optionName = map[byte]string{
	kindMSS: "mss", kindWScale: "window scale", kindSACKPerm: "sack-permitted", kindTimestamps: "timestamps",
}

// appendOptions appends the options in the order in which Linux sends them in a SYN, padded to whole words.
func appendOptions(b []byte, o Options, tsval, tsecr uint32) []byte {
	start := len(b)
	if o.MSS != nil {
		b = append(b, kindMSS, 4)
		b = binary.BigEndian.AppendUint16(b, *o.MSS)
	}
	if o.SACKPerm {
		b = append(b, kindSACKPerm, 2)
	}
	if o.Timestamps {
		b = append(b, kindTimestamps, 10)
		b = binary.BigEndian.AppendUint32(b, tsval)
		b = binary.BigEndian.AppendUint32(b, tsecr)
	}
	if o.WScale != nil {
		b = append(b, kindNop, kindWScale, 3, *o.WScale)
	}
	for (len(b)-start)%4 != 0 {
		b = append(b, kindNop)
	}
	return b
}

// parseOptions reads the options area of a header into s and returns what was wrong with it. After an option whose length
// cannot be right nothing more can be read, because nobody knows where the next one begins; Linux stops there, too
// (tcp_parse_options in net/ipv4/tcp_input.c).
func (s *Segment) parseOptions(b []byte) (problems []string) {
	for len(b) > 0 {
		kind := b[0]
		if kind == kindEnd {
			return problems
		}
		if kind == kindNop {
			b = b[1:]
			continue
		}
		if len(b) < 2 {
			return append(problems, fmt.Sprintf("%s ends before its length", nameOf(kind)))
		}
		size := int(b[1])
		if size < 2 {
			return append(problems, fmt.Sprintf("%s has length %d", nameOf(kind), size))
		}
		if size > len(b) {
			return append(problems, fmt.Sprintf("%s has length %d, but only %d bytes are left", nameOf(kind), size, len(b)))
		}
		if want, known := optionSize[kind]; known && size != want {
			problems = append(problems, fmt.Sprintf("%s has length %d instead of %d", nameOf(kind), size, want))
		} else if known {
			problems = append(problems, s.setOption(kind, b[2:size])...)
		}
		b = b[size:]
	}
	return problems
}

func nameOf(kind byte) string {
	if name, ok := optionName[kind]; ok {
		return name + " option"
	}
	return fmt.Sprintf("option %d", kind)
}

// setOption stores one option of the right size. Of an option that comes twice the value is kept that is safe to announce
// whichever of the two a client goes by: the smaller MSS, the larger window scale, the later timestamp.
func (s *Segment) setOption(kind byte, value []byte) (problems []string) {
	doubled := false
	switch kind {
	case kindMSS:
		mss := binary.BigEndian.Uint16(value)
		if mss == 0 { // Linux takes it as not sent
			return []string{"mss option is 0"}
		}
		doubled = s.Options.MSS != nil
		if !doubled || mss < *s.Options.MSS {
			s.Options.MSS = &mss
		}
	case kindWScale:
		shift := value[0]
		if shift > maxWScale {
			problems = append(problems, fmt.Sprintf("window scale option is %d, taken as %d", shift, maxWScale))
			shift = maxWScale
		}
		doubled = s.Options.WScale != nil
		if !doubled || shift > *s.Options.WScale {
			s.Options.WScale = &shift
		}
	case kindSACKPerm:
		doubled = s.Options.SACKPerm
		s.Options.SACKPerm = true
	case kindTimestamps:
		doubled = s.Options.Timestamps
		s.Options.Timestamps = true
		s.TSVal = binary.BigEndian.Uint32(value)
		s.TSEcr = binary.BigEndian.Uint32(value[4:])
	}
	if doubled {
		problems = append(problems, nameOf(kind)+" is doubled")
	}
	return problems
}
