package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/firewall"
	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// ourRules are those of a protected service in the places that package firewall
// takes for granted. C is the hook, A the address.
func ourRules(hook, address string, tracked bool) string {
	const synproxy = "-j SYNPROXY --sack-perm --timestamp --mss 1460 --wscale 7\n"
	service := "-p tcp -d " + address + " --dport 80 "
	notrack, state := "", "NEW"
	if !tracked {
		notrack, state = "-A SYNPROXYCTL ! -i lo "+service+"--tcp-flags FIN,SYN,RST,ACK SYN -j CT --notrack\n", "UNTRACKED"
	}
	table := func(name, lines string, hooks ...string) string {
		text := "*" + name + "\n"
		for _, h := range hooks {
			text += ":SYNPROXYCTL-" + h + " -\n"
		}
		for _, h := range hooks {
			text += "-I " + h + " 1 -j SYNPROXYCTL-" + h + "\n"
		}
		return text + lines + "COMMIT\n"
	}
	c := "-A SYNPROXYCTL-" + hook + " ! -i lo " + service
	return table("raw", strings.ReplaceAll(notrack, "SYNPROXYCTL", "SYNPROXYCTL-PREROUTING"), "PREROUTING") +
		table("mangle", c+"--tcp-flags FIN,SYN,RST,ACK ACK -m conntrack --ctstate INVALID "+synproxy+
			c+"-m conntrack --ctstate INVALID -j DROP\n"+
			"-A SYNPROXYCTL-OUTPUT "+service+"--tcp-flags FIN,SYN,RST,ACK ACK -m addrtype ! --src-type LOCAL -j TCPOPTSTRIP --strip-options timestamp\n",
			hook, "OUTPUT") +
		table("security", c+"--tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate "+state+" "+synproxy, hook) +
		table("filter", "-A SYNPROXYCTL-OUTPUT "+service+"-m addrtype ! --src-type LOCAL -j ACCEPT\n"+
			"-A SYNPROXYCTL-OUTPUT -p tcp -s "+address+" --sport 80 -m owner ! --socket-exists -j ACCEPT\n"+
			"-A SYNPROXYCTL-INPUT -i lo "+service+"-j ACCEPT\n", "INPUT", "OUTPUT")
}

// TestFirewallBlockers puts SYNPROXY on a host with rules of others, and
// connects: it must fail if and only if a blocker was found.
func TestFirewallBlockers(t *testing.T) {
	t.Parallel()
	const strict = `*filter
:INPUT DROP
:FORWARD DROP
:OUTPUT DROP
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -s 10.77.1.0/24 -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
COMMIT
`
	const in, inUntracked, fwd, fwdUntracked = "in", "in-untracked", "fwd", "fwd-untracked"
	for _, tt := range []struct {
		name, program, rules string
		blocked              []string // the kinds of services that do not work, or with a "-" work unprotected
	}{
		{"nothing", nftFile, "", nil},
		{"ufw", iptablesFile, testdata(t, "ufw.save"), []string{fwd, fwdUntracked}},
		{"firewalld", nftFile, firewalldLike, nil},
		{"strict", iptablesFile, strict, []string{inUntracked, fwdUntracked}},
		{"INVALID in filter", nftFile, "table inet t { chain a { type filter hook input priority 0; ct state invalid drop; }; chain b { type filter hook forward priority -1; ct state invalid drop; }; }", nil},
		{"INVALID in prerouting", iptablesFile, "*mangle\n-A PREROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n", []string{in, inUntracked, fwd, fwdUntracked}},
		{"INVALID late in prerouting", nftFile, "table inet t { chain a { type filter hook prerouting priority 10; ct state invalid drop; }; }", []string{in, inUntracked, fwd, fwdUntracked}},
		{"INVALID early", nftFile, "table inet t { chain a { type filter hook input priority -160; ct state invalid drop; }; }", []string{in, inUntracked}},
		{"INVALID in mangle, behind us", iptablesFile, "*mangle\n-A INPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n", nil},
		{"INVALID going out", nftFile, "table inet t { chain a { type filter hook output priority 0; ct state invalid drop; }; }", []string{inUntracked, fwdUntracked}},
		{"INVALID going out, in the same chain", iptablesFile, "*filter\n-A OUTPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n", nil},
		{"INVALID after routing", iptablesFile, "*mangle\n-A POSTROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n", []string{inUntracked, fwdUntracked}},
		{"no spoofing", nftFile, "table ip t { chain a { type filter hook output priority -1; fib saddr type != local drop; }; }", []string{in, inUntracked, fwd, fwdUntracked}},
		{"no spoofing by address", iptablesFile, "*mangle\n-A OUTPUT ! -s 10.77.1.1/32 -j DROP\nCOMMIT\n", []string{in, inUntracked, fwd, fwdUntracked}},
		{"no spoofing, in the same chain", iptablesFile, "*filter\n-A OUTPUT -p tcp -m tcp --dport 80 -m addrtype ! --src-type LOCAL -j DROP\nCOMMIT\n", nil},
		{"no strangers on lo", nftFile, "table ip t { chain a { type filter hook prerouting priority -300; iif lo ip saddr != 127.0.0.0/8 drop; }; }", []string{in, inUntracked}},
		{"no strangers on lo, late", nftFile, "table ip t { chain a { type filter hook input priority 10; iifname lo fib saddr type != local drop; }; }", []string{in, inUntracked}},
		{"zone", iptablesFile, "*raw\n-A PREROUTING -i eth0 -j CT --zone 5\nCOMMIT\n", []string{in, inUntracked, fwd, fwdUntracked}},
		{"zone of nft", nftFile, "table ip t { chain a { type filter hook prerouting priority -300; iifname eth0 tcp dport 80 ct zone set 5; }; }", []string{in, inUntracked, fwd, fwdUntracked}},
		{"no tracking", iptablesFile, "*raw\n-A PREROUTING -p tcp -m tcp --dport 80 -j CT --notrack\n-A PREROUTING -p tcp -m tcp --sport 80 -j CT --notrack\n-A OUTPUT -p tcp -m tcp --sport 80 -j CT --notrack\nCOMMIT\n", []string{"-" + in, inUntracked, "-" + fwd, fwdUntracked}},
		{"denied", nftFile, "table ip t { chain a { type filter hook input priority 0; tcp dport 80 iifname != lo drop; }; }", []string{in, inUntracked}},
		{"NEW only", nftFile, "table ip t { chain a { type filter hook forward priority 0; policy drop; ct state { established, new } accept; }; }", []string{fwdUntracked}},
		{"legacy", legacyFile, "*mangle\n-A PREROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n", []string{in, inUntracked, fwd, fwdUntracked}},
		{"IPv6 only", "ip6tables-nft-restore", "*mangle\n-A PREROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n", nil},
	} {
		for _, kind := range []string{in, inUntracked, fwd, fwdUntracked} {
			t.Run(tt.name+", "+kind, func(t *testing.T) {
				t.Parallel() // most of the time they wait for what does not come
				blockedAsFound(t, tt.program, tt.rules, kind, slices.Contains(tt.blocked, kind), slices.Contains(tt.blocked, "-"+kind))
			})
		}
	}
}

// blockedAsFound connects to a service behind rules of others and SYNPROXY.
func blockedAsFound(t *testing.T, program, text, kind string, blocked, unprotected bool) {
	topo := newTopology(t)
	words := strings.Fields(program)
	runInput(t, topo.Firewall, text, words[0], words[1:]...)
	s := firewall.Service{
		Destination: netip.PrefixFrom(lab.FirewallV4, 32), Port: 80, Hook: firewall.Input, Interfaces: []string{"eth0"},
		Tracked: !strings.HasSuffix(kind, "untracked"), Backend: rules.NFT,
	}
	server := topo.Firewall
	if strings.HasPrefix(kind, "fwd") {
		s.Destination, s.Hook, server = netip.PrefixFrom(lab.ServerV4, 32), firewall.Forward, topo.Server
	}
	found := readFirewall(t, topo.Firewall).Blockers(s)
	protectByHand(t, topo.Firewall, s)
	if again := readFirewall(t, topo.Firewall).Blockers(s); !slices.Equal(positionless(again), positionless(found)) {
		t.Errorf("our own rules change the blockers from\n%v to\n%v", found, again)
	}
	told := slices.ContainsFunc(found, func(b firewall.Blocker) bool {
		return b.Severity == firewall.Fatal || b.Code == firewall.CodeServiceDenied
	})
	if told != (blocked || unprotected) {
		t.Errorf("blockers %+v, want some: %t", found, blocked || unprotected)
	}
	err := converse(t, topo.Client, server, netip.AddrPortFrom(s.Destination.Addr(), 80))
	if (err != nil) != blocked {
		t.Errorf("connection: %v, want blocked: %t", err, blocked)
	}
	on(t, topo.Firewall, func() error {
		stats, err := kernel.ReadSynproxyStats()
		if proxied := stats.CookieValid > 0; err == nil && !blocked && proxied == unprotected {
			return fmt.Errorf("the connection was proxied: %t", proxied)
		}
		return err
	})
}

// positionless leaves out where in its chain a rule stands.
func positionless(bs []firewall.Blocker) []string {
	var all []string
	for _, b := range bs {
		_, text, _ := strings.Cut(b.Rule, ": ")
		all = append(all, fmt.Sprintln(b.Severity, b.Code, text))
	}
	return all
}

func protectByHand(t *testing.T, host *lab.Host, s firewall.Service) {
	t.Helper()
	if err := host.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
		t.Fatal(err)
	}
	text := ourRules(strings.ToUpper(string(s.Hook)), s.Destination.Addr().String(), s.Tracked)
	runInput(t, host, text, "iptables-nft-restore", "--noflush")
}

// converse connects to a server and has a line echoed.
func converse(t *testing.T, client, host *lab.Host, at netip.AddrPort) error {
	t.Helper()
	server := serve(t, host, lab.ServerConfig{Address: at})
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
	defer cancel()
	conn, err := client.Dial(ctx, at)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	_, err = bufio.NewReader(conn).ReadString('\n')
	return err
}
