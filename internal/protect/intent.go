package protect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// codeIntent is the code of the finding that something else is applied than what
// a file says.
const codeIntent = "config-differs"

// Intended compares what is asked for, in the file of the given name, with the
// services that are applied, and returns at most one finding. What the wishes
// leave open makes no difference.
func Intended(file string, wishes []Wish, services []Service) []Finding {
	type place struct {
		at   netip.Prefix
		port uint16
	}
	applied := make(map[place]*Service, len(services))
	for i := range services {
		applied[place{services[i].Destination, services[i].Port}] = &services[i]
	}
	missing, other := 0, 0
	first := ""
	for i := range wishes {
		w := &wishes[i]
		at := place{w.Destination, w.Port}
		s := applied[at]
		delete(applied, at)
		switch {
		case s == nil:
			missing++
		case !w.agrees(s):
			other++
		default:
			continue
		}
		if first == "" {
			first = w.Name
		}
	}
	var words []string
	for _, n := range []struct {
		count int
		what  string
	}{{missing, "not applied"}, {other, "applied otherwise"}, {len(applied), "applied and not in it"}} {
		if n.count > 0 {
			words = append(words, fmt.Sprintf("%s %s", count(n.count, "service"), n.what))
		}
	}
	if words == nil {
		return nil
	}
	if first != "" {
		first = ", such as " + first
	}
	return []Finding{finding(Bad, codeIntent, "run synproxyctl apply -c "+file+", or reload the watcher, which does that", "what is applied is not what %s says: %s%s", file, strings.Join(words, ", "), first)}
}

// agrees reports whether a service is as it was asked for.
func (w *Wish) agrees(s *Service) bool {
	want := s.Options
	w.override(&want)
	name := w.Title
	if name == "" {
		name = w.Name
	}
	return name == s.Name && (w.To == s.To || !w.To.IsValid()) && (w.ProbeAt == s.ProbeAt || !w.ProbeAt.IsValid()) &&
		(w.Mode == s.Mode || w.Mode == "") && (w.Hook == s.Hook || w.Hook == "") && (w.First == s.First || w.First == "") &&
		slices.Equal(w.Interfaces, s.Interfaces) && optionsEqual(want, s.Options)
}

func optionsEqual(a, b rules.Options) bool {
	return same(a.MSS, b.MSS) && same(a.WScale, b.WScale) && a.SACKPerm == b.SACKPerm && a.Timestamps == b.Timestamps
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }
