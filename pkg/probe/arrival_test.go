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

// TestTake feeds answers to a probe that has sent one SYN.
func TestTake(t *testing.T) {
	remote := netip.AddrPortFrom(server4, 80)
	synack := Segment{SrcPort: 80, DstPort: 1234, Seq: 5, Ack: 1001, Flags: SYN | ACK, Window: 65160}
	good := arrival{key: flightKey{remote, 1234}, source: client4, ttl: 64, segment: &synack}
	forged := func(change func(s *Segment)) arrival {
		s, a := synack, good
		change(&s)
		a.segment = &s
		return a
	}
	elsewhere := good
	elsewhere.source = server6
	otherPort := good
	otherPort.key.port++
	otherHost := good
	otherHost.key.remote = netip.AddrPortFrom(client4, 80)
	icmp := arrival{key: good.key, source: client4, icmp: &quoted{reason: "port-unreachable", seq: 1000, valid: true}}
	oldICMP := arrival{key: good.key, source: client4, icmp: &quoted{reason: "port-unreachable", seq: 999, valid: true}}
	for _, tt := range []struct {
		name string
		in   []arrival
		want []Verdict
	}{
		{"answer", []arrival{good}, []Verdict{Direct}},
		{"doubled", []arrival{good, good, forged(func(s *Segment) { s.Flags = RST | ACK })}, []Verdict{Direct}},
		{"refused", []arrival{forged(func(s *Segment) { s.Flags, s.Window = RST|ACK, 0 }), good}, []Verdict{Refused}},
		{"unreachable", []arrival{icmp}, []Verdict{Unreachable}},
		{"forged ack, then the answer", []arrival{forged(func(s *Segment) { s.Ack = 1000 }), forged(func(s *Segment) { s.Ack = 1002 }), good}, []Verdict{Direct}},
		{"RST with a forged ack", []arrival{forged(func(s *Segment) { s.Flags, s.Ack = RST|ACK, 0 })}, nil},
		{"to another address", []arrival{elsewhere}, nil},
		{"to another port", []arrival{otherPort}, nil},
		{"from another host", []arrival{otherHost}, nil},
		{"ICMP about another segment", []arrival{oldICMP}, nil},
	} {
		a := &asked{addr: remote, path: path{source: client4}, open: 1, weight: 1}
		f := &flight{asked: a, segment: Segment{SrcPort: 1234, DstPort: 80, Seq: 1000}, sent: time.Now()}
		progress := 0
		r := &run{cfg: Config{Progress: func(int, int) { progress++ }}, flights: map[flightKey]*flight{good.key: f}}
		for _, in := range tt.in {
			r.take(in)
		}
		var got []Verdict
		for _, s := range a.samples {
			got = append(got, s.verdict)
		}
		if len(got) != len(tt.want) || len(got) > 0 && got[0] != tt.want[0] || progress != len(tt.want) {
			t.Errorf("%s: samples %q, progress %d, want %q", tt.name, got, progress, tt.want)
		}
	}
}

func TestNothingIsTakenBeforeItIsAsked(t *testing.T) {
	a := &asked{path: path{source: client4}, open: 1}
	f := &flight{asked: a, segment: Segment{Seq: 1000}}
	r := &run{flights: map[flightKey]*flight{{}: f}}
	r.take(arrival{source: client4, segment: &Segment{Ack: 1001, Flags: SYN | ACK}})
	if f.done {
		t.Error("an answer came before its question")
	}
}
