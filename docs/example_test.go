package docs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// ask finds the options of some servers, in the order of the list.
func ask(ctx context.Context, servers []netip.AddrPort) ([]probe.Result, error) {
	targets := make([]probe.Target, len(servers))
	for i, at := range servers {
		targets[i].Addr = at
	}
	return probe.Probe(ctx, probe.Config{Connect: true, Timeout: 2 * time.Second}, targets)
}

// decide makes services of those that have answered.
func decide(servers []netip.AddrPort, results []probe.Result) rules.Policy {
	policy := rules.Policy{Window: true}
	for i, r := range results {
		if r.Verdict != probe.Direct {
			continue // [probe.Proxied] would be the options of another SYNPROXY
		}
		at := servers[i].Addr()
		s := rules.Service{
			Destination: netip.PrefixFrom(at, at.BitLen()), Port: servers[i].Port(), Hook: rules.Forward,
			Options: rules.Options(r.Options), First: rules.FirstUnknown, SynCookies: r.SYNCookies,
		}
		if r.Local {
			s.Hook = rules.Input
		}
		if r.Speaks != nil {
			s.First = rules.First(*r.Speaks)
		}
		policy.Services = append(policy.Services, s)
	}
	return policy
}

// put makes the kernel hold what protects the policy, and looks whether it does.
func put(ctx context.Context, backend rules.Backend, policy rules.Policy) error {
	if err := policy.Validate(); err != nil {
		return err
	}
	have, err := backend.List(ctx)
	if err != nil {
		return err
	}
	want := policy.Ruleset(backend.Name())
	for _, step := range rules.Plan(have, want) {
		if err := backend.Apply(ctx, step); err != nil {
			return err
		}
	}
	if have, err = backend.List(ctx); err != nil {
		return err
	}
	for _, difference := range rules.Compare(have, want) {
		err = errors.Join(err, fmt.Errorf("%s: %v", difference.Fault, difference))
	}
	return err
}

// set sets what SYNPROXY needs. What it returns is for [sysctl.FS.Restore].
func set() ([]sysctl.Change, error) {
	plan, err := sysctl.Default.Plan([]sysctl.Setting{{Key: "net.netfilter.nf_conntrack_tcp_loose", Value: "0"}})
	if err != nil {
		return nil, err
	}
	return sysctl.Default.Apply(plan)
}

// advise says what a person can do about an error of any of the three.
func advise(err error) string {
	var value *sysctl.ValueError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run it with CAP_NET_ADMIN and CAP_NET_RAW"
	case errors.Is(err, rules.ErrChanged):
		return "somebody has changed the rules just now: plan again"
	case errors.Is(err, rules.ErrIncompatible):
		return "nft has put something into the table that iptables cannot show"
	case errors.Is(err, rules.ErrUnsupported):
		return "take another backend, or load the kernel's modules"
	case errors.As(err, &value):
		return fmt.Sprintf("%s is %s, and would not become %s", value.Key, value.Got, value.Want)
	}
	return ""
}

// From two answers to a policy, and to what it would be on paper.
func Example() {
	mss, wscale, speaks := uint16(1460), uint8(10), probe.Server
	servers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:22"), netip.MustParseAddrPort("192.0.2.1:443")}
	results := []probe.Result{
		{Verdict: probe.Direct, Options: probe.Options{MSS: &mss, WScale: &wscale, SACKPerm: true, Timestamps: true}, Speaks: &speaks},
		{Verdict: probe.NoReply},
	}
	policy := decide(servers, results)
	for _, rule := range policy.Rules(rules.NFTables) {
		fmt.Println(rule.NFTName(), rule.NFTString())
	}
	// Output:
	// SYNPROXYCTL_MANGLE_OUTPUT tcp flags & (fin | syn | rst | ack) == syn | ack tcp window 0 tcp window set 1
	// SYNPROXYCTL_MANGLE_OUTPUT meta skuid >= 0 accept
	// SYNPROXYCTL_MANGLE_OUTPUT ip daddr 192.0.2.1 tcp dport 22 tcp flags & (fin | syn | rst | ack) == ack fib saddr type != local reset tcp option timestamp
	// SYNPROXYCTL_SECURITY_FORWARD ip daddr 192.0.2.1 iif != "lo" tcp dport 22 tcp flags & (fin | syn | rst | ack) == syn ct state new ct status & dnat != dnat synproxy mss 1460 wscale 10 timestamp sack-perm
	// SYNPROXYCTL_MANGLE_FORWARD ip daddr 192.0.2.1 iif != "lo" tcp dport 22 tcp flags & (fin | syn | rst | ack) == ack ct state invalid synproxy
	// SYNPROXYCTL_MANGLE_FORWARD ip daddr 192.0.2.1 iif != "lo" tcp dport 22 ct state invalid drop
	// SYNPROXYCTL_ANCHOR meta l4proto tcp synproxy
}
