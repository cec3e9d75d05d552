package protect

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/synproxyctl/synproxyctl/internal/firewall"
	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Wish is one service as a person asks for it: what is not said is found out.
type Wish struct {
	Name        string // how the person wrote it
	Title       string // what the service is called; empty: as it is written
	From        Source // of options that need no probe; empty: [Given]
	Destination netip.Prefix
	Port        uint16
	ProbeAt     netip.AddrPort // who is asked for the options; zero: the destination
	To          netip.AddrPort // where the server really is; zero: at the destination
	Mode        rules.Mode     // empty: by the host's own filters
	Hook        rules.Hook     // empty: by the routes
	Interfaces  []string
	MSS         *uint16 // nil: probed
	WScale      *uint8  // nil: probed
	SACKPerm    *bool   // nil: probed
	Timestamps  *bool   // nil: probed
	First       rules.First
}

// complete reports whether no probe is needed. Who speaks first need not be
// known: the repair for that case serves both.
func (w Wish) complete() bool {
	return w.MSS != nil && w.WScale != nil && w.SACKPerm != nil && w.Timestamps != nil
}

// askAt returns whom to probe; not valid if nobody is known.
func (w Wish) askAt() netip.AddrPort {
	switch {
	case w.ProbeAt.IsValid():
		return w.ProbeAt
	case w.To.IsValid():
		return w.To
	case w.Destination.IsSingleIP():
		return netip.AddrPortFrom(w.Destination.Addr(), w.Port)
	}
	return netip.AddrPort{}
}

// Resolve turns wishes into services: hooks by the routes, options by probing.
// It touches nothing. One backend that does not answer fails all of them. The
// findings tell what a person should know of the answers. What the memory knows
// is not asked again; it may be nil.
func (h *Host) Resolve(ctx context.Context, cfg probe.Config, wishes []Wish, memory *Memory) ([]Service, []Finding, error) {
	services, found, err := h.sketch(ctx, wishes, memory)
	if err != nil {
		return nil, nil, err
	}
	// Faults that need no probe to be seen are told before one is made.
	if err := checkOrder(Order{Services: services}); err != nil {
		return nil, nil, err
	}
	groups, err := memory.recall(cfg, wishes, services)
	if err != nil {
		return nil, nil, err
	}
	for _, g := range groups {
		fs, err := ask(ctx, g.config, wishes, services, g.asked, memory)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, fs...)
	}
	return services, found, nil
}

// Sketch turns wishes into services as far as that goes without asking a
// backend. The findings tell what was found out of them.
func (h *Host) Sketch(ctx context.Context, wishes []Wish) ([]Service, []Finding, error) {
	return h.sketch(ctx, wishes, nil)
}

// sketch is [Host.Sketch]. With a memory that may be used, as at boot, routes and
// interfaces need not be there yet.
func (h *Host) sketch(ctx context.Context, wishes []Wish, memory *Memory) ([]Service, []Finding, error) {
	out, err := lookOut(ctx, "", &h.routes)
	if err != nil {
		return nil, nil, err
	}
	services := make([]Service, len(wishes))
	there, missing := links{}, map[string]bool{}
	for i := range wishes {
		if services[i], err = wishes[i].service(); err != nil {
			return nil, nil, err
		}
		for _, name := range wishes[i].Interfaces {
			if l := there.of(name); l.err == nil && l.there {
				continue
			} else if l.err != nil || !memory.uses() {
				return nil, nil, Errorf(Usage, "list them with: ip link", "interface %q does not exist here", name)
			}
			missing[name] = true
		}
	}
	if slices.ContainsFunc(services, func(s Service) bool { return s.Hook == "" }) {
		if err := h.routes.ask(ctx, services); err != nil {
			return nil, nil, err
		}
	}
	var found []Finding
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		found = append(found, finding(Warn, "interface-missing", "see that the name is right: ip link",
			"interface %q does not exist here: SYNs that come in by it are answered from when it does", name))
	}
	for i := range wishes {
		s := &services[i]
		if s.Hook == "" {
			if s.Hook, err = h.routes.hook(s.sample()); err != nil {
				s.Hook = memory.hook(s.ProbeAt)
			}
			if s.Hook == "" {
				return nil, nil, Errorf(Usage, "check the address, or say --hook forward or --hook input", "%s: %w", s.Name, err)
			}
		}
		fs, err := out.publish(s, &wishes[i])
		if err != nil {
			return nil, nil, err
		}
		found = append(found, fs...)
	}
	return services, found, nil
}

// publish finds out whether the host's own rules lead the service elsewhere, as
// Docker's do for published ports.
func (o outlook) publish(s *Service, w *Wish) ([]Finding, error) {
	if s.To.IsValid() || !s.Destination.IsSingleIP() {
		return nil, nil
	}
	t := o.translation(*s, firewall.Prerouting)
	to, rule, certain := t.to, t.rule, t.certain
	if rule == nil {
		return nil, nil
	}
	if !to.IsValid() || !certain {
		return nil, Errorf(Usage, "say where the server is with --to ADDR:PORT",
			"%s: a rule of the host translates the address, and where to depends on more than is known: %s", w.Name, rule)
	}
	if s.Mode == rules.ModeTracked {
		return nil, Errorf(Usage, "leave the mode to synproxyctl", "%s: a rule of the host translates the address, which does not go with tracked SYNs: %s", w.Name, rule)
	}
	s.Mode = rules.ModeNotrack
	if !w.ProbeAt.IsValid() {
		s.ProbeAt = to
	}
	if proxied := o.translation(*s, firewall.Output); proxied.certain && proxied.to == to {
		s.Published = true
		return []Finding{finding(Info, "published", "", "%s: is published by the host's own rules; the server is at %s", w.Name, to)}, nil
	}
	s.To = to
	return []Finding{finding(Info, "translated", "apply again when the server moves",
		"%s: the host's own rules lead clients to %s, but not the connections that the proxy opens: a rule of ours does", w.Name, to)}, nil
}

// ask probes the services of the given indices, all in the same way.
func ask(ctx context.Context, cfg probe.Config, wishes []Wish, services []Service, asked []int, memory *Memory) ([]Finding, error) {
	if len(asked) == 0 {
		return nil, nil
	}
	if err := kernel.Require(kernel.NetRaw); err != nil {
		return nil, Errorf(Permission, "run it as root (sudo), or give all four options", "probing needs a raw socket: %w", err)
	}
	targets := make([]probe.Target, len(asked))
	for k, i := range asked {
		targets[k] = probe.Target{Name: wishes[i].Name, Addr: services[i].ProbeAt}
	}
	results, err := probe.Probe(ctx, cfg, targets)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	for k, i := range asked {
		memory.complete(cfg, services[i].ProbeAt, &results[k])
		memory.learn(cfg, &services[i], results[k])
	}
	var found []Finding
	narrow := mtus{}
	for k, i := range asked {
		if err := wishes[i].answered(&services[i], results[k], narrow); err != nil {
			return nil, err
		}
		if r := results[k]; !r.Consistent {
			found = append(found, finding(Warn, "pool-differs", "give all its servers the same buffers and options; or say what holds for all: --mss, --wscale, --sack-perm, --timestamps",
				"%s: %d different answers in %d samples; what is announced is safe for those", wishes[i].Name, len(r.Variants), r.Samples))
		}
	}
	return found, nil
}

// service returns what is known without asking anybody.
func (w Wish) service() (Service, error) {
	if !w.complete() && !w.askAt().IsValid() {
		return Service{}, Errorf(Usage, "name one of its servers with --probe-at ADDR:PORT, or give --mss, --wscale, --sack-perm and --timestamps",
			"%s: a prefix has no single server to probe", w.Name)
	}
	s := Service{Source: cmp.Or(w.From, Given), ProbeAt: w.askAt(), Service: rules.Service{
		Name: cmp.Or(w.Title, w.Name), Destination: w.Destination, Port: w.Port, Hook: w.Hook, Interfaces: w.Interfaces, First: w.First,
		Mode: w.Mode, To: w.To,
	}}
	if s.Mode == "" && s.Translated() {
		s.Mode = rules.ModeNotrack
	}
	w.override(&s.Options)
	if !w.complete() {
		s.Fixed = w.fixed()
	}
	return s, nil
}

// override puts what was given into the options.
func (w Wish) override(o *rules.Options) {
	if w.MSS != nil {
		o.MSS = w.MSS
	}
	if w.WScale != nil {
		o.WScale = w.WScale
	}
	if w.SACKPerm != nil {
		o.SACKPerm = *w.SACKPerm
	}
	if w.Timestamps != nil {
		o.Timestamps = *w.Timestamps
	}
}

// answered puts a probe's result into the service, or says why it cannot.
func (w Wish) answered(s *Service, r probe.Result, narrow mtus) error {
	const orGive = "; or give --mss, --wscale, --sack-perm and --timestamps"
	switch r.Verdict {
	case probe.Direct:
	case probe.Proxied:
		return Errorf(No, "probe the server itself with --probe-at ADDR:PORT"+orGive,
			"%s: a SYNPROXY answers there, whose options need not be the server's", w.Name)
	case probe.Refused:
		return Errorf(No, "start the server"+orGive, "%s: the connection is refused, so its options are not known", w.Name)
	case probe.Unreachable:
		return Errorf(No, "check the route and the firewall on the way"+orGive, "%s: unreachable (%s)", w.Name, r.Reason)
	case probe.NoReply:
		return Errorf(No, "check that the server is up and reachable from here"+orGive, "%s: no reply", w.Name)
	default:
		return Errorf(No, "", "%s: answer %q", w.Name, r.Verdict)
	}
	s.Options, s.Source, s.SynCookies = rules.Options(r.Options), Probed, r.SYNCookies
	limitMSS(s, narrow)
	w.override(&s.Options)
	if s.First == "" && r.Speaks != nil {
		s.First = rules.First(strings.ToLower(string(*r.Speaks)))
	}
	return nil
}

// limitMSS keeps what clients will send within the interfaces that they come in
// by. A clamp in FORWARD does not see the proxy's SYN+ACK, which passes OUTPUT.
func limitMSS(s *Service, narrow mtus) {
	headers := 40 // of IPv4 and TCP, without options
	if s.Family() == rules.IPv6 {
		headers = 60
	}
	if len(s.Interfaces) == 0 || s.Options.MSS == nil {
		return
	}
	if mtu := narrow.of(s.Interfaces); mtu > headers && int(*s.Options.MSS) > mtu-headers {
		mss := uint16(mtu - headers)
		s.Options.MSS = &mss
	}
}

// mtus are the smallest MTUs among interfaces, by their joined names.
type mtus map[string]int

func (m mtus) of(names []string) int {
	key := strings.Join(names, "/")
	mtu, known := m[key]
	if !known {
		mtu = narrowest(names).MTU
		m[key] = mtu
	}
	return mtu
}

// narrowest returns the interface with the smallest MTU; one that is gone by
// now has none.
func narrowest(names []string) net.Interface {
	var least net.Interface
	for _, name := range names {
		if i, err := net.InterfaceByName(name); err == nil && (least.Name == "" || i.MTU < least.MTU) {
			least = *i
		}
	}
	return least
}
