package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/synproxyctl/synproxyctl/internal/accel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// accelServices are behind the firewall: every combination of options, on a port of each; and a network.
func accelServices(families ...rules.Family) []rules.Service {
	var all []rules.Service
	for _, family := range families {
		server, network := lab.ServerV4, netip.MustParsePrefix("10.79.0.0/20")
		if family == rules.IPv6 {
			server, network = lab.ServerV6, netip.MustParsePrefix("fd79::/61")
		}
		for i := range 16 {
			s := rules.Service{Destination: netip.PrefixFrom(server, server.BitLen()), Port: uint16(8000 + i), Hook: rules.Forward, Interfaces: []string{"eth0"}}
			s.Options.SACKPerm, s.Options.Timestamps = i&1 != 0, i&2 != 0
			if i&4 != 0 {
				s.Options.WScale = ptr(uint8(i % 15))
			}
			if i&8 != 0 {
				s.Options.MSS = ptr(uint16(1000 + i))
			}
			s.Mode = rules.ModeTracked
			if i&3 == 0 {
				s.Mode = rules.ModeNotrack
			}
			all = append(all, s)
		}
		last := all[len(all)-1]
		last.Destination, last.Port = network, 443
		all = append(all, last)
	}
	return all
}

// loadAccel brings the program into the kernel for a test.
func loadAccel(t *testing.T, mac net.HardwareAddr, entries []accel.Entry) *accel.Program {
	t.Helper()
	p, err := accel.Load(len(entries) + 1)
	skipWithoutBPF(t, err)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if err := p.SetMAC(mac); err != nil {
		t.Fatal(err)
	}
	if err := p.Update(entries); err != nil {
		t.Fatal(err)
	}
	return p
}

// forms are the program's two, each with its verdicts.
func forms(p *accel.Program) []form {
	return []form{{"xdp", p.XDP(), 2, 3}, {"tc", p.TC(), 0xffffffff, 7}}
}

type form struct {
	name         string
	program      *ebpf.Program
	pass, answer uint32
}

// run gives a frame to the program, and returns what has become of it.
func (f form) run(t *testing.T, frame []byte) (uint32, []byte) {
	t.Helper()
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Repeat: 1}
	verdict, err := f.program.Run(&o)
	if err != nil {
		t.Fatalf("%s: %v\n%s", f.name, err, hex.Dump(frame))
	}
	return verdict, o.DataOut
}

// fault checks that a frame is passed as it is.
func (f form) fault(t *testing.T, frame []byte) error {
	t.Helper()
	verdict, out := f.run(t, frame)
	switch {
	case verdict != f.pass:
		return fmt.Errorf("%s: verdict %d", f.name, int32(verdict))
	case !bytes.Equal(out, frame):
		return fmt.Errorf("%s: passed, but changed to\n%s", f.name, hex.Dump(out))
	}
	return nil
}

var accelOptions = []struct {
	backend  string
	families []rules.Family
	window   bool
	syns     int
}{
	{rules.NFT, []rules.Family{rules.IPv4, rules.IPv6}, false, 8000},
	{rules.NFTables, []rules.Family{rules.IPv4}, true, 3000}, // whose SYNPROXY does not answer unchecked IPv6
}

// TestAccelAnswersAsTheKernel sends SYNs of all kinds to netfilter's SYNPROXY, and gives the same ones to the BPF
// program: the SYN+ACKs are the same, byte for byte but for time and checksum, which is right.
func TestAccelAnswersAsTheKernel(t *testing.T) {
	for _, c := range accelOptions {
		t.Run(c.backend, func(t *testing.T) {
			topo := newTopology(t)
			services := accelServices(c.families...)
			on := accel.Link{
				TTL: 63, HopLimit: 61, OpenWindow: c.window,
				VLANs: []accel.VLAN{{}, {Outer: 5}, {Outer: 6 | accel.Provider, Inner: 4094}},
			}
			for key, value := range map[string]string{"net.ipv4.ip_default_ttl": "63", "net.ipv6.conf.all.hop_limit": "61"} {
				if err := topo.Firewall.SetSysctl(key, value); err != nil {
					t.Fatal(err)
				}
			}
			b, err := rules.Find(c.backend)
			if err != nil {
				t.Fatal(err)
			}
			policy := rules.Policy{Services: services, Window: c.window}
			if err := policy.Validate(); err != nil {
				t.Fatal(err)
			}
			backendOn{b, topo.Firewall}.goTo(t, policy.Ruleset(c.backend))
			for prefix, via := range map[string]netip.Addr{"10.78.0.0/16": lab.ClientV4, "fd78::/32": lab.ClientV6} {
				if err := topo.Firewall.AddRoute(netip.MustParsePrefix(prefix), via); err != nil {
					t.Fatal(err)
				}
			}
			for prefix, via := range map[string]netip.Addr{"10.79.0.0/16": lab.ServerV4, "fd79::/32": lab.ServerV6} {
				if err := topo.Firewall.AddRoute(netip.MustParsePrefix(prefix), via); err != nil {
					t.Fatal(err)
				}
			}
			client, firewall := macOf(t, topo.Client, "eth0"), macOf(t, topo.Firewall, "eth0")
			p := loadAccel(t, firewall, accel.Entries(services, on))
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			m := &synMaker{Rand: rand.New(rand.NewPCG(seed, 1)), to: firewall, from: client}
			given, again := 0, false
			for n := 0; n < c.syns; {
				err := compareSome(t, topo, m, services, p, 1000)
				given += 6000
				if errors.Is(err, errOtherMinute) && !again {
					again = true // it cannot end twice
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				n += 1000
			}
			n, err := p.Counters()
			if want := uint64(given); err != nil || !again && n != (accel.Counters{SYNs: want, Answered: want}) {
				t.Errorf("counters %+v, %v; want %d answered", n, err, want)
			}
		})
	}
}

// errOtherMinute tells that answers differ in their cookies alone, as they do when the kernel has begun another minute.
var errOtherMinute = errors.New("another cookie")

// compareSome makes n SYNs, and holds the program's answers against the kernel's.
func compareSome(t *testing.T, topo *lab.Topology, m *synMaker, services []rules.Service, p *accel.Program, n int) error {
	t.Helper()
	frames, answers := kernelAnswers(t, topo, m, services, n)
	for i, frame := range frames {
		if answers[i] == nil {
			return fmt.Errorf("no answer of the kernel to\n%s", hex.Dump(frame))
		}
		for _, f := range forms(p) {
			for _, tags := range [][]byte{nil, {0x81, 0x00, 0xe0, 5}, {0x88, 0xa8, 0, 6, 0x81, 0, 0x1f, 0xfe}} {
				if err := f.compare(t, frame, answers[i], tags); err != nil {
					return fmt.Errorf("%w\nSYN\n%s\nkernel\n%s", err, hex.Dump(frame), hex.Dump(answers[i]))
				}
			}
		}
	}
	return nil
}

// kernelAnswers sends SYNs to the services and returns them, and what netfilter answered to each.
func kernelAnswers(t *testing.T, topo *lab.Topology, m *synMaker, services []rules.Service, n int) (frames, answers [][]byte) {
	t.Helper()
	capture, err := topo.Client.Capture("eth0", func(p lab.Packet) bool {
		return !p.Outgoing && p.Segment != nil && p.Segment.Flags&(lab.SYN|lab.ACK) == lab.SYN|lab.ACK
	})
	if err != nil {
		t.Fatal(err)
	}
	at := map[netip.AddrPort]int{}
	answers = make([][]byte, n)
	for i := range n {
		s := services[i%len(services)]
		to := s.Destination.Addr()
		if !s.Destination.IsSingleIP() {
			to = to.Next().Next()
		}
		frame, from := m.frame(netip.AddrPortFrom(to, s.Port))
		frames = append(frames, frame)
		at[from] = i
	}
	if err := topo.Client.Send("eth0", frames...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	seen := 0
	_, _ = capture.Wait(ctx, func(lab.Packet) bool { seen++; return seen >= n })
	packets, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		i, ok := at[p.Segment.Destination]
		if !ok || answers[i] != nil {
			t.Fatalf("unexpected answer to %v", p.Segment.Destination)
		}
		answers[i] = p.Data
	}
	return frames, answers
}

// compare gives a frame with tags to the program and tells how its answer differs from the kernel's.
func (f form) compare(t *testing.T, frame, kernel, tags []byte) error {
	t.Helper()
	verdict, out := f.run(t, slices.Insert(slices.Clone(frame), 12, tags...))
	if verdict != f.answer {
		return fmt.Errorf("%s: verdict %d, tags %x", f.name, int32(verdict), tags)
	}
	// The kernel sends without priority.
	plain := slices.Clone(tags)
	for i := 2; i < len(plain); i += 4 {
		plain[i] &= 0x0f
	}
	if got := out[12 : 12+len(tags)]; !bytes.Equal(got, plain) {
		return fmt.Errorf("%s: tags %x instead of %x", f.name, got, plain)
	}
	got := slices.Delete(slices.Clone(out), 12, 12+len(tags))
	// A frame does not become shorter than 60 bytes, as those on a cable are, with nothing else behind the answer.
	if len(got) < len(kernel) || len(got) > len(kernel) && (f.name != "xdp" || len(out) != min(60, len(frame)+len(tags))) {
		return fmt.Errorf("%s: %d bytes instead of %d:\n%s", f.name, len(got), len(kernel), hex.Dump(out))
	}
	rest := got[len(kernel):]
	got = got[:len(kernel)]
	if len(bytes.Trim(rest, "\x00")) > 0 {
		return fmt.Errorf("%s: filled with %x", f.name, rest)
	}
	summed := slices.Clone(got[etherSize:])
	fixSums(summed)
	if !bytes.Equal(summed, got[etherSize:]) {
		return fmt.Errorf("%s: a checksum is wrong:\n%s", f.name, hex.Dump(got))
	}
	switch a, b := timeless(got), timeless(kernel); {
	case bytes.Equal(a, b):
	case bytes.Equal(withoutNumber(a), withoutNumber(b)):
		return fmt.Errorf("%s: %w", f.name, errOtherMinute)
	default:
		return fmt.Errorf("%s: answered\n%s", f.name, hex.Dump(got))
	}
	return nil
}

// timeless returns a frame whose SYN+ACK has no timestamp of its own, no identification and no checksums.
func timeless(frame []byte) []byte {
	f := slices.Clone(frame)
	packet := f[etherSize:]
	if packet[0]>>4 == 4 {
		clear(packet[4:6])
		clear(packet[10:12])
	}
	t := packet[ipSize(packet):]
	clear(t[16:18])
	for o := t[tcpSize:]; len(o) > 1; {
		switch o[0] {
		case 1:
			o = o[1:]
			continue
		case 8: // its lower 6 bits hold what the client offered
			clear(o[2:5])
			o[5] &= 0x3f
		}
		o = o[o[1]:]
	}
	return f
}

// withoutNumber returns a frame without the sequence number, which is the cookie.
func withoutNumber(frame []byte) []byte {
	f := slices.Clone(frame)
	clear(f[etherSize+ipSize(f[etherSize:])+4:][:4])
	return f
}

func macOf(t *testing.T, host *lab.Host, iface string) net.HardwareAddr {
	t.Helper()
	link, err := host.Netlink().LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().HardwareAddr
}
