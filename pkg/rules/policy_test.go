package rules

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// stock is what a Linux server of today announces.
func stock(mss uint16) Options {
	return Options{MSS: &mss, WScale: ptr[uint8](10), SACKPerm: true, Timestamps: true}
}

func goldenPolicies() map[string]Policy {
	v4, v6 := pfx("192.0.2.1/32"), pfx("2001:db8::1/128")
	many := Policy{}
	for i := range 4 {
		for _, base := range []netip.Addr{v4.Addr(), v6.Addr()} {
			b := base.AsSlice()
			b[len(b)-1] += byte(i)
			a, _ := netip.AddrFromSlice(b)
			many.Services = append(many.Services, Service{
				Destination: netip.PrefixFrom(a, a.BitLen()), Port: uint16(80 + i), Options: stock(1460),
				Hook: []Hook{Forward, Input}[i%2], First: []First{FirstClient, FirstServer, FirstUnknown, FirstUnknown}[i], SynCookies: i == 3,
			})
		}
	}
	return map[string]Policy{
		"routed-ipv4-client-first": {Services: []Service{{Destination: v4, Port: 443, Hook: Forward, Options: stock(1460), First: FirstClient}}},
		"routed-ipv6-server-first": {Services: []Service{{Destination: v6, Port: 22, Hook: Forward, Options: stock(1440), First: FirstServer}}},
		"local-ipv4":               {Services: []Service{{Destination: v4, Port: 8080, Hook: Input, Options: stock(1460)}}},
		"local-ipv6-syn-cookies":   {Services: []Service{{Destination: v6, Port: 80, Hook: Input, Options: stock(1440), SynCookies: true}}},
		"two-interfaces": {Services: []Service{{
			Destination: v4, Port: 80, Hook: Forward, Options: Options{MSS: ptr[uint16](536)}, Interfaces: []string{"wan1", "wan0"},
		}}},
		"prefix":         {Services: []Service{{Destination: pfx("198.51.100.0/24"), Port: 80, Hook: Forward}}},
		"prefix-notrack": {Services: []Service{{Destination: pfx("198.51.100.0/24"), Port: 80, Hook: Forward, Mode: ModeNotrack}}},
		"notrack-ipv4":   {Services: []Service{{Destination: v4, Port: 443, Hook: Forward, Options: stock(1460), First: FirstClient, Mode: ModeNotrack}}},
		"notrack-ipv6":   {Services: []Service{{Destination: v6, Port: 22, Hook: Input, Options: stock(1440), Mode: ModeNotrack}}},
		"translated": {Services: []Service{
			{Destination: v4, Port: 8080, Hook: Input, Options: stock(1460), Mode: ModeNotrack, To: netip.MustParseAddrPort("198.51.100.2:80")},
			{Destination: v6, Port: 8080, Hook: Input, Options: stock(1440), Mode: ModeNotrack, To: netip.MustParseAddrPort("[2001:db8::2]:80"), First: FirstClient},
			{Destination: v4, Port: 8081, Hook: Input, Options: stock(1460), Mode: ModeNotrack, Published: true, SynCookies: true},
		}},
		"closing": {
			Services: []Service{{Destination: v4, Port: 443, Hook: Forward, Options: stock(1460)}},
			Closing:  []Service{{Destination: v4, Port: 444, Hook: Forward, Options: stock(1460), Mode: ModeNotrack}},
			Anchors:  []Family{IPv6},
		},
		// Groups of two beside services that are alone.
		"alike": {Services: []Service{
			{Destination: v4, Port: 80, Hook: Forward, Options: stock(1460)},
			{Destination: v4, Port: 443, Hook: Forward, Options: stock(1460)},
			{Destination: v4, Port: 22, Hook: Forward, Options: stock(1400)},
			{Destination: v6, Port: 80, Hook: Input, Options: stock(1440), Mode: ModeNotrack, Interfaces: []string{"wan0"}},
			{Destination: pfx("2001:db8::2/128"), Port: 80, Hook: Input, Options: stock(1440), Mode: ModeNotrack, Interfaces: []string{"wan0"}},
		}},
		"alike-networks": {Services: []Service{
			{Destination: pfx("198.51.100.0/24"), Port: 80, Hook: Forward, Options: stock(1460), Mode: ModeNotrack},
			{Destination: pfx("198.51.101.0/24"), Port: 80, Hook: Forward, Options: stock(1460), Mode: ModeNotrack},
		}},
		"alike-translated": {Services: []Service{
			{Destination: v4, Port: 8080, Hook: Input, Options: stock(1460), Mode: ModeNotrack, To: netip.MustParseAddrPort("198.51.100.2:80")},
			{Destination: v4, Port: 8081, Hook: Input, Options: stock(1460), Mode: ModeNotrack, Published: true},
		}},
		"alike-closing": {Closing: []Service{
			{Destination: v4, Port: 80, Hook: Forward, Options: stock(1460), Mode: ModeNotrack},
			{Destination: v4, Port: 443, Hook: Forward},
		}},
		"anchors": {Anchors: []Family{IPv4, IPv6}},
		"many":    many,
	}
}

func TestPolicyRulesGolden(t *testing.T) {
	for name, p := range goldenPolicies() {
		t.Run(name, func(t *testing.T) {
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, r := range p.Rules(NFT) {
				fmt.Fprintf(&b, "%s %-6s -A %s %s\n", r.Family, r.Table, r.Chain, r)
			}
			printSets(&b, p.Ruleset(NFT))
			golden(t, name, b.String())
		})
	}
}

func printSets(b *strings.Builder, rs Ruleset) {
	for _, id := range sortedSets(rs.sets) {
		s := rs.sets[id]
		fmt.Fprintf(b, "%s set %s %s counted=%t mapped=%t\n", id.family, id.name, s.typeName(), s.Counted, s.Mapped)
		for _, m := range s.Members {
			fmt.Fprintf(b, "\t%s\n", m)
		}
	}
}

// golden compares text with a file below testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("go test -update writes it anew; -want +got:\n%s", diff)
	}
}

// Each rule must come back from its text, or verify would call it missing.
func TestPolicyRulesParse(t *testing.T) {
	for name, p := range goldenPolicies() {
		for _, want := range p.Rules(NFT) {
			got, err := ParseRule(want.Family, want.Table, want.Chain, want.String())
			if diff := cmp.Diff(want, got, compareTypes); err != nil || diff != "" {
				t.Errorf("%s: %s: %v; -want +got:\n%s", name, want, err, diff)
			}
		}
	}
}

// Locally generated traffic comes in by lo, also the proxied SYN itself.
func TestPolicyRulesNeverOnLoopback(t *testing.T) {
	for name, p := range goldenPolicies() {
		for _, r := range p.Rules(NFT) {
			if _, jump := r.Target.(Jump); jump || r.Chain == chainOut || r.Chain == chainAnchor || r.Target == Accept {
				continue
			}
			held := slices.ContainsFunc(r.Matches, func(m Match) bool {
				in, ok := m.(InInterface)
				return ok && in.Not == (in.Name == "lo")
			})
			if !held {
				t.Errorf("%s: %s %s: lo is not excluded: %s", name, r.Table, r.Chain, r)
			}
		}
	}
}

func TestPolicyRulesNone(t *testing.T) {
	if rs := (Policy{}).Rules(NFT); len(rs) != 0 {
		t.Errorf("no services, but rules: %v", rs)
	}
	if !(Policy{}).Ruleset(NFT).Empty() {
		t.Error("the rule set of no service is not empty")
	}
	if goldenPolicies()["prefix"].Ruleset(NFT).Empty() {
		t.Error("the rule set of a service is empty")
	}
}
