package protect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Diagnosis is the outcome of [Host.Doctor].
type Diagnosis struct {
	OK       bool      `json:"ok"` // nothing is fatal
	Backend  string    `json:"backend"`
	Services Services  `json:"services"` // for which it was made; empty: the host alone
	Findings []Finding `json:"findings"`
}

// Doctor tells what of this host would break or weaken the protection of
// services, before anything is applied: of those given, or if there are none, of
// those that are protected. It changes nothing. Their options need not be known.
func (h *Host) Doctor(ctx context.Context, services []Service, backend string) (*Diagnosis, error) {
	if err := CanChange(); err != nil {
		return nil, err
	}
	s, err := h.open()
	if err != nil {
		return nil, err
	}
	rec, err := s.load()
	if err != nil {
		return nil, err
	}
	if len(services) == 0 && rec != nil {
		services = rec.Services
	}
	p := &plan{old: rec}
	if err := h.chooseBackend(ctx, p, backend, services); err != nil {
		return nil, err
	}
	d := &Diagnosis{Backend: p.backend.Name(), Services: slices.Clone(services), Findings: []Finding{}}
	if len(services) == 0 {
		// Any service will do for what concerns them all; this one is nobody's.
		d.Findings = append(d.Findings, h.trial(ctx, p.backend, rules.Policy{Anchors: rules.Families[:]})...)
	} else {
		out, err := lookOut(ctx, p.backend.Name(), &h.routes)
		if err != nil {
			return nil, err
		}
		if err := out.routes.ask(ctx, d.Services); err != nil {
			return nil, err
		}
		out.modes(d.Services)
		d.Findings = append(d.Findings, out.findings(d.Services)...)
		policy := policyOf(d.Services)
		policy.Window = rules.CanOpenWindow(ctx)
		d.Findings = append(d.Findings, h.trial(ctx, p.backend, policy)...)
		more, err := h.environment(ctx, d.Services, out)
		if err != nil {
			return nil, err
		}
		d.Findings = append(d.Findings, more...)
	}
	if f, ok := h.cookiesWouldDo(ctx, d.Services); ok {
		d.Findings = append(d.Findings, f)
	}
	if !rules.CanOpenWindow(ctx) {
		d.Findings = append(d.Findings, finding(Info, "no-nf-tables", "",
			"this kernel has no nf_tables: a client whose last packet of the handshake is lost hangs, as with any SYNPROXY of iptables"))
	}
	d.OK = !bad(d.Findings)
	return d, nil
}

// trial makes the rules in a network namespace of its own, which vanishes with
// the thread: so the kernel itself says what it lacks.
func (h *Host) trial(ctx context.Context, b rules.Backend, policy rules.Policy) []Finding {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("%w: %w", errNoTrial, err)
			return
		}
		for _, step := range rules.Plan(rules.Ruleset{}, policy.Ruleset(b.Name())) {
			if err := b.Apply(ctx, step); err != nil {
				result <- err
				return
			}
		}
		_, err := h.Sysctl.Get(loose)
		result <- err
	}()
	err := <-result
	switch {
	case err == nil, ctx.Err() != nil:
		return nil
	case errors.Is(err, errNoTrial):
		return []Finding{finding(Info, "no-trial", "run it as root to have them tried", "the rules could not be tried in a namespace of their own: %v", err)}
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{finding(Bad, "kernel-feature", "load the module: modprobe nf_conntrack", "connection tracking is not there: %v", err)}
	}
	return []Finding{finding(Bad, "kernel-feature",
		"load the modules, or use another kernel or --backend: modprobe -a xt_SYNPROXY xt_CT xt_conntrack xt_TCPOPTSTRIP xt_addrtype xt_owner xt_u32 iptable_security",
		"the kernel or %s does not take the rules: %v", b.Name(), err)}
}

var errNoTrial = errors.New("no namespace")

// cookiesWouldDo says honestly when the kernel alone is enough: where each
// server is this host, with SYN cookies, and conntrack is not in the way.
func (h *Host) cookiesWouldDo(ctx context.Context, services []Service) (Finding, bool) {
	cookies, err := h.Sysctl.Get("net.ipv4.tcp_syncookies")
	remote := func(s Service) bool { return s.Hook != rules.Input || s.Translated() }
	if len(services) == 0 || err != nil || cookies == "0" || slices.ContainsFunc(services, remote) {
		return Finding{}, false
	}
	for _, f := range familiesOf(services, nil) {
		if on, err := kernel.Tracking(ctx, kernelFamily(f)); err != nil || on {
			return finding(Info, "syn-cookies-nearly-enough", "keep SYNPROXY if the table could fill, or against floods of ACKs",
				"the servers are this host, whose own SYN cookies withstand floods of SYNs; those fill the connection tracking table, which SYNPROXY prevents"), true
		}
	}
	return finding(Info, "syn-cookies-enough", "protect them all the same against floods of ACKs, or if rules will track connections here",
		"the servers are this host, with SYN cookies of its own, and connections are not tracked: against floods of SYNs alone the kernel needs no help"), true
}
