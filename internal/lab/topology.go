package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// The addresses of the standard topology. The client's and the attacker's side of the firewall are published as
// FirewallV4 and FirewallV6 too, for services on the firewall itself.
var (
	ClientV4   = netip.MustParseAddr("10.77.1.2")
	ClientV6   = netip.MustParseAddr("fd77:1::2")
	FirewallV4 = netip.MustParseAddr("10.77.1.1")
	FirewallV6 = netip.MustParseAddr("fd77:1::1")
	// InsideV4 and InsideV6 are the firewall's addresses towards the server.
	InsideV4 = netip.MustParseAddr("10.77.2.1")
	InsideV6 = netip.MustParseAddr("fd77:2::1")
	ServerV4 = netip.MustParseAddr("10.77.2.2")
	ServerV6 = netip.MustParseAddr("fd77:2::2")
	// OutsideV4 and OutsideV6 are the firewall's addresses towards the attacker.
	OutsideV4  = netip.MustParseAddr("10.77.3.1")
	OutsideV6  = netip.MustParseAddr("fd77:3::1")
	AttackerV4 = netip.MustParseAddr("10.77.3.2")
	AttackerV6 = netip.MustParseAddr("fd77:3::2")

	// FloodV4 and FloodV6 hold the random sources of a [Flood]. The firewall routes them to a next hop on the
	// attacker's link whose hardware address nobody has: the attacker's kernel drops the answers as packets for
	// another host, before its IP layer, without a RST, an ICMP error or a route look-up.
	FloodV4 = netip.MustParsePrefix("198.18.0.0/15")
	FloodV6 = netip.MustParsePrefix("fd77:f::/32")

	nobodyV4  = netip.MustParseAddr("10.77.3.254")
	nobodyV6  = netip.MustParseAddr("fd77:3::fe")
	nobodyMAC = net.HardwareAddr{0x02, 0x77, 0xff, 0xff, 0xff, 0xfe}
)

// Topology is the network of the package's overview: a client and a server, both of whose default routes lead
// through a firewall that forwards, and an attacker. The client, the server and the attacker have one interface
// each, eth0; the firewall has eth0 towards the client, eth1 towards the server and eth2 towards the attacker.
type Topology struct {
	*Lab
	Client, Firewall, Server, Attacker *Host
	// Relay is the client's way to the firewall, or nil when that is a plain link.
	Relay *Relay
}

// NewTopology builds the standard topology. Close it when done.
func (w *World) NewTopology() (*Topology, error) { return w.newTopology(nil) }

// NewTopologyOver builds the standard topology with a long way between the client and the firewall: a [Relay]
// which cfg describes.
func (w *World) NewTopologyOver(cfg RelayConfig) (*Topology, error) { return w.newTopology(&cfg) }

func (w *World) newTopology(wan *RelayConfig) (*Topology, error) {
	t := &Topology{Lab: w.NewLab()}
	if err := t.build(wan); err != nil {
		return nil, fmt.Errorf("topology: %w", errors.Join(err, t.Close()))
	}
	return t, nil
}

func (t *Topology) build(wan *RelayConfig) error {
	for name, h := range map[string]**Host{
		"client": &t.Client, "fw": &t.Firewall, "server": &t.Server, "attacker": &t.Attacker,
	} {
		var err error
		if *h, err = t.Host(name); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		far          *Host
		near         string
		far4, far6   netip.Addr
		near4, near6 netip.Addr
	}{
		{t.Client, "eth0", ClientV4, ClientV6, FirewallV4, FirewallV6},
		{t.Server, "eth1", ServerV4, ServerV6, InsideV4, InsideV6},
		{t.Attacker, "eth2", AttackerV4, AttackerV6, OutsideV4, OutsideV6},
	} {
		far := Port{Host: l.far, Name: "eth0", Addresses: onLink(l.far4, l.far6)}
		near := Port{Host: t.Firewall, Name: l.near, Addresses: onLink(l.near4, l.near6)}
		var err error
		if l.far == t.Client && wan != nil {
			t.Relay, err = t.LinkOver(far, near, 0, *wan)
		} else {
			err = t.Link(far, near, 0)
		}
		if err != nil {
			return err
		}
		if err := errors.Join(l.far.AddRoute(defaultV4, l.near4), l.far.AddRoute(defaultV6, l.near6)); err != nil {
			return err
		}
	}
	return errors.Join(
		t.Firewall.Forward(),
		t.Firewall.AddNeighbour("eth2", nobodyV4, nobodyMAC),
		t.Firewall.AddNeighbour("eth2", nobodyV6, nobodyMAC),
		t.Firewall.AddRoute(FloodV4, nobodyV4),
		t.Firewall.AddRoute(FloodV6, nobodyV6),
	)
}

var (
	defaultV4 = netip.MustParsePrefix("0.0.0.0/0")
	defaultV6 = netip.MustParsePrefix("::/0")
)

// onLink gives the two addresses of an interface the usual network lengths.
func onLink(v4, v6 netip.Addr) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)}
}
