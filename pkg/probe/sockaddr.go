package probe

import (
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// domain is the socket domain of an address; [unix.AF_INET] and [unix.AF_INET6] are netlink's families, too.
func domain(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// familyName is the family as in [Result.Family].
func familyName(addr netip.Addr) string {
	if addr.Is4() {
		return familyIPv4
	}
	return familyIPv6
}

// zoneNumber returns the zone as the index of an interface, zero if it is none.
func zoneNumber(addr netip.Addr) int {
	index, err := strconv.Atoi(addr.Zone())
	if err != nil || index < 0 {
		return 0
	}
	return index
}

// withZone gives a link-local IPv6 address the zone it needs.
func withZone(addr netip.Addr, index int) netip.Addr {
	if addr.Is6() && addr.IsLinkLocalUnicast() && index != 0 {
		return addr.WithZone(strconv.Itoa(index))
	}
	return addr
}

// sockaddr converts an address whose zone is a number.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: uint32(zoneNumber(a.Addr()))}
}

// fromSockaddr is the reverse of sockaddr. It returns the zero AddrPort for any other kind of address.
func fromSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(withZone(netip.AddrFrom16(sa.Addr), int(sa.ZoneId)), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
