package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
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
			{pick(lab.FirewallV4, lab.FirewallV6), 80, true},
			{pick(lab.FirewallV4, lab.FirewallV6), 81, true},
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
	states := s.hooks[0].States
	for _, p := range s.hooks {
		p.States = states
		f := fw.Fate(p, firewall.Everything)
		by = append(by, f.By...)
		if f.Outcome == firewall.Denied {
			return firewall.Denied, f.By
		}
		all, states = max(all, f.Outcome), f.States
	}
	return all, by
}

// arrivals sends shots and collects the ports of the sources that came through:
// out to the server, and to the firewall's own TCP, behind its INPUT.
func arrivals(t *testing.T, topo *lab.Topology, v6 bool, all []shot) map[uint16]bool {
	t.Helper()
	linksUp(t, topo)
	out := capture(t, topo.Firewall, "eth1", func(p lab.Packet) bool { return p.Segment != nil && p.Outgoing })
	// What has come to an interface is seen there before any rule is asked.
	var in []*lab.Capture
	for _, iface := range []string{"eth0", "eth2"} {
		in = append(in, capture(t, topo.Firewall, iface, func(p lab.Packet) bool { return p.Segment != nil && !p.Outgoing }))
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
	for _, s := range all {
		s.fire(t, topo)
	}
	sent := len(slices.DeleteFunc(slices.Clone(all), func(s shot) bool { return s.from == nil }))
	for deadline := time.Now().Add(10 * time.Second); len(in[0].Packets())+len(in[1].Packets()) < sent; {
		if time.Now().After(deadline) {
			t.Fatalf("of %d packets not all came to the firewall", sent)
		}
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // for the rules, and for lo
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
	for _, p := range out.Packets() {
		came[p.Segment.Source.Port()] = true
	}
	return came
}

// linksUp waits until the kernel has given every link its queue, which it does
// some time after the link was set up: what is sent before is silently lost.
func linksUp(t *testing.T, topo *lab.Topology) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, host := range []*lab.Host{topo.Client, topo.Attacker, topo.Server, topo.Firewall} {
		for {
			links, err := host.Netlink().LinkList()
			if err != nil {
				t.Fatal(err)
			}
			down := func(l netlink.Link) bool {
				return strings.HasPrefix(l.Attrs().Name, "eth") && l.Attrs().OperState != netlink.OperUp
			}
			if !slices.ContainsFunc(links, down) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("a link of %s does not come up", host.Name())
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	time.Sleep(2 * time.Millisecond)
}

// capture copies packets until the test ends.
func capture(t *testing.T, host *lab.Host, iface string, want lab.Filter) *lab.Capture {
	t.Helper()
	c, err := host.Capture(iface, want)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
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
		family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.As16()})
		if to.Is4() {
			family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4()}
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
	t.Parallel()
	for _, tt := range append(slices.Clone(handMade), []struct {
		name, program, rules string
		v6                   bool
		depends              string
		passing              int
	}{
		{name: "nothing", program: nftFile, passing: 18},
		{name: "ufw", program: iptablesFile, rules: testdata(t, "ufw.save"), depends: "limit"},
		{name: "ufw, legacy", program: legacyFile, rules: testdata(t, "ufw.save"), depends: "limit"},
		{name: "Docker", program: iptablesFile, rules: testdata(t, "docker.save")},
		{name: "Docker, legacy", program: legacyFile, rules: testdata(t, "docker.save")},
		{name: "firewalld", program: nftFile, rules: firewalldLike},
		{name: "firewalld, IPv6", program: nftFile, rules: firewalldLike, v6: true, depends: "missing"},
	}...) {
		t.Run(tt.name, func(t *testing.T) {
			topo := newTopology(t)
			prepare(t, topo)
			words := strings.Fields(tt.program)
			runInput(t, topo.Firewall, tt.rules, words[0], words[1:]...)
			fw := readFirewall(t, topo.Firewall)
			all := shots(topo, tt.v6)
			came := arrivals(t, topo, tt.v6, all)
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
