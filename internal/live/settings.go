package live

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// setting reads net.FAMILY.conf.IFACE.KEY of the calling thread's namespace;
// 0 if there is none.
func setting(family, iface, key string) int {
	text, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + iface + "/" + key)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

// passable tells, by a fault, which setting of the host makes the proof
// impossible. It runs on the host.
func (w *way) passable(t Target, client netip.Addr) error {
	v4 := client.Is4()
	by := w.ingress
	if by == "" {
		by = w.name
	}
	if v4 && w.ingress != "" {
		if err := strictReversePath(w.ingress); err != nil {
			return err
		}
	}
	if t.Hook == rules.Forward {
		if err := forwards(by, v4, w.ingress == ""); err != nil {
			return err
		}
	}
	return w.comesBack(t, client)
}

// strictReversePath refuses an interface by which the kernel takes only sources
// that it would answer there (RFC 3704; Documentation/networking/ip-sysctl.rst:
// the larger of both values counts). IPv6 has no such setting.
func strictReversePath(iface string) error {
	all, own := setting("ipv4", "all", "rp_filter"), setting("ipv4", iface, "rp_filter")
	if max(all, own) == 1 {
		at := iface
		if all == 1 {
			at = "all"
		}
		return unproven(ReversePath, fmt.Sprintf("net.ipv4.conf.%s.rp_filter=1 drops what comes in by %s from an address behind another interface, as the proof's client is", at, iface))
	}
	return nil
}

// forwards refuses an interface whose packets the host does not forward. For
// IPv6 only the setting of all interfaces counts (ip6_forward in
// net/ipv6/ip6_output.c), and since Linux 6.17 force_forwarding.
func forwards(iface string, v4, isNew bool) error {
	key := "net.ipv4.conf." + iface + ".forwarding"
	on := setting("ipv4", iface, "forwarding") != 0
	if isNew {
		key = "net.ipv4.conf.default.forwarding"
	}
	if !v4 {
		key = "net.ipv6.conf.all.forwarding"
		on = setting("ipv6", "all", "forwarding") != 0 || setting("ipv6", iface, "force_forwarding") != 0
	}
	if !on {
		return unproven(NotForwarding, fmt.Sprintf("this host does not forward what comes in by %s: %s=0", iface, key))
	}
	return nil
}

// comesBack asks the routes whether an answer of the service to the client
// would leave by the veth.
func (w *way) comesBack(t Target, client netip.Addr) error {
	service := t.Destination.Addr()
	options := &netlink.RouteGetOptions{SrcAddr: service.AsSlice()}
	if t.Hook == rules.Forward {
		to, err := kernel.Route(service, netip.Addr{})
		if err != nil || to.Unreachable != "" || to.Local {
			return nil // the connection will tell
		}
		options.Iif = to.Interface
	}
	routes, err := netlink.RouteGetWithOptions(client.AsSlice(), options)
	if err != nil || len(routes) == 0 || routes[0].LinkIndex == w.index {
		return nil
	}
	other := strconv.Itoa(routes[0].LinkIndex)
	if link, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
		other = link.Attrs().Name
	}
	return unproven(Routing, fmt.Sprintf("a rule of policy routing sends the answers of %s by %s rather than back to the proof's client", service, other))
}
