package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// atOnce is how many services are asked at the same time.
const atOnce = 8

// Prove tries to prove the protection of each target, in the network namespace
// of the calling thread, and returns a result for each, in their order. A target
// of which nothing more can be said takes some seconds, a good one some
// hundredths of a second for each of its interfaces.
//
// It needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN; without them no target
// is proven, with the code [NotPossible], and that is not an error. An error
// says that something went wrong beyond the proof; what was found until then
// comes with it. When ctx ends, everything is taken away and the error is ctx's.
func Prove(ctx context.Context, targets []Target) ([]Result, error) {
	results := make([]Result, len(targets))
	for i, t := range targets {
		results[i].Target = t
		results[i].sum()
	}
	if message := missing(); message != "" {
		for i := range results {
			results[i].Code, results[i].Message = NotPossible, message
		}
		return results, nil
	}
	host, err := currentNetNS()
	if err != nil {
		return results, err
	}
	defer host.close()
	if err := host.do(removeLeftOvers); err != nil {
		return results, err
	}
	for _, ingress := range ingresses(targets) {
		if err = ctx.Err(); err == nil {
			err = proveBy(ctx, host, ingress, results)
		}
		if err != nil {
			break
		}
	}
	for i := range results {
		results[i].finish()
	}
	if err == nil { // what it cut short may have been taken for silence
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("live proof: %w", err)
	}
	return results, err
}

// finish sums up a result, of which paths may be missing.
func (r *Result) finish() {
	if fault := r.Target.check(); fault != "" {
		r.Code, r.Message = BadTarget, fault
		return
	}
	want := max(1, len(r.Target.ways()))
	r.sum()
	if r.Verdict == Proven && len(r.Paths) < want {
		r.Verdict = Unproven
	}
	if r.Verdict != Proven && r.Code == "" {
		r.Code, r.Message = NotPossible, "the proof was not finished"
	}
}

// missing names the capabilities that are.
func missing() string {
	const sysAdmin = kernel.Capability(unix.CAP_SYS_ADMIN)
	err := kernel.Require(kernel.NetAdmin, kernel.NetRaw, sysAdmin)
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), sysAdmin.String(), "CAP_SYS_ADMIN")
}

// ways returns the interfaces of a target, each once; "" stands for any.
func (t Target) ways() []string {
	if len(t.Interfaces) == 0 {
		return []string{""}
	}
	list := slices.Clone(t.Interfaces)
	slices.Sort(list)
	return slices.Compact(list)
}

// check tells what is wrong with a target.
func (t Target) check() string {
	addr := t.Destination.Addr()
	switch {
	case !t.Destination.IsValid() || t.Destination.Port() == 0:
		return fmt.Sprintf("%s is not an address and a port", t.Destination)
	case addr.Is4In6():
		return fmt.Sprintf("%s is an IPv4 address in IPv6", addr)
	case addr.IsUnspecified(), addr.IsMulticast(), addr.IsLoopback(), addr.IsLinkLocalUnicast(), addr.Zone() != "":
		return fmt.Sprintf("%s is not an address that a client elsewhere can connect to", addr)
	case t.Hook != rules.Input && t.Hook != rules.Forward:
		return fmt.Sprintf("%q is no hook", t.Hook)
	}
	return ""
}

// ingresses returns the ways of all targets, each once.
func ingresses(targets []Target) []string {
	var list []string
	for _, t := range targets {
		if t.check() == "" {
			list = append(list, t.ways()...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// proveBy asks, by one way, all services that it leads to.
func proveBy(ctx context.Context, host netns, ingress string, results []Result) (err error) {
	var mine []*Result
	var v4, v6 bool
	for i := range results {
		t := results[i].Target
		if t.check() == "" && slices.Contains(t.ways(), ingress) {
			mine = append(mine, &results[i])
			v4, v6 = v4 || t.Destination.Addr().Is4(), v6 || t.Destination.Addr().Is6()
		}
	}
	w, err := newWay(host, ingress, v4, v6)
	if err != nil {
		path := Path{Interface: ingress}
		if err := path.judge(err); err != nil {
			return err
		}
		for _, r := range mine {
			r.Paths = append(r.Paths, path)
		}
		return nil
	}
	defer func() { err = errors.Join(err, w.close()) }()
	w.ports.Store(rand.Uint32N(1 << 16))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, r := range mine {
		group.Go(func() error {
			p := Path{Interface: ingress}
			err := p.judge(w.prove(ctx, r.Target, &p))
			r.Paths = append(r.Paths, p)
			return err
		})
	}
	return group.Wait()
}

// judge puts a fault into the path, and returns what else went wrong.
func (p *Path) judge(err error) error {
	p.Verdict = Proven
	var others []error
	for _, err := range parts(err) {
		if f := (*fault)(nil); errors.As(err, &f) {
			p.Verdict, p.Code, p.Message = f.verdict, f.code, f.message
		} else {
			others = append(others, err)
		}
	}
	if p.Verdict == Proven && len(others) > 0 {
		p.Verdict, p.Code, p.Message = Unproven, NotPossible, others[0].Error()
	}
	return errors.Join(others...)
}

// parts takes joined errors apart.
func parts(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var list []error
	for _, err := range joined.Unwrap() {
		list = append(list, parts(err)...)
	}
	return list
}

// prove asks one service.
func (w *way) prove(ctx context.Context, t Target, p *Path) error {
	network, err := w.network(t.Destination.Addr().Is4())
	if err != nil {
		return err
	}
	client := nth(network, 1)
	p.Client = netip.AddrPortFrom(client, w.port())
	if err := w.host.do(func() error { return w.passable(t, client) }); err != nil {
		return err
	}
	before, err := w.counters()
	if err != nil {
		return err
	}
	talk := w.converse(ctx, t, p)
	if p.Counters, err = w.since(before); err != nil {
		return err
	}
	if talk != nil {
		return talk
	}
	if p.Counters.SYNReceived < 1 || p.Counters.CookieValid < 1 {
		return failed(NotCounted, "the connection works, and SYNPROXY's counters did not rise")
	}
	forged := w.forge(ctx, t, network, p)
	if p.Counters, err = w.since(before); err != nil {
		return err
	}
	if forged == nil && p.Counters.SYNReceived < uint64(1+p.Answered) {
		return failed(NotCounted, fmt.Sprintf("%d forged SYNs were answered, and SYNPROXY counted %d", p.Answered, p.Counters.SYNReceived))
	}
	return forged
}

// counters reads SYNPROXY's counters of the host; zeros if it is not loaded.
func (w *way) counters() (stats kernel.SynproxyStats, err error) {
	err = w.host.do(func() (err error) {
		stats, err = kernel.ReadSynproxyStats()
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return kernel.SynproxyStats{}, nil
	}
	return stats, err
}

func (w *way) since(before kernel.SynproxyStats) (kernel.SynproxyStats, error) {
	now, err := w.counters()
	return now.Since(before), err
}
