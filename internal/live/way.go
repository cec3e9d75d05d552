package live

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// inside is the name of the veth's end in the way's own namespace.
	inside = "eth0"
	// readyLimit is how long the kernel may take to bring the veth up.
	readyLimit = 2 * time.Second
)

// The next hops of IPv6 on a veth, which has no addresses of its own.
var (
	hostHop   = netip.MustParseAddr("fe80::1")
	clientHop = netip.MustParseAddr("fe80::2")
)

// A way is a namespace and the veth by which its client reaches the host.
type way struct {
	host, client netns
	ingress      string // the interface that the packets are redirected to, or ""
	name         string // of the veth's end on the host
	index        int    // of that
	far          int    // index of the other end
	hostMAC      net.HardwareAddr
	clientMAC    net.HardwareAddr
	// net4 and net6 are the client's networks; not valid if there is none, for
	// the reason in the error beside it.
	net4, net6 netip.Prefix
	err4, err6 error
	ports      atomic.Uint32
}

// port returns the next port for a client on this way.
func (w *way) port() uint16 {
	const first, count = 20000, 40000
	return uint16(first + w.ports.Add(1)%count)
}

// newWay builds one. The host's settings for it are those that every new
// interface gets.
func newWay(host netns, ingress string, v4, v6 bool) (*way, error) {
	client, err := newNetNS()
	if err != nil {
		return nil, notPossible(err)
	}
	w := &way{host: host, client: client, ingress: ingress, hostMAC: randomMAC(), clientMAC: randomMAC()}
	if err := w.build(v4, v6); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *way) build(v4, v6 bool) error {
	if err := w.host.do(w.link); err != nil {
		return err
	}
	if err := w.client.do(w.up); err != nil {
		return err
	}
	if err := w.host.do(func() error { return w.attach(v4, v6) }); err != nil {
		return err
	}
	return w.ready()
}

// ready waits until both ends have noticed each other, before which the kernel
// drops what they send.
func (w *way) ready() error {
	for name, at := range map[string]netns{w.name: w.host, inside: w.client} {
		var state netlink.LinkOperState
		for end := time.Now().Add(readyLimit); state != netlink.OperUp; time.Sleep(time.Millisecond) {
			err := at.do(func() error {
				link, err := netlink.LinkByName(name)
				if err == nil {
					state = link.Attrs().OperState
				}
				return err
			})
			if err != nil {
				return notPossible(fmt.Errorf("interface %s of %s: %w", name, w.name, err))
			}
			if time.Now().After(end) {
				return notPossible(fmt.Errorf("interface %s of %s is %s after %v", name, w.name, state, readyLimit))
			}
		}
	}
	return nil
}

// link makes the veth. Its other end is made inside, so that it never shows on
// the host. Both hardware addresses are given, or udev would change the host's.
func (w *way) link() error {
	const tries = 5 // another process may take the name first
	var err error
	for range tries {
		if err = w.linkOnce(); !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if err != nil {
		return notPossible(fmt.Errorf("make a veth: %w", err))
	}
	link, err := netlink.LinkByName(w.name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", w.name, err)
	}
	w.index = link.Attrs().Index
	if err := netlink.LinkSetAlias(link, ownAlias()); err != nil {
		return fmt.Errorf("interface %s: alias: %w", w.name, err)
	}
	return setUp(link)
}

func (w *way) linkOnce() error {
	name, err := freeName()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, w.hostMAC
	err = netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: inside, PeerHardwareAddr: w.clientMAC,
		PeerNamespace: netlink.NsFd(int(w.client.file.Fd())),
	})
	if err == nil {
		w.name = name
	}
	return err
}

// setUp brings an end up, without a link-local address of its own.
func setUp(link netlink.Link) error {
	// Without IPv6 in the kernel, or on this interface, there is no such mode.
	_ = netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE)
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s: up: %w", link.Attrs().Name, err)
	}
	return nil
}

// up brings the inner end up.
func (w *way) up() error {
	link, err := netlink.LinkByName(inside)
	if err != nil {
		return fmt.Errorf("the inner end of %s: %w", w.name, err)
	}
	w.far = link.Attrs().Index
	return setUp(link)
}

// attach gives the client its networks, and redirects what it sends.
func (w *way) attach(v4, v6 bool) error {
	if v4 {
		w.net4, w.err4 = w.join(true)
	}
	if v6 {
		w.net6, w.err6 = w.join(false)
	}
	if w.ingress == "" {
		return nil
	}
	return w.redirect()
}

// join finds a free network and connects it.
func (w *way) join(v4 bool) (netip.Prefix, error) {
	if off := setting("ipv6", w.name, "disable_ipv6"); !v4 && off != 0 {
		return netip.Prefix{}, unproven(NotPossible, "new interfaces of this host have no IPv6 (net.ipv6.conf.default.disable_ipv6)")
	}
	p, err := freeNetwork(v4)
	if err != nil {
		return netip.Prefix{}, err
	}
	near, far := hostHop, clientHop
	if v4 {
		near, far = nth(p, inUse4-1), nth(p, 1)
	}
	if err := w.connect(p, far, w.index, w.clientMAC); err != nil {
		return netip.Prefix{}, notPossible(fmt.Errorf("interface %s: %w", w.name, err))
	}
	err = w.client.do(func() error {
		mask := net.CIDRMask(nth(p, 0).BitLen(), nth(p, 0).BitLen())
		address := &netlink.Addr{IPNet: &net.IPNet{IP: nth(p, 1).AsSlice(), Mask: mask}}
		if !v4 {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: w.far}}, address); err != nil {
			return fmt.Errorf("address %s: %w", nth(p, 1), err)
		}
		return w.connect(netip.PrefixFrom(unspecified(v4), 0), near, w.far, w.hostMAC)
	})
	if err != nil {
		return netip.Prefix{}, notPossible(fmt.Errorf("the inner end of %s: %w", w.name, err))
	}
	return p, nil
}

func unspecified(v4 bool) netip.Addr {
	if v4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// connect adds a route through a next hop whose hardware address is known, so
// that nobody has to ask for it.
func (w *way) connect(to netip.Prefix, via netip.Addr, index int, mac net.HardwareAddr) error {
	neighbour := &netlink.Neigh{
		LinkIndex: index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: via.AsSlice(), HardwareAddr: mac,
	}
	if err := netlink.NeighSet(neighbour); err != nil {
		return fmt.Errorf("neighbour %s: %w", via, err)
	}
	dst := &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}
	route := &netlink.Route{LinkIndex: index, Dst: dst, Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}

// redirect makes all that the client sends come in by another interface.
func (w *way) redirect() error {
	link, err := netlink.LinkByName(w.ingress)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return unproven(NoInterface, fmt.Sprintf("there is no interface %s", w.ingress))
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", w.ingress, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return unproven(NoInterface, fmt.Sprintf("interface %s is down", w.ingress))
	}
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: w.index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		return cannotRedirect(w.ingress, "sch_ingress", err)
	}
	attrs := netlink.FilterAttrs{LinkIndex: w.index, Parent: qdisc.Handle, Priority: 1, Protocol: unix.ETH_P_ALL}
	action := netlink.NewMirredAction(link.Attrs().Index)
	action.MirredAction = netlink.TCA_INGRESS_REDIR
	actions := []netlink.Action{action}
	// Kernels are built with one or the other; both take every packet here.
	if netlink.FilterAdd(&netlink.MatchAll{FilterAttrs: attrs, Actions: actions}) == nil {
		return nil
	}
	if err := netlink.FilterAdd(&netlink.U32{FilterAttrs: attrs, Actions: actions}); err != nil {
		return cannotRedirect(w.ingress, "cls_matchall or cls_u32, and act_mirred", err)
	}
	return nil
}

func cannotRedirect(ingress, needs string, err error) error {
	return unproven(NotPossible, fmt.Sprintf("cannot send packets into interface %s (needs the kernel's %s): %v", ingress, needs, err))
}

// notPossible makes an error of building a way the reason for no proof.
func notPossible(err error) error {
	if already := (*fault)(nil); errors.As(err, &already) {
		return err
	}
	message := fmt.Sprintf("the host refuses the proof's own network: %v", err)
	return unproven(NotPossible, message)
}

// network returns the client's network of a family, or why there is none.
func (w *way) network(v4 bool) (netip.Prefix, error) {
	if v4 {
		return w.net4, w.err4
	}
	return w.net6, w.err6
}

// close takes everything away.
func (w *way) close() error {
	var err error
	if w.name != "" {
		err = w.host.do(func() error { return remove(w.name, w.index) })
	}
	return errors.Join(err, w.client.close())
}
