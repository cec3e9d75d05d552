package e2e

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/firewall"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestFirewallReadsWhatIptablesCannotShow puts rules of nft into the tables of
// iptables-nft, and chains into them of which iptables does not speak.
func TestFirewallReadsWhatIptablesCannotShow(t *testing.T) {
	t.Parallel()
	const invalid = "iptables-nft -t mangle -A PREROUTING -m conntrack --ctstate INVALID -j DROP\n"
	for _, tt := range []struct {
		name, commands string
		want           string // the rule of the first blocker
	}{
		{"all shown", invalid, "iptables-nft ip mangle PREROUTING, rule 1: -A PREROUTING -m conntrack --ctstate INVALID -j DROP"},
		{"not shown", invalid + "nft add rule ip mangle PREROUTING ct mark 1 accept", "nft ip mangle PREROUTING, rule 1 (handle N): ct state invalid drop"},
		{"not read", invalid + "nft add rule ip mangle PREROUTING meta length 100 accept", "nft ip mangle PREROUTING, rule 1 (handle N): ct state invalid drop"},
		{"another table not shown", invalid + "iptables-nft -t nat -N x\nnft add rule ip nat x ct mark 1 accept", "iptables-nft ip mangle PREROUTING, rule 1: -A PREROUTING -m conntrack --ctstate INVALID -j DROP"},
		{"a chain of nft", "iptables-nft -t mangle -N x\nnft add chain ip mangle mine { type filter hook prerouting priority 7 ; }\nnft add rule ip mangle mine ct state invalid drop", "nft ip mangle mine, rule 1 (handle N): ct state invalid drop"},
		{"both variants", "iptables-nft -A INPUT -j ACCEPT\niptables-legacy -t mangle -A PREROUTING -m state --state INVALID -j DROP", "iptables-legacy ip mangle PREROUTING, rule 1: -A PREROUTING -m state --state INVALID -j DROP"},
		{"our own table", "nft add table inet synproxyctl\nnft add chain inet synproxyctl a { type filter hook prerouting priority 7 ; policy drop ; }", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := newHost(t)
			for line := range strings.Lines(tt.commands) {
				words := strings.Fields(line)
				run(t, host, words[0], words[1:]...)
			}
			s := firewall.Service{Destination: netip.PrefixFrom(lab.FirewallV4, 32), Port: 80, Hook: firewall.Input, Tracked: true, Backend: rules.NFT}
			got := ""
			for _, b := range readFirewall(t, host).Blockers(s) {
				got = regexp.MustCompile(`handle \d+`).ReplaceAllString(b.Rule, "handle N")
				if b.Code != firewall.CodeInvalidDrop || b.Severity != firewall.Fatal {
					t.Errorf("blocker %+v", b)
				}
			}
			if got != tt.want {
				t.Errorf("rule %q, want %q", got, tt.want)
			}
		})
	}
}

// TestFirewallTranslation compares where a connection is said to be led, from
// the client and from SYNPROXY, with where its first packet goes.
func TestFirewallTranslation(t *testing.T) {
	t.Parallel()
	const to = "10.77.2.2:8080"
	docker := strings.ReplaceAll(strings.ReplaceAll(testdata(t, "docker.save"), "172.17.0.2:80", to), "FORWARD DROP", "FORWARD ACCEPT")
	for _, tt := range []struct {
		name, program, rules string
		target               string // of the client's
		fromProxy            bool   // SYNPROXY's go there too
	}{
		{"nothing", nftFile, "", "", false},
		{"Docker", iptablesFile, docker, to, true},
		{"Docker, legacy", legacyFile, docker, to, true},
		{"another port", iptablesFile, strings.ReplaceAll(docker, "--dport 8080", "--dport 8081"), "", false},
		{"nft", nftFile, "table ip t { chain a { type nat hook prerouting priority dstnat; iifname eth0 tcp dport 8080 dnat to 10.77.2.2; }; }", to, false},
		{"nft, port", nftFile, "table inet t { chain a { type nat hook prerouting priority dstnat; fib daddr type local tcp dport { 80, 8080 } dnat ip to 10.77.2.2:8080; }; chain b { type nat hook output priority -100; ip daddr 10.77.1.1 tcp dport 8080 dnat ip to 10.77.2.2:8080; }; }", to, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			topo := newTopology(t)
			prepare(t, topo)
			words := strings.Fields(tt.program)
			runInput(t, topo.Firewall, tt.rules, words[0], words[1:]...)
			fw := readFirewall(t, topo.Firewall)
			published := netip.AddrPortFrom(lab.FirewallV4, 8080)
			for i, s := range []shot{{from: topo.Client}, {}} {
				s.segment = lab.Segment{
					Source: netip.AddrPortFrom([]netip.Addr{lab.ClientV4, strangerV4}[i], uint16(3000+i)), Destination: published,
					Flags: lab.SYN, Seq: 1, Window: 1000,
				}
				p := firewall.Packet{Hook: firewall.Prerouting, In: []string{"eth0"}, Destination: netip.PrefixFrom(lab.FirewallV4, 32), DestinationLocal: true, DestinationPort: 8080, Flags: rules.SYN}
				if s.from == nil {
					p.Hook, p.Out = firewall.Output, []string{"lo"}
				}
				want := tt.target != "" && (s.from != nil || tt.fromProxy)
				got, rule, certain := fw.Translation(p)
				if (rule != nil) != want || certain != want || want && got.String() != tt.target {
					t.Errorf("%s: %s by %v, certain: %t, want %q", p.Hook, got, rule, certain, tt.target)
				}
				out := capture(t, topo.Firewall, "eth1", func(p lab.Packet) bool { return p.Segment != nil && p.Outgoing })
				arrivals(t, topo, false, []shot{s})
				there := func(p lab.Packet) bool { return p.Segment.Destination.String() == tt.target }
				for deadline := time.Now().Add(2 * time.Second); want && !slices.ContainsFunc(out.Packets(), there) && time.Now().Before(deadline); {
					time.Sleep(5 * time.Millisecond)
				}
				went := slices.ContainsFunc(out.Packets(), there)
				if went != want {
					t.Errorf("%s: it went to %s: %t, want %t", p.Hook, tt.target, went, want)
				}
			}
		})
	}
}

// TestFirewallLeavesNoTrace reads a host without any rules: no table may come
// from that.
func TestFirewallLeavesNoTrace(t *testing.T) {
	t.Parallel()
	host := newHost(t)
	if fw := readFirewall(t, host); len(fw.Chains) != 0 {
		t.Errorf("chains %v", fw.Chains)
	}
	if now := run(t, host, "nft", "list", "ruleset") + legacyTables(t, host); now != "" {
		t.Errorf("looking has made tables:\n%s", now)
	}
}
