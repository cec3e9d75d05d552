package probe

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
)

// passes runs a filter as the kernel does.
func passes(t *testing.T, program []bpf.Instruction, packet []byte) bool {
	t.Helper()
	if _, err := bpf.Assemble(program); err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(packet)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// many returns n numbers, none of which occurs in the recordings.
func many(n int) []uint32 {
	words := make([]uint32, n)
	for i := range words {
		words[i] = 0xdead0000 + uint32(i)
	}
	return words
}

func TestTCPFilter(t *testing.T) {
	synack4, synack6 := recorded[1], recorded[2]
	few4 := expected{seqs: append(many(maxListed-1), synack4.segment.Ack-1), ports: []uint16{9}}
	few6 := expected{seqs: append(many(maxListed-1), synack6.segment.Ack-1), ports: []uint16{9}}
	g := newGuard([]uint32{0x12345678, 0x9abcdef0, 0x0fedcba9, 0x87654321})
	ports4 := expected{guard: &g, ports: []uint16{9, synack4.segment.DstPort}}
	ports6 := expected{guard: &g, ports: []uint16{9, synack6.segment.DstPort}}
	anyPort := expected{guard: &g, ports: make([]uint16, maxListed+1)}
	guarded := func(s *Segment) { s.Ack = g.sequence(s.Ack, s.SrcPort, s.DstPort) + 1 }
	for _, tt := range []struct {
		name   string
		v6     bool
		want   expected
		change func(s *Segment)
		passes bool
	}{
		{"answer", false, few4, func(*Segment) {}, true},
		{"answer over IPv6", true, few6, func(*Segment) {}, true},
		{"RST", false, few4, func(s *Segment) { s.Flags = RST | ACK }, true},
		{"RST of SYN+ACK", false, few4, func(s *Segment) { s.Flags = RST | SYN | ACK }, true},
		{"with ECE, PSH and URG", false, few4, func(s *Segment) { s.Flags |= 0x68 }, true},
		{"SYN", false, few4, func(s *Segment) { s.Flags = SYN }, false},
		{"ACK", false, few4, func(s *Segment) { s.Flags = ACK }, false},
		{"forged ack", false, few4, func(s *Segment) { s.Ack++ }, false},
		{"forged ack over IPv6", true, few6, func(s *Segment) { s.Ack-- }, false},
		{"many samples", false, ports4, guarded, true},
		{"many samples over IPv6", true, ports6, guarded, true},
		{"many samples, forged ack", false, ports4, func(s *Segment) { guarded(s); s.Ack++ }, false},
		{"many samples, forged upper bits", true, ports6, func(s *Segment) { guarded(s); s.Ack ^= 1 << 31 }, false},
		{"many samples, our wrong port", false, ports4, func(s *Segment) { s.DstPort++; guarded(s) }, false},
		{"many samples, its wrong port", false, ports4, func(s *Segment) { guarded(s); s.SrcPort++ }, false},
		{"more ports than a filter lists", true, anyPort, guarded, true},
		{"more ports than a filter lists, forged ack", true, anyPort, func(s *Segment) { guarded(s); s.Ack-- }, false},
		{"nothing sent", false, expected{}, func(*Segment) {}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, family := synack4.segment, familyIPv4
			if tt.v6 {
				s, family = synack6.segment, familyIPv6
			}
			tt.change(&s)
			packet := s.Append(nil, server4, client4)
			if !tt.v6 {
				// An IP header with options, so that the length has to be heeded.
				packet = append(append([]byte{0x46}, make([]byte, 23)...), packet...)
			}
			if got := passes(t, tcpFilter(family, tt.want), packet); got != tt.passes {
				t.Errorf("passes: %t, want %t", got, tt.passes)
			}
			if passes(t, dropAll(), packet) {
				t.Error("the first filter lets something pass")
			}
		})
	}
}

// TestGuardStopsForgers counts what passes of answers with random numbers to the right ports.
func TestGuardStopsForgers(t *testing.T) {
	words, err := randomWords(4)
	if err != nil {
		t.Fatal(err)
	}
	g := newGuard(words)
	s := recorded[2].segment
	vm, err := bpf.NewVM(tcpFilter(familyIPv6, expected{guard: &g, ports: []uint16{s.DstPort}}))
	if err != nil {
		t.Fatal(err)
	}
	const tries = 1 << 16
	forged, err := randomWords(tries)
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, ack := range forged {
		s.Ack = ack
		if n, err := vm.Run(s.Append(nil, server6, client6)); err != nil || n > 0 {
			passed++
		}
		s.Ack = g.sequence(ack, s.SrcPort, s.DstPort) + 1
		if n, err := vm.Run(s.Append(nil, server6, client6)); err != nil || n == 0 {
			t.Fatalf("an answer to %#x does not pass: %v", s.Ack-1, err)
		}
	}
	if want := tries >> guardBits; passed < want/2 || passed > want*2 { // 64, and a standard deviation of 8
		t.Errorf("%d of %d forged answers pass, want about %d", passed, tries, want)
	}
}

func TestICMPFilter(t *testing.T) {
	ip := append([]byte{0x45}, make([]byte, 19)...)
	four := append(ip, error4(3, 1, fromHex(t, quoted4))...)
	six := append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, fromHex(t, quoted6)...)
	at := func(b []byte, offset int, value byte) []byte {
		b = bytes.Clone(b)
		b[offset] = value
		return b
	}
	few := expected{seqs: []uint32{7, 0x54cf7061, 0xaa32302b}}
	wrong := expected{seqs: []uint32{0x54cf7062, 0xaa32302c}}
	g := newGuard([]uint32{0x12345678, 0x9abcdef0, 0x0fedcba9, 0x87654321})
	byPort := expected{guard: &g, ports: []uint16{48826, 38842}}
	otherPort := expected{guard: &g, ports: []uint16{80}}
	// guarded puts a number of ours into a packet that quotes a TCP header from offset on.
	guarded := func(b []byte, offset int) []byte {
		b = bytes.Clone(b)
		ours, remote := binary.BigEndian.Uint16(b[offset:]), binary.BigEndian.Uint16(b[offset+offDstPort:])
		binary.BigEndian.PutUint32(b[offset+offSeq:], g.sequence(0xabcdef12, remote, ours))
		return b
	}
	const tcp4, tcp6 = 20 + icmpHeader + ipv4Header, icmpHeader + ipv6Header
	for _, tt := range []struct {
		name   string
		family string
		want   expected
		packet []byte
		passes bool
	}{
		{"unreachable", familyIPv4, few, four, true},
		{"unreachable over IPv6", familyIPv6, few, six, true},
		{"time exceeded", familyIPv4, few, at(four, 20, 11), true},
		{"echo request", familyIPv4, few, at(four, 20, 8), true}, // between the types; left to the parser
		{"echo reply", familyIPv4, few, at(four, 20, 0), false},
		{"timestamp", familyIPv4, few, at(four, 20, 13), false},
		{"about UDP", familyIPv4, few, at(four, 37, 17), false},
		{"neighbour advertisement", familyIPv6, few, at(six, 0, 136), false},
		{"about UDP over IPv6", familyIPv6, few, at(six, 14, 17), false},
		{"of another segment", familyIPv4, wrong, four, false},
		{"of another segment over IPv6", familyIPv6, wrong, six, false},
		{"many samples", familyIPv4, byPort, guarded(four, tcp4), true},
		{"many samples over IPv6", familyIPv6, byPort, guarded(six, tcp6), true},
		{"many samples, forged number", familyIPv6, byPort, at(guarded(six, tcp6), tcp6+offSeq, guarded(six, tcp6)[tcp6+offSeq]^0x80), false},
		{"many samples, other port", familyIPv6, otherPort, guarded(six, tcp6), false},
	} {
		if got := passes(t, icmpFilter(tt.family, tt.want), tt.packet); got != tt.passes {
			t.Errorf("%s: passes %t, want %t", tt.name, got, tt.passes)
		}
	}
}

func TestShortPacketsAreDropped(t *testing.T) {
	whole := recorded[2].segment.Append(nil, server6, client6)
	want := expected{seqs: []uint32{binary.BigEndian.Uint32(whole[offAck:]) - 1}}
	for n := range minHeader - 6 {
		if n <= offFlags && passes(t, tcpFilter(familyIPv6, want), whole[:n]) {
			t.Errorf("%d bytes pass", n)
		}
	}
}
