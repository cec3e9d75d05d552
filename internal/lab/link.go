package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Port is one end of a link.
type Port struct {
	// Host is the machine, of the same lab as the other end's.
	Host *Host
	// Name is the interface's name on that machine, at most 15 bytes.
	Name string
	// Addresses are given to the interface, with the length of their network.
	Addresses []netip.Prefix
	// MAC is the hardware address; nil means one that is unique in the lab.
	MAC net.HardwareAddr
}

// peer is what one end of a link knows of the other.
type peer struct {
	index    int
	mac, far net.HardwareAddr
}

// Link joins two hosts by a pair of veth interfaces, both up when it returns, with their addresses usable at once
// and permanent neighbour entries for each other, so that no packet ever waits for ARP or neighbour discovery.
// An mtu of 0 means the kernel's 1500.
func (l *Lab) Link(a, b Port, mtu int) error {
	n := l.nextLink()
	a.identify(n, 1)
	b.identify(n, 2)
	if err := veth(a, b, mtu); err != nil {
		return err
	}
	return introduce(a, b)
}

// identify gives the port a MAC of its own if it has none: end of link n.
func (p *Port) identify(n, end int) {
	if p.MAC == nil {
		p.MAC = net.HardwareAddr{0x02, 0x77, 0, byte(n >> 8), byte(n), byte(end)}
	}
}

// veth makes the pair of interfaces.
func veth(a, b Port, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = a.Name, mtu, a.MAC
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = b.Name, uint32(mtu), b.MAC
	veth.PeerNamespace = netlink.NsFd(b.Host.ns.Fd())
	if err := a.Host.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s:%s to %s:%s: %w", a.Host.name, a.Name, b.Host.name, b.Name, err)
	}
	return nil
}

// introduce brings both ends up and tells each about the other.
func introduce(a, b Port) error {
	for _, end := range [][2]Port{{a, b}, {b, a}} {
		if err := end[0].configure(end[1]); err != nil {
			return fmt.Errorf("link %s:%s: %w", end[0].Host.name, end[0].Name, err)
		}
	}
	return nil
}

// configure brings one end up and introduces the other to it.
func (p Port) configure(other Port) error {
	h := p.Host
	link, err := h.nl.LinkByName(p.Name)
	if err != nil {
		return err
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	h.mu.Lock()
	h.peers[p.Name] = peer{index: link.Attrs().Index, mac: p.MAC, far: other.MAC}
	h.mu.Unlock()
	for _, a := range p.Addresses {
		if err := h.AddAddress(p.Name, a); err != nil {
			return err
		}
	}
	for _, a := range other.Addresses {
		if err := h.AddNeighbour(p.Name, a.Addr(), other.MAC); err != nil {
			return err
		}
	}
	return nil
}

// port returns what the host knows of one of its links.
func (h *Host) port(iface string) (peer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.peers[iface]
	if !ok {
		return peer{}, fmt.Errorf("host %s: interface %s: no link of the lab has it", h.name, iface)
	}
	return p, nil
}

// AddAddress gives an interface (lo too) one more address, usable at once.
func (h *Host) AddAddress(iface string, address netip.Prefix) error {
	link, err := h.nl.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("host %s: address %s: %s: %w", h.name, address, iface, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(address)}
	if address.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := h.nl.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("host %s: address %s on %s: %w", h.name, address, iface, err)
	}
	return nil
}

// AddNeighbour tells an interface for good which hardware address a next hop has.
func (h *Host) AddNeighbour(iface string, address netip.Addr, mac net.HardwareAddr) error {
	p, err := h.port(iface)
	if err != nil {
		return err
	}
	family := unix.AF_INET
	if address.Is6() {
		family = unix.AF_INET6
	}
	err = h.nl.NeighSet(&netlink.Neigh{
		LinkIndex: p.index, Family: family, State: unix.NUD_PERMANENT, IP: address.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("host %s: neighbour %s on %s: %w", h.name, address, iface, err)
	}
	return nil
}

// AddRoute sends packets for destination to the next hop via.
func (h *Host) AddRoute(destination netip.Prefix, via netip.Addr) error {
	err := h.nl.RouteReplace(&netlink.Route{Dst: ipNet(destination), Gw: via.AsSlice()})
	if err != nil {
		return fmt.Errorf("host %s: route to %s via %s: %w", h.name, destination, via, err)
	}
	return nil
}

// SetMTU changes the MTU of an interface; the other end of the link keeps its own.
func (h *Host) SetMTU(iface string, mtu int) error {
	link, err := h.nl.LinkByName(iface)
	if err == nil {
		err = h.nl.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return fmt.Errorf("host %s: mtu %d on %s: %w", h.name, mtu, iface, err)
	}
	return nil
}

// Forward makes the host a router, for both families.
func (h *Host) Forward() error {
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := h.SetSysctl(key, "1"); err != nil {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// AddLocal makes every address of a prefix one of the host's own.
func (h *Host) AddLocal(prefix netip.Prefix) error {
	lo, err := h.nl.LinkByName("lo")
	if err == nil {
		err = h.nl.RouteReplace(&netlink.Route{
			Dst: ipNet(prefix), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		})
	}
	if err != nil {
		return fmt.Errorf("host %s: own %s: %w", h.name, prefix, err)
	}
	return nil
}
