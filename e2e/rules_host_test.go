package e2e

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// onePolicy protects one routed service of each family.
var onePolicy = rules.Policy{Services: []rules.Service{
	{Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: 80, Hook: rules.Forward, Mode: rules.ModeNotrack},
	{Destination: netip.MustParsePrefix("2001:db8::1/128"), Port: 80, Hook: rules.Forward, Mode: rules.ModeNotrack},
}}

func choose(t *testing.T, host *lab.Host) (name, reason string, err error) {
	t.Helper()
	err = host.Do(func() error {
		b, why, err := rules.Choose(t.Context())
		if err == nil {
			name, reason = b.Name(), why
		}
		return err
	})
	return name, reason, err
}

// TestChoose follows what the host's own rules use.
func TestChoose(t *testing.T) {
	standard := rules.Legacy
	if strings.Contains(run(t, newHost(t), "iptables", "--version"), "nf_tables") {
		standard = rules.NFT
	}
	other := map[string]string{rules.NFT: rules.Legacy, rules.Legacy: rules.NFT}[standard]
	const (
		own    = "this host's own rules use it"
		both   = "this host's own rules use both variants of iptables, and it is the one that iptables is"
		native = "no rule of this host uses iptables, and it changes all in one transaction"
	)
	for _, tt := range []struct {
		name         string
		commands     []string
		want, reason string
	}{
		{"nothing", nil, rules.NFTables, native},
		{"nft", []string{"iptables-nft -A INPUT -j ACCEPT"}, rules.NFT, own},
		{"nft IPv6", []string{"ip6tables-nft -t nat -A POSTROUTING -j MASQUERADE"}, rules.NFT, own},
		{"nft policy", []string{"iptables-nft -P FORWARD DROP"}, rules.NFT, own},
		{"nft chain", []string{"iptables-nft -N theirs"}, rules.NFT, own},
		{"legacy", []string{"iptables-legacy -t mangle -A OUTPUT -j ACCEPT"}, rules.Legacy, own},
		{"legacy IPv6", []string{"ip6tables-legacy -A INPUT -j ACCEPT"}, rules.Legacy, own},
		{"legacy policy", []string{"ip6tables-legacy -P INPUT DROP"}, rules.Legacy, own},
		{"both", []string{"iptables-legacy -A INPUT -j ACCEPT", "iptables-nft -A INPUT -j ACCEPT"}, standard, both},
		{"tables without rules", []string{"iptables-legacy -t filter -S", "iptables-nft -A INPUT -j ACCEPT", "iptables-nft -F"}, rules.NFTables, native},
		{"ours only", []string{"OURS " + other}, rules.NFTables, native},
		{"ours, and theirs", []string{"OURS " + standard, other + " -A INPUT -j ACCEPT"}, other, own},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := newHost(t)
			for _, c := range tt.commands {
				words := strings.Fields(c)
				if words[0] != "OURS" {
					run(t, host, words[0], words[1:]...)
					continue
				}
				b, err := rules.Find(words[1])
				if err != nil {
					t.Fatal(err)
				}
				backendOn{b, host}.goTo(t, onePolicy.Ruleset(b.Name()))
			}
			nft, legacy := run(t, host, "nft", "list", "ruleset"), legacyTables(t, host)
			name, reason, err := choose(t, host)
			if err != nil || name != tt.want || reason != tt.reason {
				t.Errorf("%s, because %q, %v; want %s, because %q", name, reason, err, tt.want, tt.reason)
			}
			if after := run(t, host, "nft", "list", "ruleset"); after != nft {
				t.Errorf("looking changed the tables of nft: %s", cmp.Diff(nft, after))
			}
			if after := legacyTables(t, host); after != legacy {
				t.Errorf("looking made legacy tables: %q, before %q", after, legacy)
			}
		})
	}
}

func legacyTables(t *testing.T, host *lab.Host) string {
	t.Helper()
	return run(t, host, "sh", "-c", "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names")
}

// TestPrune removes what exists only because of us, and nothing that anybody else has put there.
func TestPrune(t *testing.T) {
	for _, tt := range []struct {
		name          string
		before, while []string // commands of others before we come, and while we are there
	}{
		{"alone", nil, nil},
		{"empty tables before", []string{"iptables-nft -A INPUT -j ACCEPT", "iptables-nft -F INPUT", "ip6tables-nft -t raw -P OUTPUT ACCEPT"}, nil},
		{"rules before", []string{"iptables-nft -A INPUT -j ACCEPT", "iptables-nft -t nat -A POSTROUTING -j ACCEPT"}, nil},
		{"nft's own tables", []string{"nft add table inet filter", "nft add table ip mangle", "nft add chain ip mangle mine { type filter hook input priority 5; }"}, nil},
		{"rules meanwhile", nil, []string{"iptables-nft -t raw -A PREROUTING -j ACCEPT", "ip6tables-nft -A INPUT -p udp -j DROP"}},
		{"policy meanwhile", nil, []string{"iptables-nft -P INPUT DROP", "ip6tables-nft -t raw -P OUTPUT DROP"}},
		{"chains meanwhile", nil, []string{"iptables-nft -N theirs", "nft add set ip6 raw theirs { type ipv6_addr; }"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Without us, and with us: what is left must be the same.
			left := map[bool]string{}
			for _, we := range []bool{false, true} {
				if !we && len(tt.while) > 0 {
					continue
				}
				host := newHost(t)
				b, err := rules.Find(rules.NFT)
				if err != nil {
					t.Fatal(err)
				}
				on := backendOn{b, host}
				for _, c := range tt.before {
					run(t, host, strings.Fields(c)[0], strings.Fields(c)[1:]...)
				}
				keep := on.baseChains(t)
				if we {
					on.goTo(t, onePolicy.Ruleset(b.Name()))
				}
				for _, c := range tt.while {
					run(t, host, strings.Fields(c)[0], strings.Fields(c)[1:]...)
				}
				if we {
					on.goTo(t, rules.Ruleset{})
					on.prune(t, keep)
					on.prune(t, keep) // once more is harmless
				}
				left[we] = normalise(run(t, host, "nft", "list", "ruleset"))
			}
			checkPruned(t, tt.while, left[false], left[true])
		})
	}
}

// checkPruned compares the rule set that nft lists with what was there without us. If others came while we were
// there, it wants just what they made.
func checkPruned(t *testing.T, while []string, without, with string) {
	t.Helper()
	if len(while) == 0 {
		if diff := cmp.Diff(without, with); diff != "" {
			t.Errorf("-without us +after us:\n%s", diff)
		}
		return
	}
	if strings.Contains(with, rules.ChainPrefix) {
		t.Errorf("something of ours is left:\n%s", with)
	}
	for _, c := range while {
		words := strings.Fields(c)
		table, chain := "filter", words[len(words)-1]
		for i, w := range words {
			switch w {
			case "-t":
				table = words[i+1]
			case "-A", "-P":
				chain = words[i+1]
			}
		}
		if words[0] == "nft" {
			table, chain = words[4], "set theirs"
		}
		if !strings.Contains(with, " "+table+" {") || !strings.Contains(with, chain+" {") {
			t.Errorf("%s: %s in %s is gone:\n%s", c, chain, table, with)
		}
	}
	if n := strings.Count(with, "hook "); n > len(while) {
		t.Errorf("%d built-in chains are left, want at most the %d that others use:\n%s", n, len(while), with)
	}
}

// TestIncompatible puts into the tables of iptables-nft what only nft can show: rules that could be ours are not
// seen then.
func TestIncompatible(t *testing.T) {
	for _, tt := range []struct {
		name, program, table, rule string
		fails                      bool
		chosen                     string
	}{
		{"not shown", "iptables-nft", "filter", "add rule ip filter OUTPUT ct mark 1 drop", true, rules.NFTables},
		{"not shown, IPv6", "ip6tables-nft", "raw", "add rule ip6 raw OUTPUT notrack", true, rules.NFTables},
		{"not read", "iptables-nft", "mangle", "add rule ip mangle OUTPUT meta length 100 accept", true, rules.NFTables},
		{"in a table that we do not use", "iptables-nft", "nat", "add rule ip nat OUTPUT ct mark 1 accept", false, rules.NFTables},
		{"in a chain of nft", "iptables-nft", "filter", "add chain ip filter mine { type filter hook input priority 5; }; add rule ip filter mine ct mark 1 drop", false, rules.NFT},
		{"in a table of nft", "iptables-nft", "filter", "add table inet filter; add chain inet filter c; add rule inet filter c ct mark 1 drop", false, rules.NFT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := newHost(t)
			run(t, host, tt.program, "-t", tt.table, "-A", "OUTPUT", "-j", "ACCEPT")
			runInput(t, host, strings.ReplaceAll(tt.rule, "; add", "\nadd"), "nft", "-f", "-")
			b, err := rules.Find(rules.NFT)
			if err != nil {
				t.Fatal(err)
			}
			err = host.Do(func() error {
				_, err := b.List(t.Context())
				return err
			})
			if errors.Is(err, rules.ErrIncompatible) != tt.fails || !tt.fails && err != nil {
				t.Errorf("List: error %v, want ErrIncompatible: %t", err, tt.fails)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error of more than one line: %v", err)
			}
			// What iptables cannot show is none of its own.
			if name, why, err := choose(t, host); err != nil || name != tt.chosen {
				t.Errorf("Choose: %s (%s), %v, want %s", name, why, err, tt.chosen)
			}
		})
	}
}
