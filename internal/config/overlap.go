package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// overlaps finds targets that cover others, and takes out those that come up
// again because two names of one service have the same address.
func overlaps(items *[]Item) error {
	all := *items
	order := make([]int32, len(all))
	for i := range order {
		order[i] = int32(i)
	}
	// Prefixes are nested or disjoint: in this order the one that covers comes
	// before what it covers.
	slices.SortStableFunc(order, func(i, j int32) int {
		a, b := &all[i], &all[j]
		return cmp.Or(cmp.Compare(a.Port, b.Port), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	var faults Faults
	var again []int32
	last := int32(-1)
	for _, i := range order {
		if last < 0 || all[last].Port != all[i].Port || !all[last].Prefix.Overlaps(all[i].Prefix) {
			last = i
			continue
		}
		a, b := &all[last], &all[i]
		if a.Service == b.Service && a.Prefix == b.Prefix && (a.Name != "" || b.Name != "") {
			again = append(again, i)
			continue
		}
		faults.add(clash(a, b, i < last))
	}
	if err := faults.err(); err != nil {
		return err
	}
	if len(again) > 0 {
		slices.Sort(again)
		kept := all[:0]
		for i := range all {
			if _, gone := slices.BinarySearch(again, int32(i)); !gone {
				kept = append(kept, all[i])
			}
		}
		*items = kept
	}
	return nil
}

// clash tells of two targets of which wide covers the other; swapped tells that
// wide comes later in the configuration.
func clash(wide, inner *Item, swapped bool) *Fault {
	first, second := wide, inner
	if swapped {
		first, second = inner, wide
	}
	f := &Fault{Place: second.Place, Code: "double", Advice: "take one of them out"}
	differ := difference(&first.Service.Settings, &second.Service.Settings)
	switch {
	case wide.Prefix != inner.Prefix && swapped:
		f.Code, f.Problem = "overlap", fmt.Sprintf("%s covers %s%s of %s", wide, inner, inService(inner), inner.Place)
		f.Advice = "take one of them out, or split the prefix: an address belongs to one service"
	case wide.Prefix != inner.Prefix:
		f.Code, f.Problem = "overlap", fmt.Sprintf("%s lies within %s%s of %s", inner, wide, inService(wide), wide.Place)
		f.Advice = "take one of them out, or split the prefix: an address belongs to one service"
	case differ != "":
		f.Code, f.Problem = "conflict", fmt.Sprintf("%s is there already with another %s%s: %s", second, differ, inService(first), first.Place)
		f.Advice = "take one of them out: an address and port have one set of options"
	default:
		f.Problem = fmt.Sprintf("%s is there already%s: %s", second, inService(first), first.Place)
	}
	return f
}

func inService(i *Item) string {
	if i.Service.Name == "" {
		return ""
	}
	return ", in service " + strconv.Quote(i.Service.Name)
}

// difference names the first key in which settings differ; empty if none does.
func difference(a, b *Settings) string {
	switch {
	case !same(a.MSS, b.MSS):
		return "mss"
	case !same(a.WScale, b.WScale):
		return "wscale"
	case !same(a.SACKPerm, b.SACKPerm):
		return "sack_perm"
	case !same(a.Timestamps, b.Timestamps):
		return "timestamps"
	case a.Hook != b.Hook:
		return "hook"
	case a.Mode != b.Mode:
		return "mode"
	case a.First != b.First:
		return "first"
	case a.To != b.To:
		return "to"
	case a.ProbeAt != b.ProbeAt:
		return "probe_at"
	case !slices.Equal(a.Interfaces, b.Interfaces):
		return "interfaces"
	}
	return ""
}

func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func firstLine(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	return text
}
