package rules_test

import (
	"fmt"
	"net/netip"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

func web(mss uint16) rules.Service {
	wscale := uint8(7)
	return rules.Service{
		Destination: netip.MustParsePrefix("192.0.2.42/32"),
		Port:        443,
		Hook:        rules.Forward,
		Interfaces:  []string{"eth0"},
		Options:     rules.Options{MSS: &mss, WScale: &wscale, SACKPerm: true, Timestamps: true},
		First:       rules.FirstClient,
	}
}

// From a service to the rules that protect it.
func ExamplePolicy_Rules() {
	policy := rules.Policy{Services: []rules.Service{web(1460)}}
	if err := policy.Validate(); err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range policy.Rules(rules.NFT) {
		fmt.Println("-t", r.Table, "-A", r.Chain, r)
	}
	// Output:
	// -t mangle -A FORWARD -j SYNPROXYCTL_FWD
	// -t mangle -A OUTPUT -j SYNPROXYCTL_OUT
	// -t filter -A OUTPUT -j SYNPROXYCTL_OUT
	// -t security -A FORWARD -j SYNPROXYCTL_FWD
	// -t security -A SYNPROXYCTL_FWD -d 192.0.2.42/32 -i eth0 -p tcp -m tcp --dport 443 --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW,UNTRACKED -m conntrack ! --ctstate DNAT -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460
	// -t mangle -A SYNPROXYCTL_FWD -d 192.0.2.42/32 -i eth0 -p tcp -m tcp --dport 443 --tcp-flags FIN,SYN,RST,ACK ACK -m conntrack --ctstate INVALID -j SYNPROXY
	// -t mangle -A SYNPROXYCTL_FWD -d 192.0.2.42/32 -i eth0 -p tcp -m tcp --dport 443 -m conntrack --ctstate INVALID -j DROP
	// -t mangle -A SYNPROXYCTL_OUT -d 192.0.2.42/32 -p tcp -m tcp --dport 443 --tcp-flags FIN,SYN,RST,ACK ACK -m addrtype ! --src-type LOCAL -m owner ! --socket-exists -j DROP
	// -t filter -A SYNPROXYCTL_OUT -d 192.0.2.42/32 -p tcp -m tcp --dport 443 -m addrtype ! --src-type LOCAL -m owner ! --socket-exists -j ACCEPT
	// -t filter -A SYNPROXYCTL_OUT -s 192.0.2.42/32 -p tcp -m tcp --sport 443 -m owner ! --socket-exists -j ACCEPT
	// -t filter -A SYNPROXYCTL_ANCHOR -p tcp -j SYNPROXY
}

// From one policy to the next: the new rule is there before the old one goes,
// and all other rules stay untouched.
func ExamplePlan() {
	have := rules.Policy{Services: []rules.Service{web(1460)}}.Ruleset(rules.NFT)
	want := rules.Policy{Services: []rules.Service{web(1400)}}.Ruleset(rules.NFT)
	for _, step := range rules.Plan(have, want) {
		fmt.Print(step.Family, " ", step.Script())
	}
	// Output:
	// ipv4 *security
	// -I SYNPROXYCTL_FWD 1 -d 192.0.2.42/32 -i eth0 -p tcp -m tcp --dport 443 --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW,UNTRACKED -m conntrack ! --ctstate DNAT -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1400
	// COMMIT
	// ipv4 *security
	// -D SYNPROXYCTL_FWD 2
	// COMMIT
}

// A listing of the kernel's rules, compared with what should be there.
func ExampleCompare() {
	const saved = `*filter
:INPUT ACCEPT [0:0]
:SYNPROXYCTL_IN - [0:0]
-A INPUT -p icmp -j ACCEPT
-A INPUT -j SYNPROXYCTL_IN
COMMIT
`
	dump, err := rules.ParseSave(rules.IPv4, "", []byte(saved))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range rules.Compare(rules.Extract(dump), rules.Ruleset{}) {
		fmt.Println(d)
	}
	// Output:
	// ipv4 filter INPUT: jump at position 2 is too many: -j SYNPROXYCTL_IN
	// ipv4 filter SYNPROXYCTL_IN: chain is left over
}
