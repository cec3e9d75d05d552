package e2e

import (
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/accel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// spoilt is a change that makes a SYN to a service something that is the kernel's alone.
type spoilt struct {
	name   string
	family int // 4, 6, or 0 for both
	change func(g *rand.Rand, frame []byte) []byte
}

// in changes the frame itself. The functions get the IP packet, and the checksums are made right afterwards.
func in(change func(g *rand.Rand, p []byte)) func(*rand.Rand, []byte) []byte {
	return func(g *rand.Rand, frame []byte) []byte {
		change(g, frame[etherSize:])
		fixSums(frame[etherSize:])
		return frame
	}
}

// flags sets those of TCP.
func flags(f uint8) func(*rand.Rand, []byte) []byte {
	return in(func(_ *rand.Rand, p []byte) { p[ipSize(p)+13] = f })
}

// tagged puts tags into the frame.
func tagged(tags ...byte) func(*rand.Rand, []byte) []byte {
	return func(_ *rand.Rand, frame []byte) []byte { return slices.Insert(frame, 12, tags...) }
}

// at sets bytes of the packet, and leaves the checksums right.
func at(offset int, bytes ...byte) func(*rand.Rand, []byte) []byte {
	return in(func(_ *rand.Rand, p []byte) { copy(p[offset:], bytes) })
}

// raw sets bytes of the frame, whatever the checksums say then.
func raw(offset int, bytes ...byte) func(*rand.Rand, []byte) []byte {
	return func(_ *rand.Rand, frame []byte) []byte {
		copy(frame[offset:], bytes)
		return frame
	}
}

var spoilts = []spoilt{
	{"ack", 0, flags(lab.ACK)},
	{"syn+ack", 0, flags(lab.SYN | lab.ACK)},
	{"rst", 0, flags(lab.RST)},
	{"rst+ack", 0, flags(lab.RST | lab.ACK)},
	{"syn+rst", 0, flags(lab.SYN | lab.RST)},
	{"fin", 0, flags(lab.FIN)},
	{"syn+fin", 0, flags(lab.SYN | lab.FIN)},
	{"xmas", 0, flags(lab.FIN | lab.PSH | lab.URG)},
	{"all flags", 0, flags(0xff)},
	{"no flag", 0, flags(0)},
	{"data", 0, flags(lab.ACK | lab.PSH)},
	{"another port", 0, in(func(_ *rand.Rand, p []byte) { p[ipSize(p)+2] ^= 0x10 })},
	{"another address", 0, in(func(_ *rand.Rand, p []byte) { p[(addressesAt(p)+ipSize(p))/2+1] ^= 0x80 })},
	{"another machine's", 0, raw(5, 0x99)},
	{"broadcast", 0, raw(0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
	{"multicast", 0, raw(0, 1, 0, 0x5e, 0, 0, 1)},
	{"from a group", 0, raw(6, 1)},
	{"from everybody", 0, raw(6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
	{"arp", 0, raw(12, 0x08, 0x06)},
	{"802.3", 0, raw(12, 0x00, 0x40)},
	{"the other family", 4, raw(12, 0x86, 0xdd)},
	{"the other family", 6, raw(12, 0x08, 0x00)},
	{"udp", 4, at(9, 17)},
	{"icmp", 4, at(9, 1)},
	{"ip in ip", 4, at(9, 4)},
	{"gre", 4, at(9, 47)},
	{"sctp", 4, at(9, 132)},
	{"udp", 6, raw(etherSize+6, 17)},
	{"icmp", 6, raw(etherSize+6, 58)},
	{"no header", 6, raw(etherSize+6, 59)},
	{"hop-by-hop", 6, raw(etherSize+6, 0)},
	{"routing", 6, raw(etherSize+6, 43)},
	{"fragment", 6, raw(etherSize+6, 44)},
	{"destination options", 6, raw(etherSize+6, 60)},
	{"authentication", 6, raw(etherSize+6, 51)},
	{"first fragment", 4, at(6, 0x20, 0)},
	{"middle fragment", 4, at(6, 0x20, 7)},
	{"last fragment", 4, at(6, 0x00, 7)},
	{"far fragment", 4, at(6, 0x1f, 0xff)},
	{"time to live 1", 4, at(8, 1)},
	{"time to live 0", 4, at(8, 0)},
	{"hop limit 1", 6, at(7, 1)},
	{"hop limit 0", 6, at(7, 0)},
	{"ip checksum", 4, raw(etherSize+10, 0xde, 0xad)},
	{"version 5", 4, raw(etherSize, 0x55)},
	{"version 4", 6, raw(etherSize, 0x40)},
	{"short ip header", 4, raw(etherSize, 0x44)},
	{"options that are none", 4, raw(etherSize, 0x46)},
	{"router alert", 4, func(_ *rand.Rand, frame []byte) []byte {
		frame = slices.Insert(frame, etherSize+20, 0x94, 4, 0, 0)
		p := frame[etherSize:]
		p[0] = 0x46
		p[3] += 4 // no carry: see below
		p[10], p[11] = 0, 0
		sum := onesSum(0, p[:24])
		p[10], p[11] = byte(sum>>8), byte(sum)
		return frame
	}},
	{"longer than the frame", 4, raw(etherSize+2, 0x7f, 0xff)},
	{"longer than the frame", 6, raw(etherSize+4, 0x7f, 0xff)},
	{"shorter than its headers", 4, raw(etherSize+2, 0, 39)},
	{"shorter than its headers", 6, raw(etherSize+4, 0, 19)},
	{"jumbogram", 6, raw(etherSize+4, 0, 0)},
	{"tcp header of 16", 0, in(func(_ *rand.Rand, p []byte) { p[ipSize(p)+12] = 0x40 })},
	{"tcp header of 0", 0, in(func(_ *rand.Rand, p []byte) { p[ipSize(p)+12] = 0 })},
	{"tcp header without end", 0, func(_ *rand.Rand, frame []byte) []byte {
		// Whatever follows, an answer must not be made of what does not belong to the segment.
		p := frame[etherSize:]
		short := p[:ipSize(p)+tcpSize]
		if p[0]>>4 == 4 {
			short[2], short[3] = 0, 40
		} else {
			short[4], short[5] = 0, 20
		}
		short[ipSize(p)+12] = 0xf0
		fixSums(short)
		return append(frame[:etherSize], short...)
	}},
	{"from 0.0.0.1", 4, at(12, 0, 0, 0, 1)},
	{"from 127.0.0.1", 4, at(12, 127, 0, 0, 1)},
	{"from 224.0.0.1", 4, at(12, 224, 0, 0, 1)},
	{"from 240.0.0.1", 4, at(12, 240, 0, 0, 1)},
	{"from 255.255.255.255", 4, at(12, 255, 255, 255, 255)},
	{"from ::", 6, at(8, make([]byte, 16)...)},
	{"from ::1", 6, at(8, append(make([]byte, 15), 1)...)},
	{"from ff02::1", 6, at(8, 0xff, 2)},
	{"from fe80::1", 6, at(8, 0xfe, 0x80)},
	{"from itself", 4, in(func(_ *rand.Rand, p []byte) { copy(p[12:16], p[16:20]) })},
	{"from itself", 6, in(func(_ *rand.Rand, p []byte) { copy(p[8:24], p[24:40]) })},
	{"unknown vlan", 0, tagged(0x81, 0, 0, 9)},
	{"vlan without number", 0, tagged(0x81, 0, 0x20, 0)},
	{"vlan 5 of a provider", 0, tagged(0x88, 0xa8, 0, 5)},
	{"vlan 5 in 5", 0, tagged(0x81, 0, 0, 5, 0x81, 0, 0, 5)},
	{"outer vlan alone", 0, tagged(0x88, 0xa8, 0, 6)},
	{"vlans swapped", 0, tagged(0x81, 0, 0x0f, 0xfe, 0x88, 0xa8, 0, 6)},
	{"three vlans", 0, tagged(0x88, 0xa8, 0, 6, 0x81, 0, 0x0f, 0xfe, 0x81, 0, 0, 5)},
	{"inner vlan without number", 0, tagged(0x81, 0, 0, 5, 0x81, 0, 0, 0)},
	{"old q-in-q", 0, tagged(0x91, 0, 0, 5)},
	{"mpls", 0, tagged(0x88, 0x47, 0, 5)},
	{"noise", 0, func(g *rand.Rand, frame []byte) []byte {
		for i := 12; i < len(frame); i++ {
			frame[i] = byte(g.Uint32())
		}
		return frame
	}},
}

// TestAccelPassesTheRest gives the program what is not an exact SYN to a service: it comes out as it went in.
func TestAccelPassesTheRest(t *testing.T) {
	mac, far := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	services := accelServices(rules.IPv4, rules.IPv6)
	p := loadAccel(t, mac, accel.Entries(services, accel.Link{
		TTL: 64, HopLimit: 64, VLANs: []accel.VLAN{{}, {Outer: 5}, {Outer: 6 | accel.Provider, Inner: 4094}},
	}))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &synMaker{Rand: rand.New(rand.NewPCG(seed, 1)), to: mac, from: far}
	for i, f := range forms(p) {
		for _, s := range services {
			family := 4
			if s.Family() == rules.IPv6 {
				family = 6
			}
			to := netip.AddrPortFrom(s.Destination.Addr().Next(), s.Port)
			if s.Destination.IsSingleIP() {
				to = netip.AddrPortFrom(s.Destination.Addr(), s.Port)
			}
			for _, c := range spoilts {
				if c.family != 0 && c.family != family {
					continue
				}
				syn, _ := m.frame(to)
				for syn[etherSize+3] > 250 { // so that it can grow without a carry
					syn, _ = m.frame(to)
				}
				if verdict, _ := f.run(t, syn); verdict != f.answer {
					t.Fatalf("%s: verdict %d for a SYN that is nothing else", f.name, int32(verdict))
				}
				bad := c.change(m.Rand, slices.Clone(syn))
				if err := f.fault(t, bad); err != nil {
					t.Errorf("IPv%d %s: %v\n%s", family, c.name, err, hex.Dump(bad))
				}
			}
		}
		// What ends too early, at every byte before its last.
		for _, to := range []netip.AddrPort{netip.AddrPortFrom(lab.ServerV4, 8015), netip.AddrPortFrom(lab.ServerV6, 8015)} {
			syn, _ := m.frame(to)
			end := etherSize + ipSize(syn[etherSize:]) + tcpSize + int(syn[etherSize+ipSize(syn[etherSize:])+12]>>4)*4 - tcpSize
			for n := etherSize; n < end; n++ {
				if n < etherSize+ipSize(syn[etherSize:]) && f.name == "tc" {
					continue // no such packet comes as far: the kernel refuses the test
				}
				if err := f.fault(t, syn[:n:n]); err != nil {
					t.Errorf("%v after %d bytes of\n%s", err, n, hex.Dump(syn))
				}
			}
		}
		n, err := p.Counters()
		if err != nil || n.Failed != 0 || n.Left != 0 || n.Answered == 0 || n.SYNs <= n.Answered && i == 0 {
			t.Errorf("counters %+v, %v", n, err)
		}
	}
}
