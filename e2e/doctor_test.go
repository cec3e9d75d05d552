package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// ailment is something of a host that stands in the way of the protection.
type ailment struct {
	name string
	at   place    // where the service is; the zero value: behind the firewall
	args []string // more flags for doctor and apply
	make string   // shell commands that bring it about
	mend string   // and those that the hint asks for
	code string
	// names are parts of the message or the hint: the rule or setting, as a person would look for it.
	names    []string
	severity string // "error": connections break; "warning" and "info": they do not
	// unmended is what doctor may still say when it is mended, apart from errors.
	unmended bool
	// broken says that clients are out even without us.
	broken bool
}

func (a ailment) where() place {
	if a.at.hook == "" {
		return forward4
	}
	return a.at
}

var input4 = places[0]

// spoken lists the findings of an object, but not those that only inform, unless asked for.
func spoken(object map[string]any, all bool) []string {
	var said []string
	for _, each := range object["findings"].([]any) {
		f := each.(map[string]any)
		if all || f["severity"] != "info" {
			said = append(said, fmt.Sprintf("%s %s: %s (%s)", f["severity"], f["code"], f["message"], f["hint"]))
		}
	}
	return said
}

// says looks for the finding of the ailment, and checks that it is told well.
func (a ailment) says(t *testing.T, object map[string]any) {
	t.Helper()
	for _, each := range object["findings"].([]any) {
		f := each.(map[string]any)
		if f["code"] != a.code {
			continue
		}
		text := fmt.Sprint(f["message"], "\n", f["hint"])
		for _, name := range a.names {
			if object["command"] != "doctor" {
				name = strings.Split(name, ", rule 1")[0] // our own rule may have come before
			}
			if !strings.Contains(text, name) {
				t.Errorf("%s: %q is not named: %s", object["command"], name, text)
			}
		}
		if f["severity"] != a.severity {
			t.Errorf("%s: %s is told as %s, want %s", object["command"], a.code, f["severity"], a.severity)
		}
		if f["hint"] == "" {
			t.Errorf("%s: no hint: %v", object["command"], f)
		}
		return
	}
	t.Errorf("%s: %s is not told: %q", object["command"], a.code, spoken(object, true))
}

// flows checks that connections get through, or that none does.
func flows(t *testing.T, topo *lab.Topology, to netip.AddrPort, want bool) {
	t.Helper()
	const tries = 3
	cfg := lab.LoadConfig{Connections: tries, Concurrency: tries, Mode: lab.ClientFirst, Timeout: time.Second}
	if want {
		cfg.Timeout = 0
	}
	res := load(t, topo.Client, to, cfg)
	if want && res.OK != tries || !want && res.OK != 0 {
		t.Errorf("%d of %d connections got through: %v", res.OK, tries, res)
	}
}

func shell(t *testing.T, host *lab.Host, script string) {
	t.Helper()
	if script != "" {
		run(t, host, "sh", "-euc", script)
	}
}

func ailments() []ailment {
	const zoned, judging = "zone", "sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0; "
	return []ailment{
		{
			name: "INVALID drop in mangle PREROUTING",
			make: "iptables-nft -t mangle -A PREROUTING -m conntrack --ctstate INVALID -j DROP",
			mend: "iptables-nft -t mangle -D PREROUTING 1; iptables-nft -A FORWARD -m conntrack --ctstate INVALID -j DROP",
			code: "invalid-drop", severity: "error", names: []string{"iptables-nft ip mangle PREROUTING, rule 1: -A PREROUTING -m conntrack --ctstate INVALID -j DROP", "filter table"},
		},
		{
			name: "INVALID drop of iptables-legacy, by state", at: input4,
			make: "iptables-legacy -t mangle -A PREROUTING -m state --state INVALID -j DROP",
			mend: "iptables-legacy -t mangle -I PREROUTING -p tcp -d 10.77.1.1 --dport 80 -j ACCEPT",
			code: "invalid-drop", severity: "error", names: []string{"iptables-legacy ip mangle PREROUTING", "--state INVALID"},
		},
		{
			name: "INVALID drop in a chain of its own",
			make: "iptables-nft -t mangle -N BAD; iptables-nft -t mangle -A BAD -m conntrack --ctstate INVALID -j DROP; iptables-nft -t mangle -A PREROUTING -i eth0 -j BAD",
			mend: "iptables-nft -t mangle -I BAD -p tcp -d 10.77.2.2 --dport 80 -j RETURN",
			args: []string{"--interface", "eth0"}, unmended: true,
			code: "invalid-drop", severity: "error", names: []string{"mangle BAD, rule 1", "--ctstate INVALID"},
		},
		{
			name: "INVALID drop in nft's prerouting",
			make: "nft 'table inet own { chain pre { type filter hook prerouting priority mangle; ct state invalid drop; }; }'",
			mend: "nft insert rule inet own pre ip daddr 10.77.2.2 tcp dport 80 accept",
			code: "invalid-drop", severity: "error", names: []string{"nft inet own pre, rule 1", "ct state invalid drop"},
		},
		{
			name: "INVALID drop in an early input chain of nft", at: input4,
			make: "nft 'table ip own { chain in { type filter hook input priority -160; ct state vmap { invalid : drop, new : accept }; }; }'",
			mend: "nft insert rule ip own in tcp dport 80 accept",
			code: "invalid-drop", severity: "error", names: []string{"nft ip own in, rule 1"},
		},
		{
			name: "INVALID drop in an early forward chain of nft",
			make: "nft 'table inet own { chain way { type filter hook forward priority -160; ct state != { new, established, related } drop; }; }'",
			mend: "nft delete table inet own",
			code: "invalid-drop", severity: "error", names: []string{"nft inet own way, rule 1"},
		},
		{
			name: "zone", make: "iptables-nft -t raw -A PREROUTING -i eth0 -j CT --zone 7", args: []string{"--interface", "eth0"}, unmended: true,
			mend: "iptables-nft -t raw -I PREROUTING -p tcp -d 10.77.2.2 --dport 80 -j ACCEPT",
			code: zoned, severity: "error", names: []string{"-j CT --zone 7"},
		},
		{
			name: "zone by nft", at: input4, make: "nft 'table ip own { chain pre { type filter hook prerouting priority raw; tcp dport 80 ct zone set 3; }; }'",
			mend: "nft delete table ip own",
			code: zoned, severity: "error", names: []string{"nft ip own pre, rule 1", "ct zone set"},
		},
		{
			name: "not tracked at all", make: "iptables-nft -t raw -A PREROUTING -p tcp --dport 80 -j CT --notrack; iptables-nft -t raw -A PREROUTING -p tcp --sport 80 -j CT --notrack",
			mend: "iptables-nft -t raw -I PREROUTING -p tcp -d 10.77.2.2 --dport 80 -j ACCEPT; iptables-nft -t raw -I PREROUTING -p tcp -s 10.77.2.2 --sport 80 -j ACCEPT",
			code: "notrack", severity: "error", names: []string{"-j CT --notrack"},
		},
		{
			name: "anti-spoofing in OUTPUT",
			make: "iptables-nft -t mangle -A OUTPUT -m addrtype ! --src-type LOCAL -j DROP",
			mend: "iptables-nft -t mangle -I OUTPUT -p tcp -d 10.77.2.2 --dport 80 -j ACCEPT; iptables-nft -t mangle -I OUTPUT -p tcp -s 10.77.2.2 --sport 80 -j ACCEPT",
			code: "output-drop", severity: "error", names: []string{"mangle OUTPUT, rule 1", "! --src-type LOCAL -j DROP"},
		},
		{
			name: "anti-spoofing by nft in output", at: input4,
			make: "nft 'table inet own { chain out { type filter hook output priority filter; fib saddr type != local drop; }; }'",
			mend: "nft insert rule inet own out ip daddr 10.77.1.1 tcp dport 80 accept",
			code: "output-drop", severity: "error", names: []string{"nft inet own out, rule 1", "fib saddr type"},
		},
		{
			name: "anti-spoofing on lo", at: input4,
			make: "iptables-nft -t raw -A PREROUTING -i lo ! -s 127.0.0.0/8 -j DROP",
			mend: "iptables-nft -t raw -I PREROUTING -i lo -p tcp -d 10.77.1.1 --dport 80 -j ACCEPT",
			code: "lo-spoof-drop", severity: "error", names: []string{"raw PREROUTING, rule 1", "-i lo -j DROP"},
		},
		{
			name: "anti-spoofing by nft on lo", at: input4,
			make: `nft 'table inet own { chain in { type filter hook input priority filter; iifname "lo" ip saddr != 127.0.0.0/8 drop; }; }'`,
			mend: `nft insert rule inet own in iifname lo tcp dport 80 accept`,
			code: "lo-spoof-drop", severity: "error", names: []string{"nft inet own in, rule 1", "ip saddr != 127.0.0.0/8"},
		},
		{
			name: "answers denied", args: []string{"--mode", "notrack"},
			make: "nft 'table inet own { chain out { type filter hook output priority 10; ct state { invalid, untracked } drop; }; }'",
			mend: "nft insert rule inet own out ip saddr 10.77.2.2 tcp sport 80 accept",
			code: "synack-drop", severity: "error", names: []string{"nft inet own out, rule 1"},
		},
		{
			name: "untracked SYNs denied", args: []string{"--mode", "notrack"},
			make: "iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables-nft -A FORWARD -p tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT",
			mend: "iptables-nft -R FORWARD 2 -p tcp --dport 80 -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT",
			code: "notrack-denied", severity: "error", names: []string{"filter FORWARD", "policy drop"},
		},
		{
			name: "not tracked, but denied by source", args: []string{"--mode", "notrack"},
			make: "iptables-nft -A FORWARD -s 10.77.3.0/24 -j DROP", mend: "iptables-nft -D FORWARD 1",
			code: "mode", severity: "warning", names: []string{"-s 10.77.3.0/24 -j DROP"},
		},
		{
			name: "the service is denied", broken: true,
			make: "iptables-nft -A FORWARD -p tcp --dport 80 -j DROP", mend: "iptables-nft -D FORWARD 1",
			code: "service-denied", severity: "warning", names: []string{"filter FORWARD, rule 1", "--dport 80 -j DROP"},
		},
		{
			name: "the service is denied early", broken: true,
			make: "iptables-nft -t raw -A PREROUTING -p tcp --dport 80 -j DROP", mend: "iptables-nft -t raw -D PREROUTING -p tcp --dport 80 -j DROP",
			code: "service-denied", severity: "warning", names: []string{"raw PREROUTING, rule 1", "--dport 80 -j DROP"},
		},
		{
			name: "not forwarding", broken: true,
			make: "sysctl -qw net.ipv4.ip_forward=0", mend: "sysctl -qw net.ipv4.ip_forward=1",
			code: "not-forwarding", severity: "warning", names: []string{"net.ipv4.ip_forward"},
		},
		{
			name: "multi-WAN", at: forward4,
			make: "ip rule add fwmark 1 lookup 100; ip route add 10.77.1.0/24 dev eth0 table 100; ip route del 10.77.1.0/24; ip route add 10.77.1.0/24 dev eth2; " +
				"iptables-nft -t mangle -A PREROUTING -i eth0 -j CONNMARK --set-mark 1; iptables-nft -t mangle -A PREROUTING -i eth1 -j CONNMARK --restore-mark",
			mend: "iptables-nft -t mangle -A OUTPUT -p tcp -s 10.77.2.2 --sport 80 -j MARK --set-mark 1; iptables-nft -t mangle -A OUTPUT -p tcp -d 10.77.2.2 --dport 80 -j CONNMARK --set-mark 1",
			code: "fwmark-routing", severity: "error", names: []string{"fwmark 0x1 lookup 100", "mangle PREROUTING, rule 1", "CONNMARK"},
		},
		{
			name: "routes by the interface that answers come in by",
			make: "ip rule add iif eth1 lookup 100; ip route add 10.77.1.0/24 dev eth0 table 100; ip route del 10.77.1.0/24",
			mend: "ip route add 10.77.1.0/24 dev eth0",
			code: "no-main-route", severity: "error", names: []string{"iif eth1 lookup 100"}, unmended: true,
		},
		{
			name: "asymmetric routes",
			make: "ip route add default via 10.77.2.99", mend: "ip route replace default via 10.77.3.2",
			code: "asymmetric-route", severity: "warning", names: []string{"eth1"},
		},
		{
			name: "another interface than the clients'", args: []string{"--interface", "eth0"}, unmended: true,
			make: "ip route add default via 10.77.3.2", mend: "ip route replace default via 10.77.1.2",
			code: "asymmetric-route", severity: "warning", names: []string{"eth0", "eth2"},
		},
		{
			name: "SYN cookies always", at: input4,
			make: "sysctl -qw net.ipv4.tcp_syncookies=2", mend: "sysctl -qw net.ipv4.tcp_syncookies=1",
			code: "backend-syn-cookies-always", severity: "warning", names: []string{"net.ipv4.tcp_syncookies=2"},
		},
		{
			name: "no timestamps", at: input4,
			make: "sysctl -qw net.ipv4.tcp_timestamps=0", mend: "sysctl -qw net.ipv4.tcp_timestamps=1",
			code: "no-timestamps-here", severity: "warning", names: []string{"net.ipv4.tcp_timestamps=1"},
		},
		{
			name: "another SYNPROXY of iptables", at: input4,
			make: judging + "iptables-nft -t raw -A PREROUTING -i eth0 -p tcp --dport 80 --syn -j CT --notrack; " +
				"iptables-nft -A INPUT -i eth0 -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460",
			mend: "iptables-nft -t raw -D PREROUTING -i eth0 -p tcp --dport 80 --syn -j CT --notrack; " +
				"iptables-nft -D INPUT -i eth0 -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460",
			code: "another-synproxy", severity: "warning", names: []string{"filter INPUT, rule 1", "-j SYNPROXY"},
		},
		{
			name: "another SYNPROXY of nft",
			make: judging + "nft 'table ip own { chain pre { type filter hook prerouting priority raw; iifname eth0 tcp dport 80 tcp flags syn notrack; }; " +
				"chain way { type filter hook forward priority filter; iifname eth0 tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm; }; }'",
			mend: "nft delete table ip own",
			code: "another-synproxy", severity: "warning", names: []string{"nft ip own way, rule 1", "synproxy"},
		},
		{
			name: "another SYNPROXY, an object of nft",
			make: judging + "nft 'table ip own { synproxy web { mss 1460; wscale 7; timestamp sack-perm; }; " +
				"chain pre { type filter hook prerouting priority raw; iifname eth0 tcp dport 80 tcp flags syn notrack; }; " +
				"chain way { type filter hook forward priority filter; iifname eth0 tcp dport 80 ct state invalid,untracked synproxy name web; }; }'",
			mend: "nft delete table ip own",
			code: "another-synproxy", severity: "warning", names: []string{"nft ip own way, rule 1", "synproxy"},
		},
		{
			name: "kube-proxy", make: "iptables-nft -N KUBE-FORWARD; iptables-nft -A FORWARD -j KUBE-FORWARD; iptables-nft -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
			mend: "iptables-nft -F FORWARD; iptables-nft -F KUBE-FORWARD; iptables-nft -X KUBE-FORWARD",
			code: "kube-proxy", severity: "warning", names: []string{"KUBE-FORWARD"},
		},
		{
			name: "Cilium", make: "iptables-nft -N CILIUM_FORWARD; iptables-nft -A FORWARD -j CILIUM_FORWARD",
			mend: "iptables-nft -F FORWARD; iptables-nft -X CILIUM_FORWARD",
			code: "cilium", severity: "warning", names: []string{"CILIUM_FORWARD"},
		},
	}
}

// TestDoctor makes each ailment, on a host without the protection and on one with it.
func TestDoctor(t *testing.T) {
	t.Parallel()
	for _, a := range ailments() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel() // most of the time goes by in waiting
			topo := newTopology(t)
			web := a.where().serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			fw := topo.Firewall
			words := append([]string{web.String(), "--backend", rules.NFT}, a.args...)
			doctor, apply := append([]string{"doctor"}, words...), append([]string{"apply"}, words...)
			apply = append(apply, given...)
			ill := a.severity == "error"
			exit := func(status int) int {
				if ill {
					return status
				}
				return 0
			}
			if said := spoken(mustDo(t, fw, 0, doctor...), false); said != nil && !a.unmended {
				t.Errorf("a healthy host: %q", said)
			}

			shell(t, fw, a.make)
			a.says(t, mustDo(t, fw, exit(honestNo), doctor...))
			flows(t, topo, web, !a.broken)
			before := dump(t, fw)
			done := mustDo(t, fw, exit(unsupported), apply...)
			if ill {
				fault := done["error"].(map[string]any)
				for _, name := range append(slices.Clone(a.names[:1]), "--force") {
					if text := fmt.Sprint(fault["message"], fault["hint"]); !strings.Contains(text, name) {
						t.Errorf("the refusal does not name %q: %s", name, text)
					}
				}
				sameDump(t, before, dump(t, fw))
				a.says(t, mustDo(t, fw, 0, append(apply, "--force")...))
			} else {
				a.says(t, done)
			}
			flows(t, topo, web, !ill && !a.broken)
			// It may have come after apply, too: verify then says it, since what the rules are is as it was.
			a.says(t, mustDo(t, fw, exit(honestNo), "verify"))
			shell(t, fw, a.mend)
			// A rule of the mend may have come before ours.
			mustDo(t, fw, 0, append(apply, "--no-verify")...)
			mustDo(t, fw, 0, "verify")
			if said := spoken(mustDo(t, fw, 0, doctor...), false); said != nil && !a.unmended {
				t.Errorf("mended: %q", said)
			}
			flows(t, topo, web, true)
			mustDo(t, fw, 0, "revert", "--now")
		})
	}
}
