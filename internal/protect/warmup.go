package protect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// loose is the setting by which conntrack takes up connections that it has not
// seen begin. The protection needs it off: see needed.
const loose = "net.netfilter.nf_conntrack_tcp_loose"

// unacknowledged is how long conntrack keeps a connection with data that was
// not acknowledged, in seconds. Of a connection that it took up without seeing
// the window scale, it believes so for good once much was sent, and forgets it
// after 300 s of silence (tcp_packet in nf_conntrack_proto_tcp.c, 6.18).
const (
	unacknowledged = "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged"
	established    = "net.netfilter.nf_conntrack_tcp_timeout_established"
)

// Earlier tells what an apply finds of connections that began before it.
type Earlier struct {
	// Tracked tells whether conntrack was watching all families that are
	// protected: then it knows every connection, and none is at risk.
	Tracked bool `json:"tracked"`
	// Local counts the TCP connections of this host itself that conntrack does
	// not know and that are carried over into its table.
	Local int `json:"local"`
	// Routed counts the connections to the services through this host that
	// conntrack knows; nil if it was not watching, so that nobody knows.
	Routed *int `json:"routed"`
	// Seen counts those that the warm-up found.
	Seen int `json:"seen"`
	// Warmup is how long conntrack watches before the protection begins, in seconds.
	Warmup float64 `json:"warmup_seconds"`
	// families are those that conntrack does not watch yet.
	families []rules.Family
}

// The warm-up that is used if none is asked for. Connections of this host are
// carried over, so that only routed ones have to show themselves.
const (
	warmupRouted = 10 * time.Second
	warmupLocal  = time.Second
)

// connections finds which connections conntrack does not know.
func (h *Host) connections(ctx context.Context, p *plan, o Order) (Earlier, error) {
	c := Earlier{Tracked: true}
	for _, f := range p.new.Families {
		watching, err := kernel.Tracking(ctx, kernelFamily(f))
		if err != nil && !errors.Is(err, kernel.ErrCannotTell) { // then it is safe to take it for no
			return c, fmt.Errorf("conntrack: %w", err)
		}
		// After a warm-up that was cut short, our own rules may make it watch.
		if !watching || p.old != nil && p.old.Unwatched {
			c.families = append(c.families, f)
		}
	}
	c.Tracked = len(c.families) == 0
	routed := slices.ContainsFunc(o.Services, func(s Service) bool { return s.Hook == rules.Forward || s.Translated() })
	if c.Tracked {
		n, err := kernel.RoutedConnections(ctx, p.new.serves())
		if err != nil {
			return c, err
		}
		c.Routed = &n
		return c, nil
	}
	alone, err := kernel.Alone()
	if err != nil {
		return c, err
	}
	switch {
	case o.Warmup != nil:
		c.Warmup = o.Warmup.Seconds()
	case alone: // as at boot: there is nobody to be connected to
		routed = false
	case routed:
		c.Warmup = warmupRouted.Seconds()
	default:
		c.Warmup = warmupLocal.Seconds()
	}
	if !routed {
		none := 0
		c.Routed = &none
	}
	sockets, err := localConnections(ctx, c.families)
	c.Local = len(sockets)
	return c, err
}

// localConnections lists the connections of this host of the given families. In
// others nobody would ever take an entry away again.
func localConnections(ctx context.Context, families []rules.Family) ([]kernel.Socket, error) {
	all, err := kernel.LocalConnections(ctx)
	return slices.DeleteFunc(all, func(s kernel.Socket) bool {
		return !slices.Contains(families, rules.FamilyOf(s.Local.Addr()))
	}), err
}

// Codes returns the codes of the findings that tell what is at risk, which
// [Host.Announce] was told before the first change.
func (c Earlier) Codes() []string {
	var codes []string
	for _, f := range c.findings() {
		codes = append(codes, f.Code)
	}
	return codes
}

// findings tells people what is at risk before anything is done.
func (c Earlier) findings() []Finding {
	if c.Tracked {
		return nil
	}
	var fs []Finding
	if c.Local > 0 {
		fs = append(fs, finding(Info, "connections-carried", "",
			"conntrack does not know %s of this host yet: what stays silent is carried over into its table", count(c.Local, "TCP connection")))
	}
	if c.Routed == nil {
		hint := "give them more time with --warmup, or ask the servers behind how many are open and idle"
		lost := "those that say nothing for the " + time.Duration(c.Warmup*float64(time.Second)).String() + " of the warm-up"
		if c.Warmup == 0 {
			lost = "without a warm-up all of them"
		}
		fs = append(fs, finding(Warn, "connections-unknown", hint,
			"conntrack was not watching: how many connections to the services pass through this host is not known; %s will be reset or time out", lost))
	}
	return fs
}

// warmUp makes conntrack watch before it is asked to judge: it takes up what
// is active, and is told of the idle connections of this host.
func (h *Host) warmUp(ctx context.Context, s store, p *plan, u *undo, retreat func(context.Context) error) ([]Finding, error) {
	if p.earlier.Tracked {
		return nil, nil
	}
	u.push("rules of "+p.backend.Name(), retreat)
	if p.new.Warming {
		// Somebody had switched loose tracking off while nothing was tracked.
		// With it off, not even active connections would be taken up.
		if err := h.flip(loose, "0", "1"); err != nil {
			return nil, err
		}
		u.push("kernel settings", func(context.Context) error {
			_, err := h.Sysctl.Restore([]sysctl.Change{{Key: loose, Before: "0", After: "1"}})
			return err
		})
	}
	// Any rule with a conntrack match switches it on; the anchor does nothing else.
	anchors := rules.Policy{Anchors: p.new.Families}
	if err := h.reach(ctx, p.backend, p.have.With(anchors.Ruleset(p.backend.Name()))); err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	if err := h.step(ctx, "conntrack"); err != nil {
		return nil, err
	}
	if err := h.watch(ctx, p); err != nil {
		return nil, err
	}
	// Those that said nothing: what is active has been taken up by now.
	found, err := carry(ctx, p.earlier.families)
	if err != nil {
		return nil, err
	}
	if err := h.step(ctx, "carried"); err != nil {
		return nil, err
	}
	if p.new.Warming {
		if err := h.flip(loose, "1", "0"); err != nil {
			return nil, err
		}
	}
	p.new.Unwatched, p.new.Warming = false, false
	if err := s.save(p.new); err != nil {
		return nil, err
	}
	n, err := kernel.RoutedConnections(ctx, p.new.serves())
	if err != nil {
		return nil, err
	}
	p.earlier.Seen = n
	return found, nil
}

// watch lets conntrack take up what is active. Of connections that ended just
// when it was switched on it has taken up the last packets; halfway, and once
// more near the end, it forgets those, and what goes on is taken up again.
func (h *Host) watch(ctx context.Context, p *plan) error {
	whole := time.Duration(p.earlier.Warmup * float64(time.Second))
	const again = 300 * time.Millisecond // for what goes on to show itself
	begun := time.Now()
	for _, until := range []time.Duration{whole / 2, max(whole/2, whole-again)} {
		if err := h.wait(ctx, "conntrack warm-up", time.Until(begun.Add(until))); err != nil {
			return err
		}
		if _, err := kernel.ForgetRemains(ctx, serversOf(p.new.Services)); err != nil {
			return err
		}
	}
	return h.wait(ctx, "conntrack warm-up", time.Until(begun.Add(whole)))
}

// carry tells conntrack of the connections of this host that it does not know.
func carry(ctx context.Context, families []rules.Family) ([]Finding, error) {
	sockets, err := localConnections(ctx, families)
	if err == nil {
		_, err = kernel.Carry(ctx, sockets)
	}
	if err == nil {
		err = forgetEnded(ctx, sockets)
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return []Finding{finding(Warn, "connections-not-carried", "see net.netfilter.nf_conntrack_max",
			"some idle connections of this host could not be carried over: %v", err)}, nil
	}
	return nil, nil
}

// forgetEnded deletes the entries of those connections that ended while they
// were carried over.
func forgetEnded(ctx context.Context, carried []kernel.Socket) error {
	now, err := kernel.LocalConnections(ctx)
	if err != nil {
		return err
	}
	open := make(map[[2]netip.AddrPort]bool, len(now))
	for _, s := range now {
		open[[2]netip.AddrPort{s.Local, s.Remote}] = true
	}
	ended := slices.DeleteFunc(carried, func(s kernel.Socket) bool { return open[[2]netip.AddrPort{s.Local, s.Remote}] })
	_, err = kernel.ForgetCarried(ctx, ended)
	return err
}

// flip changes a setting that has to change for a while only.
func (h *Host) flip(key, before, after string) error {
	if _, err := h.Sysctl.Apply([]sysctl.Change{{Key: key, Before: before, After: after}}); err != nil {
		return fmt.Errorf("kernel settings: %w", err)
	}
	return nil
}

// guardSettings returns the settings that connections need which conntrack took up in
// the middle.
func (h *Host) guardSettings() ([]sysctl.Change, error) {
	longest, err := h.Sysctl.Get(established)
	if err != nil {
		return nil, fmt.Errorf("kernel settings: %w", err)
	}
	return h.Sysctl.Plan([]sysctl.Setting{{Key: unacknowledged, Value: longest}})
}

// forgetStale deletes the conntrack entries of handshakes that began before SYNs
// were answered and have not come to an end: the client's next SYN would meet
// them and end in a reset.
func (h *Host) forgetStale(ctx context.Context, p *plan, switched time.Time) ([]Finding, error) {
	begins := p.begins()
	if begins == nil {
		return nil, nil
	}
	stale, err := kernel.HalfOpen(ctx, begins)
	if err == nil && len(stale) > 0 {
		if err := h.wait(ctx, "handshakes end", time.Until(switched.Add(handshakeFlight))); err != nil {
			return nil, err
		}
		_, err = kernel.ForgetHalfOpen(ctx, begins)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		// They vanish by themselves in two minutes.
		return []Finding{finding(Warn, "stale-handshakes", "", "handshakes that were under way could not be told to begin anew: %v", err)}, nil
	}
	return nil, h.step(ctx, "stale")
}
