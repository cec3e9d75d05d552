package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Offsets and sizes in the TCP header (RFC 9293, 3.1), in bytes.
const (
	minHeader   = 20
	maxHeader   = 60
	offDstPort  = 2
	offSeq      = 4
	offAck      = 8
	offLength   = 12
	offFlags    = 13
	offWindow   = 14
	offChecksum = 16
)

// Flags are the control bits of a TCP header (RFC 9293, 3.1).
type Flags uint8

// The control bits that matter in a handshake.
const (
	FIN Flags = 0x01
	SYN Flags = 0x02
	RST Flags = 0x04
	ACK Flags = 0x10
)

// ErrSegment is wrapped by all errors of [ParseSegment].
var ErrSegment = errors.New("malformed tcp segment")

// A Segment is a TCP header with the options of a handshake. It has no payload.
type Segment struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            Flags
	// Window is the window field as it is in the header, not scaled.
	Window  uint16
	Options Options
	// TSVal and TSEcr are the two values of the timestamps option. They are zero unless Options.Timestamps is set.
	TSVal, TSEcr uint32
}

// Append appends the segment's bytes to b and returns the extended slice. The checksum covers the pseudo-header of src and
// dst, which must be of the same family. The result is between 20 and 40 bytes longer than b.
func (s Segment) Append(b []byte, src, dst netip.Addr) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, s.SrcPort)
	b = binary.BigEndian.AppendUint16(b, s.DstPort)
	b = binary.BigEndian.AppendUint32(b, s.Seq)
	b = binary.BigEndian.AppendUint32(b, s.Ack)
	b = append(b, 0, byte(s.Flags))
	b = binary.BigEndian.AppendUint16(b, s.Window)
	b = append(b, 0, 0, 0, 0) // checksum, filled in below; urgent pointer
	b = appendOptions(b, s.Options, s.TSVal, s.TSEcr)

	segment := b[start:]
	segment[offLength] = byte(len(segment) / 4 << 4)
	sum := fold(onesSum(pseudoSum(src, dst, len(segment)), segment))
	binary.BigEndian.PutUint16(segment[offChecksum:], ^sum)
	return b
}

// ParseSegment decodes the TCP header at the start of b. It does not look at the checksum, nor at the payload. Options that break
// the rules are left out or put right in the way that [Options] needs, and each is described in problems. The error
// wraps [ErrSegment] when the header itself makes no sense.
func ParseSegment(b []byte) (s Segment, problems []string, err error) {
	if len(b) < minHeader {
		return Segment{}, nil, fmt.Errorf("%w: %d bytes are shorter than a header", ErrSegment, len(b))
	}
	length := int(b[offLength]>>4) * 4
	if length < minHeader || length > len(b) {
		return Segment{}, nil, fmt.Errorf("%w: header length %d in %d bytes", ErrSegment, length, len(b))
	}
	s = Segment{
		SrcPort: binary.BigEndian.Uint16(b),
		DstPort: binary.BigEndian.Uint16(b[offDstPort:]),
		Seq:     binary.BigEndian.Uint32(b[offSeq:]),
		Ack:     binary.BigEndian.Uint32(b[offAck:]),
		Flags:   Flags(b[offFlags]),
		Window:  binary.BigEndian.Uint16(b[offWindow:]),
	}
	problems = s.parseOptions(b[minHeader:length])
	return s, problems, nil
}
