package accel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// The verdicts of the two forms: linux/bpf.h and linux/pkt_cls.h.
const (
	xdpPass, xdpTX     = 2, 3
	tcUnspec, tcDivert = 0xffffffff, 7
)

var fuzzMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// FuzzFrame gives any frame to both forms of the program. They agree; what they do not answer is as it was; and an answer
// is a SYN+ACK to that very segment whose checksums are right.
func FuzzFrame(f *testing.F) {
	services := []rules.Service{
		{Destination: netip.MustParsePrefix("192.0.2.0/24"), Port: 80, Options: someServices()[0].Options},
		{Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: 80, Options: rules.Options{Timestamps: true}},
		{Destination: netip.MustParsePrefix("2001:db8::/32"), Port: 80, Options: someServices()[0].Options},
	}
	p := loaded(f, 9)
	if err := p.SetMAC(fuzzMAC); err != nil {
		f.Fatal(err)
	}
	vlans := []VLAN{{}, {Outer: 5}, {Outer: 6 | Provider, Inner: 4094}}
	if err := p.Update(Entries(services, Link{TTL: 64, HopLimit: 64, VLANs: vlans})); err != nil {
		f.Fatal(err)
	}
	for _, frame := range fuzzSeeds(f) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < etherSize || len(frame) > 3000 {
			return // the kernel makes no packet of it, or none of one piece
		}
		try(t, p, frame)
		try(t, p, repaired(frame))
	})
}

// try is one frame.
func try(t *testing.T, p *Program, frame []byte) {
	t.Helper()
	verdict, answer := runFrame(t, p.XDP(), frame)
	tcVerdict, tcAnswer, ok := runPacket(t, p.TC(), frame)
	if ok && (verdict == xdpTX) != (tcVerdict == tcDivert) {
		t.Fatalf("XDP says %d, and tc %d", verdict, int32(tcVerdict))
	}
	switch verdict {
	case xdpPass:
		if ok && tcVerdict != tcUnspec {
			t.Errorf("tc says %d", int32(tcVerdict))
		}
		if !bytes.Equal(answer, frame) || ok && !bytes.Equal(tcAnswer, frame) {
			t.Errorf("passed, and changed")
		}
	case xdpTX:
		size, err := faultOf(frame, answer)
		if err != nil {
			t.Errorf("%v:\n%s", err, hex.Dump(answer))
		}
		if ok && !bytes.Equal(timeless(tcAnswer), timeless(answer[:size])) {
			t.Errorf("XDP answers\n%s\nand tc\n%s", hex.Dump(answer), hex.Dump(tcAnswer))
		}
	default:
		t.Errorf("verdict %d", verdict)
	}
}

// repaired returns a frame that is addressed to us, with a right checksum of its IP header: no noise gets that far.
func repaired(frame []byte) []byte {
	f := slices.Clone(frame)
	copy(f, fuzzMAC)
	if l3 := headerAt(f); len(f) >= l3+20 && f[l3]>>4 == 4 {
		clear(f[l3+10 : l3+12])
		var sum uint32
		for i := l3; i < l3+20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(f[i:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(f[l3+10:], ^uint16(sum>>16+sum))
	}
	return f
}

// headerAt returns the offset of the IP header, behind all tags.
func headerAt(frame []byte) int {
	l3 := etherSize
	for l3 < len(frame) && (frame[l3-2] == 0x81 && frame[l3-1] == 0 || frame[l3-2] == 0x88 && frame[l3-1] == 0xa8) {
		l3 += 4
	}
	return l3
}

const etherSize = 14

func runFrame(t *testing.T, p *ebpf.Program, frame []byte) (uint32, []byte) {
	t.Helper()
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Repeat: 1}
	verdict, err := p.Run(&o)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, o.DataOut
}

// runPacket is runFrame for tc, whose tests the kernel refuses if the IP header is cut off.
func runPacket(t *testing.T, p *ebpf.Program, frame []byte) (uint32, []byte, bool) {
	t.Helper()
	if len(frame) < etherSize+40 {
		return 0, nil, false
	}
	verdict, out := runFrame(t, p, frame)
	return verdict, out, true
}

// faultOf tells what is wrong with the answer to a frame, and how long it is without filling.
func faultOf(frame, answer []byte) (int, error) {
	l3 := headerAt(frame)
	if len(answer) < l3+40 || !bytes.Equal(answer[:6], frame[6:12]) || !bytes.Equal(answer[6:12], frame[:6]) {
		return 0, fmt.Errorf("sent to %x from %x", answer[:6], answer[6:12])
	}
	syn, err := lab.ParseSegment(frame[l3:])
	if err != nil {
		return 0, fmt.Errorf("answered what is no segment: %w", err)
	}
	got, err := lab.ParseSegment(answer[l3:])
	if err != nil {
		return 0, err
	}
	size := l3 + 40 + len(got.Options)
	if got.Source.Addr().Is6() {
		size += 20
	}
	switch {
	case len(bytes.Trim(answer[size:], "\x00")) > 0, len(answer) > max(size, 60):
		return 0, fmt.Errorf("%d bytes, filled with %x", len(answer), answer[size:])
	case syn.Flags&(lab.SYN|lab.ACK|lab.FIN|lab.RST) != lab.SYN:
		return 0, fmt.Errorf("answered flags %#x", syn.Flags)
	case got.Flags != lab.SYN|lab.ACK || got.Ack != syn.Seq+1 || got.Window != 0 || len(got.Payload) != 0:
		return 0, fmt.Errorf("flags %#x, ack %d, window %d, %d bytes", got.Flags, got.Ack, got.Window, len(got.Payload))
	case got.Source != syn.Destination || got.Destination != syn.Source || got.TTL != 64:
		return 0, fmt.Errorf("from %v to %v, ttl %d", got.Source, got.Destination, got.TTL)
	case got.BadChecksum:
		return 0, fmt.Errorf("wrong checksum")
	}
	return size, nil
}

// timeless returns an answer whose timestamps say nothing of the time, and has no checksum of TCP.
func timeless(answer []byte) []byte {
	a := slices.Clone(answer)
	l3 := headerAt(a)
	t := a[l3+20:]
	if a[l3]>>4 == 6 {
		t = a[l3+40:]
	}
	clear(t[16:18])
	if i := bytes.Index(t[20:], []byte{8, 10}); i >= 0 && len(t) > 24+i {
		clear(t[22+i : 25+i])
		t[25+i] &= 0x3f
	}
	return a
}

// fuzzSeeds are a SYN of each family, without and with tags, options and payload.
func fuzzSeeds(f *testing.F) [][]byte {
	var all [][]byte
	for source, to := range map[string]string{"198.51.100.7:1": "192.0.2.1:80", "198.51.100.7:2": "192.0.2.2:80", "[2001:db9::1]:3": "[2001:db8::1]:80"} {
		for _, options := range [][]byte{nil, lab.SYNOptions(1460, 7, 99), {2, 4, 5, 180}, {1, 3, 3, 15, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0}} {
			packet, err := lab.Segment{
				Source: netip.MustParseAddrPort(source), Destination: netip.MustParseAddrPort(to), Seq: 1 << 31, Flags: lab.SYN, Options: options,
				Payload: make([]byte, len(options)%3),
			}.Marshal()
			if err != nil {
				f.Fatal(err)
			}
			for _, tags := range [][]byte{nil, {0x81, 0, 0, 5}, {0x88, 0xa8, 0xf0, 6, 0x81, 0, 0x1f, 0xfe}} {
				frame := slices.Concat(fuzzMAC, []byte{2, 0, 0, 0, 0, 2}, tags, []byte{0x08, 0x00}, packet)
				if packet[0]>>4 == 6 {
					copy(frame[12+len(tags):], []byte{0x86, 0xdd})
				}
				all = append(all, frame)
			}
		}
	}
	return all
}
