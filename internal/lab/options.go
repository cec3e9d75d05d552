package lab

import "encoding/binary"

// Kinds of TCP options (RFC 9293, RFC 7323, RFC 2018).
const (
	optEnd        = 0
	optNop        = 1
	optMSS        = 2
	optWScale     = 3
	optSACKPerm   = 4
	optTimestamps = 8
)

// SYNOptions returns the options of a usual SYN, in the order in which Linux sends them: MSS, SACK permitted,
// timestamps, window scale.
func SYNOptions(mss uint16, wscale uint8, tsval uint32) []byte {
	b := []byte{optMSS, 4, 0, 0, optSACKPerm, 2, optTimestamps, 10, 0, 0, 0, 0, 0, 0, 0, 0, optNop, optWScale, 3, wscale}
	binary.BigEndian.PutUint16(b[2:], mss)
	binary.BigEndian.PutUint32(b[tsvalOffset:], tsval)
	return b
}

// tsvalOffset is where [SYNOptions] has the timestamp.
const tsvalOffset = 8

// option returns the value of the first option of a kind, and whether there is one with that many bytes of value.
func (s Segment) option(kind uint8, size int) ([]byte, bool) {
	for b := s.Options; len(b) > 0 && b[0] != optEnd; {
		if b[0] == optNop {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return nil, false
		}
		if value := b[2:b[1]]; b[0] == kind && len(value) == size {
			return value, true
		}
		b = b[b[1]:]
	}
	return nil, false
}

// MSS returns the maximum segment size that the options announce, in bytes.
func (s Segment) MSS() (mss uint16, ok bool) {
	v, ok := s.option(optMSS, 2)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint16(v), true
}

// WindowScale returns the shift count that the options announce.
func (s Segment) WindowScale() (shift uint8, ok bool) {
	v, ok := s.option(optWScale, 1)
	if !ok {
		return 0, false
	}
	return v[0], true
}

// SACKPermitted tells whether the options permit selective acknowledgements.
func (s Segment) SACKPermitted() bool {
	_, ok := s.option(optSACKPerm, 0)
	return ok
}

// Timestamps returns the timestamp value and echo reply of the options.
func (s Segment) Timestamps() (value, echo uint32, ok bool) {
	v, ok := s.option(optTimestamps, 8)
	if !ok {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:]), true
}
