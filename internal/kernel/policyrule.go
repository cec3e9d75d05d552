package kernel

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A PolicyRule is a rule of policy routing (ip-rule(8)) that is not one of the
// three that every namespace begins with.
type PolicyRule struct {
	Priority   int
	Mark, Mask uint32 // of the packets that it is about; Mark 0: any
	Input      string // the interface that packets come in by; empty: any, or none
	Table      int    // where it leads; 0: nowhere in particular
	Text       string // as ip-rule(8) would show it
}

// PolicyRules lists the rules of one family that somebody has added, in the
// order of their priority.
func PolicyRules(family Family) ([]PolicyRule, error) {
	for range maxDumps {
		list, err := netlink.RuleList(int(family))
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list of routing rules: %w", err)
		}
		var found []PolicyRule
		for _, r := range list {
			if !builtIn(r) {
				found = append(found, policyRule(r))
			}
		}
		return found, nil
	}
	return nil, fmt.Errorf("list of routing rules: %w %d times", netlink.ErrDumpInterrupted, maxDumps)
}

// builtIn tells the rules that fib_default_rules_init makes (net/ipv4/fib_rules.c).
func builtIn(r netlink.Rule) bool {
	plain := r.Mark == 0 && r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == "" && !r.Invert
	return plain && (r.Table == unix.RT_TABLE_LOCAL || r.Table == unix.RT_TABLE_MAIN || r.Table == unix.RT_TABLE_DEFAULT)
}

func policyRule(r netlink.Rule) PolicyRule {
	p := PolicyRule{Priority: r.Priority, Mark: r.Mark, Mask: math.MaxUint32, Input: r.IifName, Table: r.Table}
	if r.Mask != nil {
		p.Mask = *r.Mask
	}
	words := []string{fmt.Sprintf("%d:", r.Priority)}
	if r.Invert {
		words = append(words, "not")
	}
	if r.Src != nil {
		words = append(words, "from", r.Src.String())
	}
	if r.Dst != nil {
		words = append(words, "to", r.Dst.String())
	}
	if r.Mark != 0 {
		words = append(words, "fwmark", fmt.Sprintf("%#x", r.Mark))
		if p.Mask != math.MaxUint32 {
			words[len(words)-1] += fmt.Sprintf("/%#x", p.Mask)
		}
	}
	if r.IifName != "" {
		words = append(words, "iif", r.IifName)
	}
	p.Text = strings.Join(append(words, "lookup", fmt.Sprint(r.Table)), " ")
	return p
}

// A TableRoute is a route of a table.
type TableRoute struct {
	To         netip.Prefix
	Interfaces []string // by which it leads; none for one that leads nowhere
	Gateway    bool     // over another router
}

// Default reports whether the route is for all that no other is for.
func (r TableRoute) Default() bool { return r.To.Bits() == 0 }

// Routes lists the routes of one family in a table of routes; [MainTable] is the
// one that all packets use.
func Routes(family Family, table int) ([]TableRoute, error) {
	for range maxDumps {
		list, err := netlink.RouteListFiltered(int(family), &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list of routes: %w", err)
		}
		names := map[int]string{}
		all := make([]TableRoute, len(list))
		for i, r := range list {
			all[i] = tableRoute(family, r, names)
		}
		return all, nil
	}
	return nil, fmt.Errorf("list of routes: %w %d times", netlink.ErrDumpInterrupted, maxDumps)
}

// MainTable is the number of the table "main".
const MainTable = unix.RT_TABLE_MAIN

func tableRoute(family Family, r netlink.Route, names map[int]string) TableRoute {
	any := netip.IPv4Unspecified()
	if family == IPv6 {
		any = netip.IPv6Unspecified()
	}
	t := TableRoute{To: netip.PrefixFrom(any, 0), Gateway: r.Gw != nil || r.Via != nil || len(r.MultiPath) > 0}
	if r.Dst != nil {
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			ones, _ := r.Dst.Mask.Size()
			t.To = netip.PrefixFrom(a.Unmap(), ones)
		}
	}
	hops := []int{r.LinkIndex}
	for _, hop := range r.MultiPath {
		hops = append(hops, hop.LinkIndex)
	}
	for _, index := range hops {
		name, known := names[index]
		if !known && index > 0 {
			if link, err := netlink.LinkByIndex(index); err == nil {
				name = link.Attrs().Name
			}
			names[index] = name
		}
		if name != "" {
			t.Interfaces = append(t.Interfaces, name)
		}
	}
	return t
}
