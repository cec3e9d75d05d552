package e2e

// firewalldLike has the chains and priorities that firewalld 1.3 makes with its
// backend nftables for the zone public, one more port and one rich rule.
const firewalldLike = `
table inet firewalld {
	chain mangle_PREROUTING {
		type filter hook prerouting priority mangle + 10; policy accept;
		jump mangle_PREROUTING_ZONES
	}
	chain mangle_PREROUTING_ZONES { iifname "eth0" goto mangle_PRE_public; goto mangle_PRE_public; }
	chain mangle_PRE_public { return; }
	chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; }
	chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept; }
	chain filter_PREROUTING {
		type filter hook prerouting priority filter + 10; policy accept;
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop
	}
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24, 2002:a00::/24 } reject with icmpv6 addr-unreachable
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_OUTPUT {
		type filter hook output priority filter + 10; policy accept;
		ct state { established, related } accept
		oifname "lo" accept
		ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24, 2002:a00::/24 } reject with icmpv6 addr-unreachable
	}
	chain filter_INPUT_ZONES {
		ip saddr 10.77.9.0/24 goto filter_IN_drop
		iifname "eth0" goto filter_IN_public
		goto filter_IN_public
	}
	chain filter_FORWARD_ZONES { iifname "eth0" goto filter_FWD_trusted; goto filter_FWD_public; }
	chain filter_FWD_trusted { accept; }
	chain filter_FWD_public { reject with icmpx admin-prohibited; }
	chain filter_IN_drop { drop; }
	chain filter_IN_public {
		jump filter_IN_public_deny
		jump filter_IN_public_allow
		meta l4proto { icmp, ipv6-icmp } accept
		reject with icmpx admin-prohibited
	}
	chain filter_IN_public_deny { ip saddr 10.77.3.0/24 drop; ip6 saddr fd77:3::/64 drop; }
	chain filter_IN_public_allow {
		tcp dport 22 ct state { new, untracked } accept
		tcp dport 80 ct state { new, untracked } accept
		ip6 daddr fe80::/64 udp dport 546 ct state { new, untracked } accept
	}
}
`

// handMade are rule sets as administrators write them, each of which tries some
// conditions. The chains stand where they decide alone.
var handMade = []struct {
	name, program, rules string
	v6                   bool
	depends              string
	passing              int // of the 18 packets
}{
	{name: "addresses", program: nftFile, passing: 8, rules: `
table ip t {
	set deny { type ipv4_addr; flags interval; elements = { 10.77.3.0/24, 192.0.2.0-192.0.2.9 } }
	chain a { type filter hook prerouting priority -310; ip saddr @deny drop; }
	chain b { type filter hook input priority 5; ip saddr != 10.0.0.0/8 drop; }
	chain c { type filter hook forward priority 5; ip saddr 10.77.1.2 ip daddr 10.77.2.2 accept; drop; }
	chain d { type filter hook output priority 5; ip saddr 198.51.100.0-198.51.100.9 ip daddr 10.77.1.0/25 tcp dport 80 drop; }
}`},
	{name: "addresses of IPv6", program: nftFile, v6: true, passing: 8, rules: `
table inet t {
	set deny { type ipv6_addr; flags interval; elements = { fd77:3::/64 } }
	chain a { type filter hook prerouting priority -310; ip6 saddr @deny drop; ip saddr 0.0.0.0/0 drop; }
	chain b { type filter hook input priority 5; ip6 saddr != fd77::/16 drop; }
	chain c { type filter hook forward priority 5; ip6 saddr fd77:1::2 ip6 daddr fd77:2::2 accept; drop; }
	chain d { type filter hook output priority 5; ip6 saddr 2001:db8::/32 ip6 daddr fd77:1::/64 tcp dport 80 drop; }
}`},
	{name: "ports and flags", program: nftFile, passing: 8, rules: `
table inet t {
	chain a { type filter hook input priority 0; tcp dport { 22, 80, 443 } tcp flags & (fin | syn | rst | ack) == syn accept; tcp dport != 81 drop; tcp flags ack drop; }
	chain b { type filter hook forward priority 0; tcp sport 1024-65535 tcp dport 80 tcp flags syn accept; tcp sport 1-65535 drop; }
	chain c { type filter hook output priority 0; th dport 1-80 tcp flags ! syn drop; tcp dport > 80 drop; }
}`},
	{name: "states", program: nftFile, passing: 8, rules: `
table inet t {
	chain a { type filter hook prerouting priority -150; ct state vmap { established : accept, related : accept, invalid : goto bad }; }
	chain bad { iifname "eth0" drop; tcp dport 81 accept; iif "eth2" drop; }
	chain b { type filter hook input priority 0; policy drop; ct state { new, established } iifname { "eth0", "lo" } tcp dport 80 accept; ct state new,untracked tcp dport 81 accept; }
	chain c { type filter hook output priority 0; ct state != new drop; }
	chain d { type filter hook forward priority 0; ct state invalid,untracked drop; }
}`},
	{name: "no tracking", program: nftFile, passing: 9, rules: `
table inet t {
	chain a { type filter hook prerouting priority raw; tcp dport 80 notrack; }
	chain b { type filter hook output priority raw; oifname "eth1" notrack; }
	chain c { type filter hook input priority 0; ct state untracked drop; ct state invalid drop; }
	chain d { type filter hook forward priority 0; ct state new drop; ct state invalid drop; }
	chain e { type filter hook output priority 0; ct state untracked tcp flags syn drop; }
}`},
	{name: "before tracking all is INVALID", program: nftFile, passing: 6, rules: `
table inet t {
	chain a { type filter hook prerouting priority raw; ct state new drop; ct state invalid iifname "eth0" drop; }
	chain b { type filter hook output priority raw; ct state invalid tcp dport 81 drop; ct state { new, established } drop; }
	chain c { type filter hook input priority 0; ct state invalid drop; }
}`},
	{name: "maps", program: nftFile, passing: 8, rules: `
table inet t {
	map doors { type ipv4_addr . inet_service : verdict; elements = { 10.77.1.1 . 80 : accept, 10.77.1.1 . 81 : drop, 10.77.2.2 . 80 : jump some } }
	map who { type ipv4_addr : verdict; flags interval; elements = { 10.77.1.0/24 : accept, 198.51.100.0/24 : drop } }
	set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.77.0.0/16 . 1-80 } }
	chain some { ip saddr vmap @who; drop; }
	chain a { type filter hook input priority 0; policy drop; ip daddr . tcp dport vmap @doors; }
	chain b { type filter hook forward priority 0; policy drop; ip daddr . tcp dport vmap @doors; }
	chain c { type filter hook output priority 0; ip daddr . tcp dport != @pairs drop; meta l4proto tcp ct state vmap { new : accept, invalid : drop, * : accept }; }
}`},
	{name: "routes", program: nftFile, passing: 8, rules: `
table inet t {
	chain a { type filter hook prerouting priority 0; fib daddr type local tcp dport 81 drop; fib daddr type { broadcast, multicast } drop; }
	chain b { type filter hook forward priority 0; fib saddr type local drop; iifname "eth*" oifname "eth1" tcp flags ack drop; }
	chain c { type filter hook output priority 0; fib saddr type != local tcp flags ack drop; oif "lo" fib daddr type unicast drop; }
}`},
	{name: "not hooked", program: nftFile, passing: 18, rules: `
table inet t { flags dormant; chain a { type filter hook input priority 0; policy drop; }; }
table inet u { chain a { drop; }; }
table inet v { chain a { type filter hook input priority 0; policy accept; return; drop; }; }
`},
	{name: "what only the kernel knows", program: nftFile, depends: "(", rules: `
table inet t {
	set seen { type ipv4_addr; flags dynamic; timeout 1m; }
	chain a { type filter hook input priority 0; tcp dport 80 limit rate 1/minute burst 2 packets accept; tcp dport 80 meta length > 1000 drop; }
	chain b { type filter hook forward priority 0; update @seen { ip saddr limit rate over 1/minute burst 1 packets } drop; }
	chain c { type filter hook output priority 0; meta skuid 4242 drop; ct count over 1 drop; }
}`},
	{name: "iptables", program: iptablesFile, passing: 8, rules: `*raw
:PREROUTING ACCEPT
-A PREROUTING -i eth2 -p tcp -m multiport --dports 80,443 -m addrtype --dst-type LOCAL -j DROP
COMMIT
*mangle
:PREROUTING ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
-A PREROUTING -i eth+ -p tcp -m tcp ! --dport 81 -m conntrack --ctstate INVALID -j DROP
-A FORWARD ! -s 10.77.1.0/25 -o eth1 -j DROP
-A OUTPUT -m addrtype ! --src-type LOCAL ! -o lo -j DROP
COMMIT
*filter
:INPUT DROP
:ours - [0:0]
-A INPUT -i lo ! -s 127.0.0.0/8 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -g ours
-A INPUT -p tcp -m tcp --dport 80:81 -j ours
-A ours -m iprange --src-range 10.77.1.2-10.77.3.9 -j ACCEPT
-A ours -p tcp -m tcp --dport 80 -j ACCEPT
-A ours -j RETURN
COMMIT
`},
	{name: "iptables-legacy", program: legacyFile, passing: 9, rules: `*security
:INPUT ACCEPT
:FORWARD ACCEPT
-A INPUT -m state --state INVALID -j DROP
-A FORWARD -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP
COMMIT
*raw
:OUTPUT ACCEPT
-A OUTPUT -p tcp -m tcp --dport 81 -j CT --notrack
COMMIT
*filter
:INPUT ACCEPT
-A INPUT -m conntrack --ctstate UNTRACKED -j REJECT
COMMIT
`},
	{name: "ip6tables", program: ip6tablesFile, v6: true, passing: 14, rules: `*filter
:INPUT DROP
-A INPUT -d fd77:1::1/128 -s fd77::/16 -p tcp -m tcp --dport 80 -j ACCEPT
-A INPUT -s 2001:db8::/ffff:ffff:: -p tcp -j ACCEPT
COMMIT
*raw
:PREROUTING ACCEPT
-A PREROUTING -m rpfilter --invert -j DROP
COMMIT
`, depends: "rpfilter"},
}

const (
	nftFile       = "nft -f -"
	iptablesFile  = "iptables-nft-restore"
	legacyFile    = "iptables-legacy-restore"
	ip6tablesFile = "ip6tables-nft-restore"
)
