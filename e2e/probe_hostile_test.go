package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// The addresses for which an impostor answers by hand, one port for each case.
var (
	impostorV4 = netip.MustParseAddr("10.99.0.1")
	impostorV6 = netip.MustParseAddr("fd99::1")
)

// script makes the answers to one SYN: segments, or whole IP packets.
type script func(syn lab.Segment) []any

// impersonate adds a host behind the firewall that has no TCP for these addresses and answers to each port's SYNs
// as its script says.
func impersonate(t *testing.T, topo *lab.Topology, scripts map[uint16]script) {
	t.Helper()
	host, err := topo.Host("impostor")
	if err != nil {
		t.Fatal(err)
	}
	via4, via6 := netip.MustParseAddr("10.77.4.2"), netip.MustParseAddr("fd77:4::2")
	near := lab.Port{Host: topo.Firewall, Name: "eth3", Addresses: []netip.Prefix{
		netip.MustParsePrefix("10.77.4.1/24"), netip.MustParsePrefix("fd77:4::1/64"),
	}}
	far := lab.Port{Host: host, Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(via4, 24), netip.PrefixFrom(via6, 64)}}
	if err := topo.Link(far, near, 0); err != nil {
		t.Fatal(err)
	}
	for _, route := range [][2]netip.Addr{{impostorV4, via4}, {impostorV6, via6}} {
		if err := topo.Firewall.AddRoute(netip.PrefixFrom(route[0], route[0].BitLen()), route[1]); err != nil {
			t.Fatal(err)
		}
	}
	wire := sniff(t, host)
	out := packetSocket(t, host, "eth0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = wire.Wait(ctx, func(p lab.Packet) bool {
			if p.Segment != nil && !p.Outgoing && p.Segment.Flags&synAck == lab.SYN {
				answer(t, out, p, scripts[p.Segment.Destination.Port()])
			}
			return false
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// packetSocket returns a function that puts frames on a link. [lab.Host.Send] enters the host for each frame, which is
// too slow for a flood.
func packetSocket(t *testing.T, host *lab.Host, iface string) func(frame []byte) error {
	t.Helper()
	link, err := host.Netlink().LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}
	fd := -1
	err = host.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) error { return unix.Sendto(fd, frame, 0, to) }
}

// answer sends what the script makes of a SYN back to where it came from.
func answer(t *testing.T, out func(frame []byte) error, syn lab.Packet, play script) {
	if play == nil {
		return
	}
	for _, a := range play(*syn.Segment) {
		packet, raw := a.([]byte)
		if segment, ok := a.(lab.Segment); ok {
			var err error
			if packet, err = segment.Marshal(); err != nil {
				t.Error(err)
			}
		} else if !raw {
			t.Errorf("a script made a %T", a)
		}
		frame := slices.Concat(syn.Data[6:12], syn.Data[0:6], syn.Data[12:14], packet)
		if err := out(frame); err != nil {
			t.Error(err)
		}
	}
}

// reply is an honest SYN+ACK with the given options.
func reply(syn lab.Segment, options ...byte) lab.Segment {
	return lab.Segment{
		Source: syn.Destination, Destination: syn.Source, Seq: 4711, Ack: syn.Seq + 1, Flags: synAck, Window: 65160, Options: options,
	}
}

// mss1400 is an option that no MTU of the lab limits.
var mss1400 = []byte{2, 4, 0x05, 0x78}

// forge returns many wrong answers to a SYN, all of which would say mss 600.
func forge(syn lab.Segment) []any {
	var wrong []any
	lie := func(change func(s *lab.Segment)) {
		s := reply(syn, 2, 4, 0x02, 0x58)
		change(&s)
		wrong = append(wrong, s)
	}
	for i := range uint32(100) {
		lie(func(s *lab.Segment) { s.Ack += 1 + i })
		lie(func(s *lab.Segment) { s.Ack -= 1 + i })
		lie(func(s *lab.Segment) { s.Source = netip.AddrPortFrom(s.Source.Addr(), s.Source.Port()+1+uint16(i)) })
		lie(func(s *lab.Segment) {
			s.Destination = netip.AddrPortFrom(s.Destination.Addr(), s.Destination.Port()^uint16(1+i))
		})
	}
	lie(func(s *lab.Segment) { s.Source = netip.AddrPortFrom(s.Source.Addr().Next(), s.Source.Port()) })
	for _, flags := range []uint8{lab.SYN, lab.ACK, lab.RST, lab.FIN | lab.ACK, synAck | lab.FIN, 0} {
		lie(func(s *lab.Segment) { s.Flags = flags })
	}
	lie(func(s *lab.Segment) { s.Flags, s.Ack = lab.RST|lab.ACK, 0 })
	for _, at := range []int{0, 8, 13, 14, 16, 22} { // source port, ack, flags, window, checksum, mss
		packet, err := reply(syn, 2, 4, 0x02, 0x58).Marshal()
		if err != nil {
			panic(err)
		}
		packet[len(packet)-24+at] ^= 0x20
		wrong = append(wrong, packet)
	}
	return wrong
}

func TestProbeForgedAnswers(t *testing.T) {
	topo := newTopology(t)
	impersonate(t, topo, map[uint16]script{
		1: func(syn lab.Segment) []any { return append(forge(syn), reply(syn, mss1400...)) },
		2: forge,
		3: func(syn lab.Segment) []any { // doubled, and then contradicted
			late := reply(syn, 2, 4, 0x02, 0x58)
			reset := reply(syn)
			reset.Flags = lab.RST | lab.ACK
			return []any{reply(syn, mss1400...), reply(syn, mss1400...), late, reset}
		},
		4: func(syn lab.Segment) []any { // late
			time.Sleep(600 * time.Millisecond)
			return []any{reply(syn, mss1400...)}
		},
	})
	for _, addr := range []netip.Addr{impostorV4, impostorV6} {
		at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
		results := ask(t, topo.Client, probe.Config{Timeout: 5 * time.Second}, at(1), at(3))
		for _, r := range results {
			if r.Verdict != probe.Direct || !r.Consistent || r.Samples != 3 || told(r).MSS != 1400 {
				t.Errorf("taken in by forged answers: %s", show(r))
			}
		}
		for _, r := range ask(t, topo.Client, probe.Config{Count: 1, Timeout: 500 * time.Millisecond}, at(2), at(4)) {
			if r.Verdict != probe.NoReply || r.Samples != 0 {
				t.Errorf("want no-reply: %s", show(r))
			}
		}
	}
}

func TestProbeHostileOptions(t *testing.T) {
	cases := []struct {
		options []byte
		nft     string
		note    string
	}{
		{[]byte{2, 4, 0x05, 0xb4, 3, 0, 4, 2}, "mss 1460", "window scale option has length 0"},
		{[]byte{2, 4, 0x05, 0xb4, 4, 1, 0, 0}, "mss 1460", "sack-permitted option has length 1"},
		{[]byte{2, 4, 0x05, 0xb4, 1, 1, 8, 10}, "mss 1460", "timestamps option has length 10, but only 2 bytes are left"},
		{[]byte{2, 4, 0x05, 0xb4, 0xfe, 0xff, 0, 0}, "mss 1460", "option 254 has length 255"},
		{[]byte{2, 4, 0x05, 0xb4, 1, 3, 3, 15}, "mss 1460 wscale 14", "window scale option is 15"},
		{[]byte{2, 4, 0x05, 0xb4, 1, 3, 3, 255}, "mss 1460 wscale 14", "window scale option is 255"},
		{[]byte{2, 4, 0x05, 0xb4, 2, 4, 0x02, 0x18}, "mss 536", "mss option is doubled"},
		{[]byte{2, 4, 0x05, 0xb4, 3, 3, 9, 3, 3, 2}, "mss 1460 wscale 9", "window scale option is doubled"},
		{[]byte{2, 4, 0, 0, 1, 3, 3, 7}, "wscale 7", "mss option is 0"},
		{nil, "", "no mss option"},
		{slices.Repeat([]byte{1}, 40), "", "no mss option"},
		{append(slices.Repeat([]byte{1}, 39), 2), "", "mss option ends before its length"},
		{lab.SYNOptions(1460, 7, 1), "mss 1460 wscale 7 timestamp sack-perm", "timestamp echo is wrong"},
	}
	scripts := map[uint16]script{}
	for i, c := range cases {
		scripts[uint16(i+1)] = func(syn lab.Segment) []any { return []any{reply(syn, c.options...)} }
	}
	topo := newTopology(t)
	impersonate(t, topo, scripts)
	for _, addr := range []netip.Addr{impostorV4, impostorV6} {
		var addrs []netip.AddrPort
		for i := range cases {
			addrs = append(addrs, netip.AddrPortFrom(addr, uint16(i+1)))
		}
		for i, r := range ask(t, topo.Client, probe.Config{Count: 2, Timeout: 5 * time.Second}, addrs...) {
			// An impostor over IPv6 may announce more than fits.
			want := cases[i].nft
			if addr.Is6() {
				want = strings.Replace(want, "1460", "1440", 1)
			}
			if r.Verdict != probe.Direct || r.NFT != want || !strings.Contains(strings.Join(r.Notes, "\n"), cases[i].note) {
				t.Errorf("% x: %s %q, notes %q, want %q, %q", cases[i].options, r.Verdict, r.NFT, r.Notes, want, cases[i].note)
			}
		}
	}
}

// icmpError makes the ICMP error of the impostor about a SYN.
func icmpError(syn lab.Segment, kind, code byte) []byte {
	quote, err := syn.Marshal()
	if err != nil {
		panic(err)
	}
	from, to := syn.Destination.Addr(), syn.Source.Addr()
	message := append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, quote...)
	var packet, pseudo []byte
	if from.Is4() {
		packet = append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0}, append(from.AsSlice(), to.AsSlice()...)...)
		binary.BigEndian.PutUint16(packet[2:], uint16(20+len(message)))
		binary.BigEndian.PutUint16(packet[10:], internetSum(packet))
	} else {
		packet = append([]byte{0x60, 0, 0, 0, 0, byte(len(message)), 58, 64}, append(from.AsSlice(), to.AsSlice()...)...)
		pseudo = append(slices.Clone(packet[8:]), 0, 0, 0, byte(len(message)), 0, 0, 0, 58)
	}
	binary.BigEndian.PutUint16(message[2:], internetSum(append(pseudo, message...)))
	return append(packet, message...)
}

// internetSum is the checksum of RFC 1071 over whole words.
func internetSum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func TestProbeEveryICMPError(t *testing.T) {
	type message struct {
		kind, code byte
		reason     string
	}
	var four, six []message
	for code, reason := range []string{
		"net-unreachable", "host-unreachable", "protocol-unreachable", "port-unreachable", "fragmentation-needed",
		"source-route-failed", "net-unknown", "host-unknown", "host-isolated", "net-prohibited", "host-prohibited",
		"net-unreachable-for-tos", "host-unreachable-for-tos", "admin-prohibited", "host-precedence-violation", "precedence-cutoff",
	} {
		four = append(four, message{3, byte(code), reason})
	}
	for code, reason := range []string{
		"no-route", "admin-prohibited", "beyond-scope", "address-unreachable", "port-unreachable", "policy-fail", "reject-route",
		"source-routing-error", "headers-too-long", "unreachable-code-9",
	} {
		six = append(six, message{1, byte(code), reason})
	}
	four = append(four, message{3, 77, "unreachable-code-77"}, message{11, 0, "time-exceeded"}, message{12, 0, "parameter-problem"})
	six = append(six, message{3, 0, "time-exceeded"}, message{4, 1, "parameter-problem"})
	scripts := map[uint16]script{
		// Errors about another segment, a damaged one, and then the answer.
		99: func(syn lab.Segment) []any {
			other := syn
			other.Seq++
			kind := byte(3)
			if syn.Source.Addr().Is6() {
				kind = 1
			}
			damaged := icmpError(syn, kind, 1)
			damaged[len(damaged)-1] ^= 1
			return []any{icmpError(other, kind, 1), damaged, reply(syn, mss1400...)}
		},
	}
	for i := range max(len(four), len(six)) {
		scripts[uint16(i+1)] = func(syn lab.Segment) []any {
			messages := four
			if syn.Source.Addr().Is6() {
				messages = six
			}
			return []any{icmpError(syn, messages[i].kind, messages[i].code)}
		}
	}
	topo := newTopology(t)
	impersonate(t, topo, scripts)
	for addr, messages := range map[netip.Addr][]message{impostorV4: four, impostorV6: six} {
		addrs := []netip.AddrPort{netip.AddrPortFrom(addr, 99)}
		for i := range messages {
			addrs = append(addrs, netip.AddrPortFrom(addr, uint16(i+1)))
		}
		results := ask(t, topo.Client, probe.Config{Count: 2, Timeout: 5 * time.Second}, addrs...)
		if results[0].Verdict != probe.Direct || !results[0].Consistent {
			t.Errorf("errors about other segments count: %s", show(results[0]))
		}
		for i, m := range messages {
			r := results[i+1]
			if r.Verdict != probe.Unreachable || r.Reason != m.reason || r.Samples != 2 {
				t.Errorf("type %d code %d: %s %q, %d samples, want %q", m.kind, m.code, r.Verdict, r.Reason, r.Samples, m.reason)
			}
		}
	}
}

// TestProbeRejected meets the errors that a real firewall sends.
func TestProbeRejected(t *testing.T) {
	topo := newTopology(t)
	tune(t, topo.Firewall, "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
	cases := []struct{ four, six, reason4, reason6 string }{
		{"icmp-net-unreachable", "icmp6-no-route", "net-unreachable", "no-route"},
		{"icmp-host-unreachable", "icmp6-addr-unreachable", "host-unreachable", "address-unreachable"},
		{"icmp-port-unreachable", "icmp6-port-unreachable", "port-unreachable", "port-unreachable"},
		{"icmp-admin-prohibited", "icmp6-adm-prohibited", "admin-prohibited", "admin-prohibited"},
		{"tcp-reset", "tcp-reset", "", ""},
	}
	addrs := map[netip.Addr][]netip.AddrPort{}
	for i, c := range cases {
		port := uint16(i + 1)
		for addr, program := range map[netip.Addr][]string{lab.ServerV4: {"iptables-nft", c.four}, lab.ServerV6: {"ip6tables-nft", c.six}} {
			run(t, topo.Firewall, program[0], "-A", "FORWARD", "-p", "tcp", "--dport", fmt.Sprint(port), "-j", "REJECT", "--reject-with", program[1])
			addrs[addr] = append(addrs[addr], netip.AddrPortFrom(addr, port))
		}
	}
	for addr, targets := range addrs {
		for i, r := range ask(t, topo.Client, probe.Config{}, targets...) {
			reason, verdict := cases[i].reason4, probe.Unreachable
			if addr.Is6() {
				reason = cases[i].reason6
			}
			if reason == "" {
				verdict = probe.Refused
			}
			if r.Verdict != verdict || r.Reason != reason || r.Samples != 3 || r.TTL == nil {
				t.Errorf("%s: want %s %q: %s", cases[i].four, verdict, reason, show(r))
			}
		}
	}
	// And nobody: the server itself refuses, a rule that drops keeps silent.
	run(t, topo.Firewall, "iptables-nft", "-A", "FORWARD", "-p", "tcp", "--dport", "7", "-j", "DROP")
	begin := time.Now()
	results := ask(t, topo.Client, probe.Config{Timeout: 300 * time.Millisecond}, netip.AddrPortFrom(lab.ServerV4, 9), netip.AddrPortFrom(lab.ServerV4, 7))
	if results[0].Verdict != probe.Refused || results[0].Samples != 3 {
		t.Errorf("closed port: %s", show(results[0]))
	}
	if results[1].Verdict != probe.NoReply || results[1].Sent != 3 || results[1].Samples != 0 {
		t.Errorf("dropped: %s", show(results[1]))
	}
	if elapsed := time.Since(begin); elapsed > time.Second {
		t.Errorf("three samples of silence took %v, though they wait at the same time", elapsed)
	}
}
