package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A PolicyRule is a rule of policy routing (ip-rule(8)) that is not one of the
// three that every namespace begins with.
type PolicyRule struct {
	Priority int
	Marked   bool // it is about packets with a mark
	From, To bool // it is about certain sources or destinations
	Input    bool // it is about an interface that packets come in by
	Table    int
	Text     string // as ip-rule(8) would show it
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
	p := PolicyRule{
		Priority: r.Priority, Marked: r.Mark != 0, From: r.Src != nil, To: r.Dst != nil, Input: r.IifName != "", Table: r.Table,
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
	}
	if r.IifName != "" {
		words = append(words, "iif", r.IifName)
	}
	p.Text = strings.Join(append(words, "lookup", fmt.Sprint(r.Table)), " ")
	return p
}

// Routes reports whether the main table has a default route of the family, and
// by which interfaces it leads to anything but networks that are attached
// directly.
func Routes(family Family) (hasDefault bool, gateways map[string]bool, err error) {
	gateways = map[string]bool{}
	for range maxDumps {
		list, err := netlink.RouteListFiltered(int(family), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return false, nil, fmt.Errorf("list of routes: %w", err)
		}
		for _, r := range list {
			hops := []int{r.LinkIndex}
			for _, hop := range r.MultiPath {
				hops = append(hops, hop.LinkIndex)
			}
			isDefault := r.Dst == nil
			if r.Dst != nil {
				ones, _ := r.Dst.Mask.Size()
				isDefault = ones == 0
			}
			hasDefault = hasDefault || isDefault
			if !isDefault && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0 {
				continue
			}
			for _, index := range hops {
				if link, err := netlink.LinkByIndex(index); err == nil {
					gateways[link.Attrs().Name] = true
				}
			}
		}
		return hasDefault, gateways, nil
	}
	return false, nil, fmt.Errorf("list of routes: %w %d times", netlink.ErrDumpInterrupted, maxDumps)
}
