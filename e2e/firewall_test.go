package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/firewall"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// readFirewall reads the rules of a host.
func readFirewall(t *testing.T, host *lab.Host) firewall.Firewall {
	t.Helper()
	var fw firewall.Firewall
	err := host.Do(func() (err error) {
		fw, err = firewall.Read(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fw
}

// shot is a packet that is sent for real, and what it is to the rules.
type shot struct {
	segment lab.Segment
	from    *lab.Host         // nil: the firewall itself, with somebody else's source
	local   bool              // to the firewall itself
	hooks   []firewall.Packet // what it meets, one after the other
}

func (s shot) String() string {
	return fmt.Sprintf("%s to %s, flags %#x", s.segment.Source.Addr(), s.segment.Destination, s.segment.Flags)
}

var (
	strangerV4 = netip.MustParseAddr("198.51.100.7")
	strangerV6 = netip.MustParseAddr("2001:db8:77::7")
)

// shots are SYNs and ACKs from the client, the attacker and, in the name of a
// stranger, the firewall itself; to two ports of the firewall and to one of the
// server.
func shots(topo *lab.Topology, v6 bool) []shot {
	pick := func(four, six netip.Addr) netip.Addr {
		if v6 {
			return six
		}
		return four
	}
	var all []shot
	for _, from := range []struct {
		host  *lab.Host
		addr  netip.Addr
		iface string
	}{
		{topo.Client, pick(lab.ClientV4, lab.ClientV6), "eth0"},
		{topo.Attacker, pick(lab.AttackerV4, lab.AttackerV6), "eth2"},
		{nil, pick(strangerV4, strangerV6), ""},
	} {
		for _, to := range []struct {
			addr  netip.Addr
			port  uint16
			local bool
		}{
			{pick(lab.FirewallV4, lab.FirewallV6), 80, true}, {pick(lab.FirewallV4, lab.FirewallV6), 81, true},
			{pick(lab.ServerV4, lab.ServerV6), 80, false},
		} {
			for flags, state := range map[uint8]rules.States{lab.SYN: rules.New, lab.ACK: rules.Invalid} {
				s := shot{from: from.host, local: to.local, segment: lab.Segment{
					Source: netip.AddrPortFrom(from.addr, uint16(20000+len(all))), Destination: netip.AddrPortFrom(to.addr, to.port),
					Flags: flags, Seq: 1, Ack: 1, Window: 1000,
				}}
				p := firewall.Packet{
					Source: netip.PrefixFrom(from.addr, from.addr.BitLen()), Destination: netip.PrefixFrom(to.addr, to.addr.BitLen()),
					SourcePort: s.segment.Source.Port(), DestinationPort: to.port, DestinationLocal: to.local,
					Flags: rules.TCPFlags(flags), States: state,
				}
				s.hooks = way(p, from.iface, to.local)
				all = append(all, s)
			}
		}
	}
	return all
}

// way returns a packet at each hook that it meets. It comes by iface, or from
// the firewall itself.
func way(p firewall.Packet, iface string, local bool) []firewall.Packet {
	at := func(h firewall.Hook, in, out string) firewall.Packet {
		q := p
		q.Hook, q.In, q.Out = h, []string{in}, []string{out}
		return q
	}
	switch {
	case iface == "" && local:
		return []firewall.Packet{
			at(firewall.Output, "", "lo"), at(firewall.Postrouting, "", "lo"),
			at(firewall.Prerouting, "lo", ""), at(firewall.Input, "lo", ""),
		}
	case iface == "":
		return []firewall.Packet{at(firewall.Output, "", "eth1"), at(firewall.Postrouting, "", "eth1")}
	case local:
		return []firewall.Packet{at(firewall.Prerouting, iface, ""), at(firewall.Input, iface, "")}
	}
	return []firewall.Packet{
		at(firewall.Prerouting, iface, ""), at(firewall.Forward, iface, "eth1"), at(firewall.Postrouting, "", "eth1"),
	}
}

// fate leads a shot through all hooks.
func (s shot) fate(fw firewall.Firewall) (firewall.Outcome, []firewall.Rule) {
	all := firewall.Accepted
	var by []firewall.Rule
	for _, p := range s.hooks {
		f := fw.Fate(p, firewall.Everything)
		by = append(by, f.By...)
		if f.Outcome == firewall.Denied {
			return firewall.Denied, f.By
		}
		all = max(all, f.Outcome)
	}
	return all, by
}

// arrivals collects the ports of sources from which segments came: to the
// server's interface, and to the firewall's own TCP, behind its INPUT.
func arrivals(t *testing.T, topo *lab.Topology, v6 bool, send func()) map[uint16]bool {
	t.Helper()
	capture, err := topo.Server.Capture("eth0", func(p lab.Packet) bool { return p.Segment != nil && !p.Outgoing })
	if err != nil {
		t.Fatal(err)
	}
	family, header := unix.AF_INET, 20
	if v6 {
		family, header = unix.AF_INET6, 0 // without the IP header
	}
	fd := -1
	on(t, topo.Firewall, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
		return err
	})
	if fd < 0 {
		t.FailNow()
	}
	defer unix.Close(fd)
	send()
	time.Sleep(150 * time.Millisecond)
	came := map[uint16]bool{}
	buf := make([]byte, 2000)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if n >= header+4 {
			came[uint16(buf[header])<<8|uint16(buf[header+1])] = true
		}
	}
	packets, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		came[p.Segment.Source.Port()] = true
	}
	return came
}

// fire sends a shot.
func (s shot) fire(t *testing.T, topo *lab.Topology) {
	t.Helper()
	if s.from != nil {
		if err := s.from.SendSegment("eth0", s.segment); err != nil {
			t.Fatal(err)
		}
		return
	}
	packet, err := s.segment.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	on(t, topo.Firewall, func() error {
		to := s.segment.Destination.Addr()
		family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: netip.IPv4Unspecified().As4()})
		if to.Is4() {
			sa = &unix.SockaddrInet4{Addr: to.As4()}
		} else {
			family, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, packet, 0, sa); err != nil && !errors.Is(err, unix.EPERM) {
			return err // EPERM: its own rules dropped it
		}
		return nil
	})
}

func testdata(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../internal/firewall/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFirewallFate loads rules of all kinds and sends real packets: what was
// said of each of them must come true.
func TestFirewallFate(t *testing.T) {
	const nft, legacy, iptables = "nft -f -", "iptables-legacy-restore", "iptables-nft-restore"
	for _, tt := range []struct {
		name    string
		program string
		rules   string
		v6      bool
		depends string // part of the only rules of which it may depend
		passing int    // how many of the 18 get through, as a check of the test
	}{
		{name: "nothing", program: nft, passing: 18},
		{name: "ufw", program: iptables, rules: testdata(t, "ufw.save"), depends: "limit"},
		{name: "ufw, legacy", program: legacy, rules: testdata(t, "ufw.save"), depends: "limit"},
		{name: "Docker", program: iptables, rules: testdata(t, "docker.save")},
		{name: "Docker, legacy", program: legacy, rules: testdata(t, "docker.save")},
		{name: "firewalld", program: nft, rules: firewalldLike},
		{name: "firewalld, IPv6", program: nft, rules: firewalldLike, v6: true, depends: "missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			topo := newTopology(t)
			prepare(t, topo)
			words := strings.Fields(tt.program)
			runInput(t, topo.Firewall, tt.rules, words[0], words[1:]...)
			fw := readFirewall(t, topo.Firewall)
			all := shots(topo, tt.v6)
			came := arrivals(t, topo, tt.v6, func() {
				for _, s := range all {
					s.fire(t, topo)
				}
			})
			if tt.passing != 0 && len(came) != tt.passing {
				t.Errorf("%d packets came through, want %d", len(came), tt.passing)
			}
			for _, s := range all {
				judge(t, fw, s, came[s.segment.Source.Port()], tt.depends)
			}
		})
	}
}

// prepare has the firewall track connections from the start, and call INVALID
// what belongs to none.
func prepare(t *testing.T, topo *lab.Topology) {
	t.Helper()
	for key, value := range map[string]string{
		"net.netfilter.nf_conntrack_tcp_loose": "0", "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.lo.rp_filter": "0",
	} {
		if err := topo.Firewall.SetSysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
}

// judge compares what was said of a packet with what became of it.
func judge(t *testing.T, fw firewall.Firewall, s shot, came bool, depends string) {
	t.Helper()
	outcome, by := s.fate(fw)
	switch {
	case outcome == firewall.Accepted && !came, outcome == firewall.Denied && came:
		t.Errorf("%s: %s by %v, but it came through: %t", s, outcome, ruleTexts(by), came)
	case outcome == firewall.Depends && depends == "":
		t.Errorf("%s: depends on %v; it came through: %t", s, ruleTexts(by), came)
	case outcome == firewall.Depends:
		for _, text := range ruleTexts(by) {
			if !strings.Contains(text, depends) {
				t.Errorf("%s: depends on %s", s, text)
			}
		}
	}
}

func ruleTexts(rs []firewall.Rule) []string {
	var all []string
	for i := range rs {
		all = append(all, rs[i].String())
	}
	return all
}
