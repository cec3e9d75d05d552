package e2e

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// synMaker makes SYNs of every kind, each from a place of its own.
type synMaker struct {
	*rand.Rand
	to, from net.HardwareAddr
	made     int
}

const etherSize, tcpSize = 14, 20

func oneOf[T any](g *rand.Rand, from ...T) T { return from[g.IntN(len(from))] }

// frame returns a SYN to a service, as it stands on the wire, and where it comes from.
func (m *synMaker) frame(to netip.AddrPort) ([]byte, netip.AddrPort) {
	m.made++
	source := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, byte(m.made >> 8), byte(m.made)}), uint16(1024+m.IntN(60000)))
	header := 20
	if to.Addr().Is6() {
		header = 40
		source = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x78, 14: byte(m.made >> 8), 15: byte(m.made)}), source.Port())
	}
	packet, err := lab.Segment{
		Source: source, Destination: to, Seq: m.Uint32(), Ack: oneOf(m.Rand, 0, m.Uint32()), Window: uint16(m.Uint32()),
		Flags:   lab.SYN | oneOf[uint8](m.Rand, 0, 0, 0, lab.PSH, lab.URG, 0x40, 0x80, 0xc0, 0xc0),
		Options: m.options(), Payload: m.bytes(oneOf(m.Rand, 0, 0, 0, 1, 2, 7, m.IntN(64), m.IntN(1300))),
		TTL: oneOf[uint8](m.Rand, 2, 64, 128, 255), ID: uint16(m.Uint32()),
	}.Marshal()
	if err != nil {
		panic(err) // options of more than 40 bytes: the maker's own fault
	}
	// What the lab's segments do not have.
	t := packet[header:]
	t[12] |= byte(m.IntN(16)) // reserved bits, and that of accurate ECN
	t[18] = byte(m.Uint32())  // an urgent pointer
	if header == 20 {
		packet[1] = oneOf(m.Rand, 0, byte(m.Uint32())) // differentiated services
		packet[6] = oneOf[byte](m.Rand, 0, 0x40)       // may be fragmented, or not
	} else {
		binary.BigEndian.PutUint32(packet, 6<<28|oneOf(m.Rand, 0, m.Uint32()>>4)) // traffic class and flow label
	}
	fixSums(packet)
	return m.ethernet(packet), source
}

// ethernet puts a header before a packet, and sometimes filling behind it.
func (m *synMaker) ethernet(packet []byte) []byte {
	f := append(slices.Clone([]byte(m.to)), m.from...)
	f = append(f, etherType(packet)...)
	f = append(f, packet...)
	return append(f, m.bytes(oneOf(m.Rand, 0, 0, max(0, 60-len(f)), m.IntN(9)))...)
}

func etherType(packet []byte) []byte {
	if packet[0]>>4 == 4 {
		return []byte{0x08, 0x00}
	}
	return []byte{0x86, 0xdd}
}

func (m *synMaker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return b
}

// options returns TCP options: as systems send them, in any other order, with others between, and broken.
func (m *synMaker) options() []byte {
	switch m.IntN(10) {
	case 0:
		return nil
	case 1, 2:
		return lab.SYNOptions(uint16(m.Uint32()), uint8(m.IntN(16)), m.Uint32())
	case 3: // Windows
		return []byte{2, 4, 5, byte(m.Uint32()), 1, 3, 3, 8, 1, 1, 4, 2}
	case 4: // macOS
		return slices.Concat([]byte{2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10}, m.bytes(4), []byte{0, 0, 0, 0, 4, 2, 0, 0})
	case 5:
		return m.bytes(4 * m.IntN(11))
	}
	var all []byte
	for range 1 + m.IntN(8) {
		next := m.option()
		if len(all)+len(next) > 40 {
			break
		}
		all = append(all, next...)
	}
	for len(all)%4 != 0 {
		all = append(all, oneOf[byte](m.Rand, 0, 1, byte(m.Uint32())))
	}
	if len(all) > 0 && m.IntN(4) == 0 {
		all[m.IntN(len(all))] = byte(m.Uint32())
	}
	return all
}

// option returns one, well-formed for the most part.
func (m *synMaker) option() []byte {
	kind := oneOf(m.Rand, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 8, 8, 8, 19, 34, m.IntN(256))
	size := map[int]int{2: 4, 3: 3, 4: 2, 8: 10, 19: 18}[kind]
	switch {
	case kind < 2:
		return []byte{byte(kind)}
	case size == 0 || m.IntN(16) == 0:
		size = 2 + m.IntN(12)
	}
	o := append([]byte{byte(kind), byte(size)}, m.bytes(size-2)...)
	if m.IntN(16) == 0 {
		o[1] = byte(m.IntN(44))
	}
	return o
}

// fixSums makes those of a packet right.
func fixSums(packet []byte) {
	t := packet[ipSize(packet):]
	if packet[0]>>4 == 4 {
		t = packet[20:binary.BigEndian.Uint16(packet[2:])]
		binary.BigEndian.PutUint16(packet[10:], 0)
		binary.BigEndian.PutUint16(packet[10:], onesSum(0, packet[:20]))
	}
	binary.BigEndian.PutUint16(t[16:], 0)
	binary.BigEndian.PutUint16(t[16:], onesSum(6+uint32(len(t)), packet[addressesAt(packet):ipSize(packet)], t))
}

// ipSize is that of an IP header without options.
func ipSize(packet []byte) int {
	if packet[0]>>4 == 4 {
		return 20
	}
	return 40
}

func addressesAt(packet []byte) int {
	if packet[0]>>4 == 4 {
		return 12
	}
	return 8
}

// onesSum is the checksum of RFC 1071.
func onesSum(sum uint32, parts ...[]byte) uint16 {
	for _, b := range parts {
		for i, c := range b {
			if i%2 == 0 {
				sum += uint32(c) << 8
			} else {
				sum += uint32(c)
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
