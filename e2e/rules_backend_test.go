package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// eachBackend runs a test on a host of its own for each backend.
func eachBackend(t *testing.T, test func(t *testing.T, host *lab.Host, b backendOn)) {
	each(t, []string{rules.NFT, rules.Legacy, rules.NFTables}, test)
}

// eachIptables is eachBackend for what only iptables has.
func eachIptables(t *testing.T, test func(t *testing.T, host *lab.Host, b backendOn)) {
	each(t, []string{rules.NFT, rules.Legacy}, test)
}

func each(t *testing.T, backends []string, test func(t *testing.T, host *lab.Host, b backendOn)) {
	for _, name := range backends {
		t.Run(name, func(t *testing.T) {
			host := newHost(t)
			b, err := rules.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			test(t, host, backendOn{b, host})
		})
	}
}

// backendOn is a backend that works on a host.
type backendOn struct {
	rules.Backend
	host *lab.Host
}

func (b backendOn) list(t *testing.T) rules.Ruleset {
	t.Helper()
	var rs rules.Ruleset
	err := b.host.Do(func() (err error) {
		rs, err = b.List(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func (b backendOn) apply(t *testing.T, s rules.Step) error {
	t.Helper()
	return b.host.Do(func() error { return b.Apply(t.Context(), s) })
}

// goTo applies the plan from what is there.
func (b backendOn) goTo(t *testing.T, want rules.Ruleset) {
	t.Helper()
	for _, s := range rules.Plan(b.list(t), want) {
		if err := b.apply(t, s); err != nil {
			t.Fatalf("%v\n%s", err, b.Render(s))
		}
	}
}

func (b backendOn) baseChains(t *testing.T) []rules.BaseChain {
	t.Helper()
	var chains []rules.BaseChain
	err := b.host.Do(func() (err error) {
		chains, err = b.BaseChains(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return chains
}

func (b backendOn) prune(t *testing.T, keep []rules.BaseChain) {
	t.Helper()
	if err := b.host.Do(func() error { return b.Prune(t.Context(), keep) }); err != nil {
		t.Fatal(err)
	}
}

// rulesOf returns the rules of all four iptables programs, without counters and without what only tells the time.
func rulesOf(t *testing.T, host *lab.Host) string {
	t.Helper()
	var b strings.Builder
	for _, save := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		fmt.Fprintf(&b, "== %s\n%s", save, normalise(run(t, host, save)))
	}
	return b.String()
}

// randomPolicy returns up to ten services.
func randomPolicy(g *rand.Rand) rules.Policy {
	var p rules.Policy
	alike := g.IntN(2) == 0 // share rules
	for _, destination := range []string{"192.0.2.1/32", "192.0.2.2/32", "198.51.100.0/24", "203.0.113.0/25", "2001:db8::1/128", "2001:db8:1::/64", "2001:db8:2::/56"} {
		for _, port := range []uint16{80, 443, 8080} {
			if g.IntN(3) > 0 {
				continue
			}
			if alike {
				s := rules.Service{Destination: netip.MustParsePrefix(destination), Port: port, Hook: rules.Forward, Mode: []rules.Mode{rules.ModeTracked, rules.ModeNotrack}[g.IntN(2)]}
				s.Options.WScale = []*uint8{nil, ptr[uint8](7)}[g.IntN(2)]
				p.Services = append(p.Services, s)
				continue
			}
			p.Services = append(p.Services, rules.Service{
				Destination: netip.MustParsePrefix(destination), Port: port,
				Hook:       []rules.Hook{rules.Input, rules.Forward}[g.IntN(2)],
				First:      []rules.First{rules.FirstClient, rules.FirstServer}[g.IntN(2)],
				Interfaces: [][]string{nil, {"eth0"}, {"eth0", "eth1"}}[g.IntN(3)], SynCookies: g.IntN(4) == 0,
				Options: rules.Options{MSS: []*uint16{nil, ptr[uint16](1460), ptr[uint16](536)}[g.IntN(3)], Timestamps: g.IntN(2) == 0},
				Mode:    []rules.Mode{rules.ModeTracked, rules.ModeNotrack}[g.IntN(2)],
			})
			if s := &p.Services[len(p.Services)-1]; s.Destination.IsSingleIP() && s.Mode == rules.ModeNotrack && g.IntN(2) == 0 {
				s.To = netip.AddrPortFrom(s.Destination.Addr().Next().Next(), 8080)
			}
		}
	}
	p.Window = g.IntN(2) == 0
	g.Shuffle(len(p.Services), func(i, j int) { p.Services[i], p.Services[j] = p.Services[j], p.Services[i] })
	return p
}

// neighbours adds rules of others around ours: at the ends of built-in chains, and in a chain of their own.
func neighbours(t *testing.T, host *lab.Host, backend string) {
	t.Helper()
	if backend == rules.NFTables {
		backend = rules.NFT
	}
	for _, program := range []string{backend, strings.Replace(backend, "ip", "ip6", 1)} {
		run(t, host, program, "-N", "theirs")
		run(t, host, program, "-A", "theirs", "-m", "comment", "--comment", `a "b" \`, "-j", "DROP")
		run(t, host, program, "-A", "INPUT", "-m", "limit", "--limit", "3/sec", "-j", "theirs")
		run(t, host, program, "-A", "FORWARD", "-p", "tcp", "-m", "multiport", "--dports", "80,443", "-j", "ACCEPT")
		run(t, host, program, "-t", "raw", "-A", "OUTPUT", "-o", "lo", "-j", "ACCEPT")
		run(t, host, program, "-P", "OUTPUT", "DROP")
		for _, table := range []string{"mangle", "nat", "security"} { // a legacy table that was once looked at never goes
			run(t, host, program, "-t", table, "-S")
		}
	}
}

// TestRandomPlans leads the kernel from policy to policy, with what others may do to our rules in between.
func TestRandomPlans(t *testing.T) {
	eachBackend(t, func(t *testing.T, host *lab.Host, b backendOn) {
		neighbours(t, host, b.Name())
		base, before := b.baseChains(t), rulesOf(t, host)
		for round := range uint64(30) {
			g := rand.New(rand.NewPCG(round, 7))
			want := randomPolicy(g).Ruleset(b.Name())
			have := b.list(t)
			b.goTo(t, want)
			if ds := rules.Compare(b.list(t), want); len(ds) > 0 {
				t.Fatalf("round %d: %v", round, ds)
			}
			if steps := rules.Plan(b.list(t), want); len(steps) > 0 {
				t.Fatalf("round %d: steps are left: %+v", round, steps)
			}
			if round%3 == 0 { // there and back
				b.goTo(t, have)
				for _, d := range rules.Compare(b.list(t), have) {
					// What others did to our places comes back only as far as it does no harm.
					if d.Fault != rules.JumpNotFirst && d.Fault != rules.JumpExtra && b.Name() != rules.NFTables {
						t.Fatalf("round %d, on the way back: %v", round, d)
					}
				}
			}
			meddle(t, host, b.Name(), g)
		}
		b.goTo(t, rules.Ruleset{})
		if !b.list(t).Empty() {
			t.Error("something is left")
		}
		b.prune(t, base)
		if diff := cmp.Diff(before, rulesOf(t, host)); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
	})
}

// meddle does to our rules what somebody might do. That there is nothing of the kind to spoil is no failure.
func meddle(t *testing.T, host *lab.Host, program string, g *rand.Rand) {
	t.Helper()
	if program == rules.NFTables {
		meddleNFT(t, host, g)
		return
	}
	chain := "SYNPROXYCTL_" + []string{"IN", "FWD", "OUT"}[g.IntN(3)]
	base := map[string]string{"SYNPROXYCTL_IN": "INPUT", "SYNPROXYCTL_FWD": "FORWARD", "SYNPROXYCTL_OUT": "OUTPUT"}[chain]
	for _, args := range [][][]string{
		{},
		{{"-D", chain, "1"}},
		{{"-F", chain}},
		{{"-A", chain, "-m", "comment", "--comment", `odd "one" \`, "-j", "ACCEPT"}},
		{{"-I", chain, "1", "-j", "LOG", "--log-prefix", "a b"}},
		{{"-D", base, "-j", chain}},
		{{"-D", base, "-j", chain}, {"-A", base, "-j", chain}},
		{{"-A", base, "-j", chain}},
		{{"-N", "SYNPROXYCTL_OLD"}, {"-A", base, "-j", "SYNPROXYCTL_OLD"}, {"-N", "SYNPROXYCTL_A"}, {"-A", "SYNPROXYCTL_OLD", "-j", "SYNPROXYCTL_A"}},
	}[g.IntN(9)] {
		_, _ = host.Run(t.Context(), program, args...) // the chain may not be there
	}
}

// TestStepThatFails wants all or nothing, and a reason that callers can act on.
func TestStepThatFails(t *testing.T) {
	service := rules.Service{Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: 80, Hook: rules.Forward}
	policy := rules.Policy{Services: []rules.Service{service}}
	eachIptables(t, func(t *testing.T, host *lab.Host, b backendOn) {
		b.goTo(t, policy.Ruleset(b.Name()))
		planned := rules.Plan(b.list(t), rules.Ruleset{})
		for _, spoil := range []struct {
			what string
			args []string
			undo []string
		}{
			{"jump removed", line("-t mangle -D FORWARD -j SYNPROXYCTL_FWD"), line("-t mangle -I FORWARD -j SYNPROXYCTL_FWD")},
			{"chain in use", line("-t mangle -A FORWARD -p udp -j SYNPROXYCTL_FWD"), line("-t mangle -D FORWARD -p udp -j SYNPROXYCTL_FWD")},
		} {
			run(t, host, b.Name(), spoil.args...)
			before := rulesOf(t, host)
			failed := false
			for _, s := range planned {
				if s.Table != rules.Mangle {
					continue
				}
				err := b.apply(t, s)
				failed = err != nil
				if !errors.Is(err, rules.ErrChanged) {
					t.Errorf("%s: error %v, want ErrChanged", spoil.what, err)
				}
				var program *rules.ProgramError
				if !errors.As(err, &program) || !strings.Contains(program.Message, "line ") {
					t.Errorf("%s: error %v, want one of a program, with the line that it complains of", spoil.what, err)
				}
			}
			if !failed {
				t.Errorf("%s: no step failed", spoil.what)
			}
			if diff := cmp.Diff(before, rulesOf(t, host)); diff != "" {
				t.Errorf("%s: half a step was done, -before +after:\n%s", spoil.what, diff)
			}
			run(t, host, b.Name(), spoil.undo...)
		}
		b.goTo(t, rules.Ruleset{})
		if !b.list(t).Empty() {
			t.Error("something is left")
		}
	})
}

// meddleNFT does to our tables of nft what somebody might do.
func meddleNFT(t *testing.T, host *lab.Host, g *rand.Rand) {
	t.Helper()
	table := []string{"ip synproxyctl", "ip6 synproxyctl"}[g.IntN(2)]
	chain := table + " " + []string{"SYNPROXYCTL_RAW_OUTPUT", "SYNPROXYCTL_MANGLE_FORWARD", "SYNPROXYCTL_SECURITY_FORWARD"}[g.IntN(3)]
	command := []string{
		"flush chain " + chain,
		"add rule " + chain + " tcp dport 22 accept",
		"insert rule " + chain + " counter comment \"-j ACCEPT\"",
		"delete table " + table,
		"flush table " + table,
		"add chain " + table + " mine { type filter hook input priority 0; }",
		"add set " + table + " mine { type inet_service; }",
		"add chain " + table + " SYNPROXYCTL_OLD; add rule " + table + " SYNPROXYCTL_OLD tcp dport 22 drop",
		"add synproxy " + table + " synproxyctl_mss1 { mss 536 wscale 1; }",
	}[g.IntN(9)]
	_, _ = host.Run(t.Context(), "nft", command) // what it is about may not be there
}
