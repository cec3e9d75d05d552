package protect

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// group is how the undo record holds services that differ only in where they
// are: a hundred thousand of them take 3 MB so.
type group struct {
	// Like is what they share. Of its name, an empty one stands for the place
	// itself, as in "192.0.2.1:443".
	Like Service `json:"like"`
	// Unnamed tells that the name is really empty.
	Unnamed bool `json:"unnamed,omitempty"`
	// Members are places, each of which is also the place to probe, unless it
	// is a network.
	Members []string `json:"members,omitempty"`
	// Others are those for which that does not hold.
	Others []other `json:"others,omitempty"`
}

// other is a member of a group that is probed elsewhere, or whose server is.
type other struct {
	At      string         `json:"at"`
	To      netip.AddrPort `json:"to,omitzero"`
	ProbeAt netip.AddrPort `json:"probe_at,omitzero"`
}

// grouped returns services as groups, in the order of their first members.
func grouped(services []Service) []group {
	type key struct {
		Kind
		name    string
		unnamed bool
	}
	var (
		groups []group
		index  = map[key]int{}
		last   key
		i      = -1 // the group of the last one
		text   []byte
	)
	for n := range services {
		s := &services[n]
		text = s.appendPlace(text[:0])
		k := key{s.Kind(), s.Name, s.Name == ""}
		at := s.Name
		if string(text) == s.Name {
			k.name = ""
		} else {
			at = string(text)
		}
		if i < 0 || k != last {
			known := false
			if i, known = index[k]; !known {
				i = len(groups)
			}
			index[k], last = i, k
		}
		if i == len(groups) {
			like := *s
			like.Name, like.Destination, like.Port, like.To, like.ProbeAt = k.name, netip.Prefix{}, 0, netip.AddrPort{}, netip.AddrPort{}
			groups = append(groups, group{Like: like, Unnamed: k.unnamed})
		}
		if g := &groups[i]; !s.To.IsValid() && s.ProbeAt == s.itself() {
			g.Members = append(g.Members, at)
		} else {
			g.Others = append(g.Others, other{At: at, To: s.To, ProbeAt: s.ProbeAt})
		}
	}
	return groups
}

// ungrouped returns the services of groups, sorted.
func ungrouped(groups []group) ([]Service, error) {
	n := 0
	for _, g := range groups {
		n += len(g.Members) + len(g.Others)
	}
	services := make([]Service, 0, n)
	for _, g := range groups {
		if g.Like.Destination.IsValid() || g.Like.Port != 0 || g.Like.To.IsValid() || g.Like.ProbeAt.IsValid() {
			return nil, errors.New("a group of services that has a place of its own")
		}
		add := func(at string) (*Service, error) {
			services = append(services, g.Like)
			s := &services[len(services)-1]
			var err error
			if s.Destination, s.Port, err = parsePlace(at); err != nil {
				return nil, err
			}
			if s.Name == "" && !g.Unnamed {
				s.Name = at
			}
			return s, nil
		}
		for _, at := range g.Members {
			s, err := add(at)
			if err != nil {
				return nil, err
			}
			s.ProbeAt = s.itself()
		}
		for _, o := range g.Others {
			s, err := add(o.At)
			if err != nil {
				return nil, err
			}
			s.To, s.ProbeAt = o.To, o.ProbeAt
		}
	}
	sortServices(services)
	return services, nil
}

// itself is the address and port of a service; not valid for a network.
func (s *Service) itself() netip.AddrPort {
	if !s.Destination.IsSingleIP() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(s.Destination.Addr(), s.Port)
}

// appendPlace appends what [rules.Service.String] returns.
func (s *Service) appendPlace(b []byte) []byte {
	switch {
	case s.Destination.IsSingleIP():
		return netip.AddrPortFrom(s.Destination.Addr(), s.Port).AppendTo(b)
	case s.Destination.Addr().Is4():
		b = append(s.Destination.AppendTo(b), ':')
	default:
		b = append(s.Destination.AppendTo(append(b, '[')), "]:"...)
	}
	return strconv.AppendUint(b, uint64(s.Port), 10)
}

// parsePlace reads what [Service.appendPlace] writes.
func parsePlace(text string) (netip.Prefix, uint16, error) {
	if !strings.Contains(text, "/") {
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Prefix{}, 0, err
		}
		return netip.PrefixFrom(at.Addr(), at.Addr().BitLen()), at.Port(), nil
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return netip.Prefix{}, 0, fmt.Errorf("place %q has no port", text)
	}
	network := text[:i]
	if inner, bracketed := strings.CutPrefix(network, "["); bracketed {
		network = strings.TrimSuffix(inner, "]")
	}
	prefix, err := netip.ParsePrefix(network)
	if err != nil {
		return netip.Prefix{}, 0, err
	}
	port, err := strconv.ParseUint(text[i+1:], 10, 16)
	if err != nil {
		return netip.Prefix{}, 0, fmt.Errorf("place %q: %w", text, err)
	}
	return prefix, uint16(port), nil
}
