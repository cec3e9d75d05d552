package probe

import (
	"net/netip"
	"testing"
	"time"
)

func TestDecodeTCP(t *testing.T) {
	good := recorded[1].segment
	for _, tt := range []struct {
		name   string
		change func(s *Segment)
		want   bool
	}{
		{"SYN+ACK", func(*Segment) {}, true},
		{"RST+ACK", func(s *Segment) { s.Flags = RST | ACK }, true},
		{"RST that acknowledges nothing", func(s *Segment) { s.Flags = RST }, false},
		{"SYN", func(s *Segment) { s.Flags = SYN }, false},
		{"ACK", func(s *Segment) { s.Flags = ACK }, false},
		{"SYN+FIN+ACK", func(s *Segment) { s.Flags = SYN | FIN | ACK }, false},
		{"no flags", func(s *Segment) { s.Flags = 0 }, false},
	} {
		s := good
		tt.change(&s)
		p := packet{src: server4, dst: client4, ttl: 61, payload: s.Append(nil, server4, client4)}
		a, ok := decodeTCP(familyIPv4, p)
		if ok != tt.want {
			t.Errorf("%s: an answer: %t, want %t", tt.name, ok, tt.want)
		}
		want := flightKey{netip.AddrPortFrom(server4, 80), 48826}
		if ok && (a.key != want || a.source != client4 || a.ttl != 61) {
			t.Errorf("%s: got %+v", tt.name, a)
		}
		p.payload[offWindow] ^= 0x10
		if _, ok := decodeTCP(familyIPv4, p); ok {
			t.Errorf("%s: taken in spite of a wrong checksum", tt.name)
		}
		if _, ok := decodeTCP(familyIPv4, packet{src: server4, dst: client4, payload: p.payload[:19]}); ok {
			t.Errorf("%s: taken in spite of being cut", tt.name)
		}
	}
}

func TestDecodeICMPFindsTheLink(t *testing.T) {
	six := append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, fromHex(t, quoted6)...)
	copy(six[icmpHeader+24:], netip.MustParseAddr("fe80::2").AsSlice())
	a, ok := decodeICMP(familyIPv6, packet{src: server6, dst: client6, ifindex: 5, payload: six})
	if want := netip.MustParseAddrPort("[fe80::2%5]:80"); !ok || a.key.remote != want || a.source != client6 {
		t.Errorf("got %+v, %t, want the remote %s", a, ok, want)
	}
	if _, ok := decodeICMP(familyIPv4, packet{payload: []byte{3}}); ok {
		t.Error("one byte is taken for an answer")
	}
}

// asking returns a run with one target, client4's way to remote, that has one sample of sequence number 1000 from port 1234 on its way, and its
// repetition 5000.
func asking(remote netip.AddrPort) *run {
	return &run{
		cfg: Config{Count: 1, Timeout: time.Second, Progress: func(int, int) {}}, rounds: 2, begin: time.Now(),
		byAddr:  map[netip.AddrPort]int{remote: 0},
		all:     []asked{{addr: remote, way: &way{path: path{source: client4}, ports: []uint16{1234}}, open: 1, weight: 1}},
		flights: []flight{{seq: 1000, sent: 1}, {seq: 5000}},
		answers: map[shape]*answer{},
	}
}

// verdict is that of a flight; empty if it is still waiting.
func (f flight) verdict() Verdict {
	switch {
	case !f.done:
		return ""
	case f.answer == nil:
		return NoReply
	}
	return f.answer.verdict
}

// TestTake feeds answers to a probe that has sent one SYN.
func TestTake(t *testing.T) {
	remote := netip.AddrPortFrom(server4, 80)
	synack := Segment{SrcPort: 80, DstPort: 1234, Seq: 5, Ack: 1001, Flags: SYN | ACK, Window: 65160}
	good := arrival{key: flightKey{remote, 1234}, source: client4, ttl: 64, seq: 1000, segment: synack}
	forged := func(change func(s *Segment)) arrival {
		a := good
		change(&a.segment)
		a.seq = a.segment.Ack - 1
		return a
	}
	elsewhere := good
	elsewhere.source = server6
	otherPort := good
	otherPort.key.port++
	otherHost := good
	otherHost.key.remote = netip.AddrPortFrom(client4, 80)
	icmp := arrival{key: good.key, source: client4, icmp: "port-unreachable", seq: 1000}
	oldICMP := arrival{key: good.key, source: client4, icmp: "port-unreachable", seq: 999}
	for _, tt := range []struct {
		name string
		in   []arrival
		want Verdict
	}{
		{"answer", []arrival{good}, Direct},
		{"doubled", []arrival{good, good, forged(func(s *Segment) { s.Flags = RST | ACK })}, Direct},
		{"refused", []arrival{forged(func(s *Segment) { s.Flags, s.Window = RST|ACK, 0 }), good}, Refused},
		{"unreachable", []arrival{icmp}, Unreachable},
		{"forged ack, then the answer", []arrival{forged(func(s *Segment) { s.Ack = 1000 }), forged(func(s *Segment) { s.Ack = 1002 }), good}, Direct},
		{"RST with a forged ack", []arrival{forged(func(s *Segment) { s.Flags, s.Ack = RST|ACK, 0 })}, ""},
		{"to another address", []arrival{elsewhere}, ""},
		{"to another port", []arrival{otherPort}, ""},
		{"from another host", []arrival{otherHost}, ""},
		{"ICMP about another segment", []arrival{oldICMP}, ""},
		{"answer to what was not sent yet", []arrival{forged(func(s *Segment) { s.Ack = 5001 })}, ""},
	} {
		r, progress := asking(remote), 0
		r.cfg.Progress = func(int, int) { progress++ }
		r.takeAll(tt.in)
		if got := r.flights[0].verdict(); got != tt.want || (progress == 1) != (tt.want != "") || r.flights[1].done {
			t.Errorf("%s: verdict %q, progress %d, want %q", tt.name, got, progress, tt.want)
		}
	}
}

// TestTakeRepetition tells the answers to a sample and to its repetition, which come to the same port, by their numbers.
func TestTakeRepetition(t *testing.T) {
	remote := netip.AddrPortFrom(server4, 80)
	r := asking(remote)
	answer := arrival{key: flightKey{remote, 1234}, source: client4, seq: 1000, segment: Segment{Seq: 77, Ack: 1001, Flags: SYN | ACK, Window: 9000}}
	r.take(answer)
	if r.repeats.empty() {
		t.Fatal("the server that answered is not asked again")
	}
	r.flights[r.repeats.pop().flight].sent = 2
	r.take(answer)
	if r.flights[1].done {
		t.Error("the first answer, doubled, passes for the second")
	}
	answer.seq, answer.segment.Ack, answer.segment.Seq = 5000, 5001, 77+4000
	if r.take(answer); !r.flights[1].done || !r.all[0].cookies {
		t.Errorf("done %t, cookies %t, want both", r.flights[1].done, r.all[0].cookies)
	}
}
