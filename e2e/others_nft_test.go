package e2e

import (
	"fmt"
	"testing"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// nftGuard is a usual rule set of nf_tables at a priority: the friend and the flood get in.
const nftGuard = `table inet theirs {
	chain guard {
		type filter hook $HOOK priority %s; policy drop
		ct state established,related accept
		ct state invalid drop
		iifname "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
		$IP saddr { $FRIEND, $FLOOD } tcp dport { 25, 80 } ct state new accept
	}
}
`

// nftGuards are base chains of others. Each lets the friend in and denies the foe.
var nftGuards = []struct {
	name, rules string
}{
	{name: "at filter", rules: fmt.Sprintf(nftGuard, "filter")},
	{name: "before filter", rules: fmt.Sprintf(nftGuard, "-10")},
	{name: "after filter", rules: fmt.Sprintf(nftGuard, "filter + 20")},
	{name: "deny in prerouting", rules: `table inet theirs {
	chain pre { type filter hook prerouting priority raw - 10; $IP saddr $FOE tcp flags syn drop; }
	chain other { type filter hook prerouting priority raw; udp dport 53 notrack; tcp dport 9 notrack; }
	chain back { type filter hook output priority raw; udp sport 53 notrack; tcp sport 9 notrack; }
}`},
	{name: "no sources from elsewhere", rules: `table inet theirs {
	chain pre {
		type filter hook prerouting priority raw + 10; policy accept
		fib saddr . mark . iif oif missing drop
		$IP saddr $FOE drop
	}
}`},
	{name: "deny at ingress", rules: `table netdev theirs {
	chain in { type filter hook ingress device eth2 priority 0; $IP saddr $FOE drop; }
}`},
	{name: "output drop that lets the proxy out", rules: fmt.Sprintf(nftGuard, "filter") + `table inet theirs {
	chain out {
		type filter hook output priority filter; policy drop
		ct state established,related accept
		meta l4proto ipv6-icmp accept
		fib saddr type local accept
		$IP daddr $SERVICE tcp dport { 25, 80 } accept
	}
}`},
	{name: "new without SYN", rules: `table inet theirs {
	set foes { type $TYPE; flags interval; elements = { $FOE } }
	chain guard {
		type filter hook $HOOK priority filter; policy accept
		tcp flags & (fin | syn | rst | ack) != syn ct state new drop
		$IP saddr @foes reject with tcp reset
	}
}`},
}

// TestOthersNFT protects services behind base chains of others.
func TestOthersNFT(t *testing.T) {
	t.Parallel()
	for i, g := range nftGuards {
		t.Run(g.name, func(t *testing.T) {
			twoStands(t, i, func(s *stand) {
				s.nft(g.rules)
				s.asBefore(true, func() { s.apply() })
				if i == 0 {
					s.flooded()
				}
			})
		})
	}
}

// blockers are rules of others behind which no protection of this kind can work: they drop what only the proxy sends
// or needs. Those that are in the tables of xtables at a place that we come before are none.
var blockers = []struct {
	name, rules string
	nft         bool
	hook        rules.Hook
}{
	{name: "INVALID dropped in mangle PREROUTING", hook: rules.Forward, rules: "*mangle\n-A PREROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"},
	{name: "invalid dropped in prerouting", nft: true, hook: rules.Input, rules: `table inet theirs { chain pre { type filter hook prerouting priority filter; ct state invalid drop; }; }`},
	{name: "invalid dropped ahead of mangle", nft: true, hook: rules.Input, rules: `table inet theirs { chain in { type filter hook input priority mangle - 10; ct state invalid drop; }; }`},
	{name: "output dropped", nft: true, hook: rules.Forward, rules: `table inet theirs { chain out {
	type filter hook output priority filter; policy drop
	ct state established,related accept
	meta l4proto ipv6-icmp accept
	fib saddr type local accept
}; }`},
	{name: "output of sockets alone", nft: true, hook: rules.Forward, rules: `table inet theirs { chain out {
	type filter hook output priority filter; policy drop
	meta skuid >= 0 accept
	meta l4proto ipv6-icmp accept
	tcp flags & rst == rst accept
}; }`},
	{name: "new on lo dropped", nft: true, hook: rules.Input, rules: `table inet theirs { chain in {
	type filter hook input priority filter; policy drop
	ct state established,related accept
	meta l4proto ipv6-icmp accept
	iifname { eth0, eth2 } tcp dport { 25, 80 } ct state new accept
	fib saddr type local accept
}; }`},
	{name: "SYN accepted untracked", hook: rules.Forward, rules: "*raw\n-A PREROUTING -p tcp --dport 80 -j CT --notrack\n-A PREROUTING -p tcp --dport 25 -j CT --notrack\nCOMMIT\n"},
	{name: "zone", hook: rules.Forward, rules: "*raw\n-A PREROUTING -i eth0 -j CT --zone 7\nCOMMIT\n"},
	{name: "foreign sources dropped in OUTPUT of raw", hook: rules.Input, rules: "*raw\n-A OUTPUT -m addrtype ! --src-type LOCAL -j DROP\nCOMMIT\n"},
}

// TestOthersBlockers shows what must be found and told, since it breaks the service: without the protection the friend is served.
func TestOthersBlockers(t *testing.T) {
	t.Parallel()
	for i, b := range blockers {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, place{b.hook, rules.Families[i%2]}, []string{rules.NFT, rules.NFTables}[i/2%2])
			if b.nft {
				s.nft(b.rules)
			} else {
				s.xtables(b.rules)
			}
			if served, _ := s.getsIn(s.Client); !served {
				s.Fatal("unprotected, the friend is not served")
			}
			stdout, stderr, exit := synproxyctl(s, s.Firewall, "apply", s.web.String(), s.mail.String(), "--backend", s.backend)
			served, answered := s.getsIn(s.Client)
			s.Logf("apply: exit %d, then served %v, SYN+ACK %v", exit, served, answered)
			if exit == 0 && served {
				s.Errorf("it is no blocker any more\n%s%s", stdout, stderr)
			}
		})
	}
}

// TestLaterDenials shows the limit of what is honoured: rules for new connections that come after the SYN is answered
// deny nobody. iptables-nft has the security table at the priority 150, the kernel and iptables-legacy at 50, and the
// backend nftables answers at 200.
func TestLaterDenials(t *testing.T) {
	const late = `table inet theirs { chain late { type filter hook $HOOK priority %d; $IP saddr $FOE ct state new drop; }; }`
	for _, c := range []struct {
		name, backend, nft string
		served, answered   bool
	}{
		{"security table", rules.NFT, "", true, true},
		{"base chain at 60", rules.NFT, fmt.Sprintf(late, 60), false, false},
		{"base chain at 60", rules.Legacy, fmt.Sprintf(late, 60), true, true},
		{"base chain at 160", rules.NFT, fmt.Sprintf(late, 160), true, true},
		{"security table", rules.NFTables, "", false, false},
		{"base chain at 160", rules.NFTables, fmt.Sprintf(late, 160), false, false},
		{"base chain at 210", rules.NFTables, fmt.Sprintf(late, 210), true, true},
	} {
		t.Run(c.name+" "+c.backend, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, place{rules.Forward, rules.IPv4}, c.backend)
			if c.nft != "" {
				s.nft(c.nft)
			} else {
				s.xtables("*security\n-A $CHAIN -s $FOE -m conntrack --ctstate NEW -j DROP\nCOMMIT\n")
			}
			if served, _ := s.getsIn(s.Attacker); served {
				s.Fatal("unprotected, the foe is served")
			}
			s.apply()
			s.served()
			if served, answered := s.getsIn(s.Attacker); served != c.served || answered != c.answered {
				s.Errorf("the foe: served %v, SYN+ACK %v, want %v and %v", served, answered, c.served, c.answered)
			}
		})
	}
}
