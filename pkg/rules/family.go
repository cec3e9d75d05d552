package rules

import (
	"fmt"
	"net/netip"
	"strings"
)

// ChainPrefix begins the name of every chain that this package makes. A chain
// with this prefix is ours, whatever it holds; no other chain is.
const ChainPrefix = "SYNPROXYCTL"

// Family is an address family, with a set of tables of its own.
type Family string

// The families. The zero value is not valid.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Families are all families, in the order in which they are worked on.
var Families = [...]Family{IPv4, IPv6}

// FamilyOf returns the family of an address. An IPv4-mapped IPv6 address counts
// as IPv6; unmap it first.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Table is the name of an xtables table.
type Table string

// The tables that the rules of this package live in.
const (
	Raw      Table = "raw"
	Mangle   Table = "mangle"
	NAT      Table = "nat"
	Filter   Table = "filter"
	Security Table = "security"
)

// tables lists those that must be seen whole. Rules of this package stand in
// nat only for a service with a target of its own, and of many hosts only nft
// can show that table.
var tables = [...]Table{Raw, Mangle, Filter, Security}

// Hook tells where the SYNs of a service are answered.
type Hook string

// The hooks. A service on an address of this machine needs [Input], one behind
// this machine [Forward].
const (
	Input   Hook = "input"
	Forward Hook = "forward"
)

// ParseHook reads "input" or "forward".
func ParseHook(s string) (Hook, error) {
	switch h := Hook(s); h {
	case Input, Forward:
		return h, nil
	}
	return "", fmt.Errorf("hook %q: neither input nor forward", s)
}

// First tells which side sends the first byte of a connection. It decides how
// the third ACK of the handshake with the backend is repaired; see
// [Service.ThirdACK].
type First string

// Who speaks first. The zero value counts as [FirstUnknown].
const (
	FirstUnknown First = "unknown"
	FirstClient  First = "client"
	FirstServer  First = "server"
)

// Mode tells how the SYNs of a service come to be answered.
type Mode string

// The modes.
const (
	// ModeTracked answers SYNs behind the host's own filters, with the state NEW
	// that those know: access lists, limits and policies keep their meaning.
	// It costs about a seventh of the SYNs a second, since conntrack makes and
	// forgets an entry for each.
	ModeTracked Mode = "tracked"
	// ModeNotrack keeps SYNs away from conntrack. To the host's filters they are
	// UNTRACKED, which allow-lists by NEW do not let in.
	ModeNotrack Mode = "notrack"
)

// ParseMode reads "tracked" or "notrack".
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case ModeTracked, ModeNotrack:
		return m, nil
	}
	return "", fmt.Errorf("mode %q: neither tracked nor notrack", s)
}

// ours reports whether a chain belongs to this package.
func ours(chain string) bool { return strings.HasPrefix(chain, ChainPrefix) }
