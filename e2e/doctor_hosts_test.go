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

// stateful is the rule set of every handbook.
const stateful = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p icmp -j ACCEPT
-A INPUT -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -j LOG --log-prefix "denied: "
-A INPUT -j REJECT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP
-A PREROUTING -p tcp -m conntrack --ctstate NEW -m tcpmss ! --mss 536:65535 -j DROP
-A PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN FIN,SYN -j DROP
-A PREROUTING -s 224.0.0.0/3 -j DROP
-A PREROUTING ! -i lo -s 127.0.0.0/8 -j DROP
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o eth2 -j MASQUERADE
COMMIT
`

// strictOut lets out what belongs to connections, and nothing else.
const strictOut = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT
-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A OUTPUT -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
`

// nftWorkstation is the example that distributions ship as /etc/nftables.conf, with a router's part.
const nftWorkstation = `table inet filter {
	set bogons { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 203.0.113.0/24 } }
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif lo accept
		ip saddr @bogons drop
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport { 22, 80 } accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		ip saddr @bogons drop
		tcp dport 80 ct state new accept
	}
}
`

// TestDoctorFindsHealthyHostsWell has usual rule sets, for which there is no reason to say anything, and with which
// the protection really works.
func TestDoctorFindsHealthyHostsWell(t *testing.T) {
	t.Parallel()
	const nft, iptables, legacy = "nft -f -", "iptables-nft-restore", "iptables-legacy-restore"
	for _, tt := range []struct {
		name, program, rules string
		at                   []place
	}{
		{"nothing", nft, "", []place{input4, forward4}},
		{"stateful", iptables, stateful, []place{input4, forward4}},
		{"stateful, legacy", legacy, stateful, []place{input4, forward4}},
		{"strict output", iptables, strictOut, []place{input4, forward4}},
		{"nft", nft, nftWorkstation, []place{input4, forward4}},
		{"ufw", iptables, testdata(t, "ufw.save"), []place{input4}},
		{"Docker", iptables, testdata(t, "docker.save"), []place{input4}},
		{"firewalld", nft, firewalldLike, []place{input4}},
	} {
		for _, p := range tt.at {
			t.Run(tt.name+" "+p.String(), func(t *testing.T) {
				topo := newTopology(t)
				web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
				words := strings.Fields(tt.program)
				runInput(t, topo.Firewall, tt.rules, words[0], words[1:]...)
				flows(t, topo, web, true)
				if said := spoken(mustDo(t, topo.Firewall, 0, "doctor", web.String()), false); said != nil {
					t.Errorf("%q", said)
				}
				mustDo(t, topo.Firewall, 0, slices.Concat([]string{"apply", web.String()}, given)...)
				flows(t, topo, web, true)
				if n := number(t, mustDo(t, topo.Firewall, 0, "status"), "counters", "cookie_valid"); n != 3 {
					t.Errorf("%v cookies came back, want 3", n)
				}
				if said := spoken(mustDo(t, topo.Firewall, 0, "verify"), true); said != nil {
					t.Errorf("verify: %q", said)
				}
			})
		}
	}
}

// TestDoctorOnAccessLists publishes a service as Docker does, and denies a source where SYNPROXY's clients never come.
func TestDoctorOnAccessLists(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	forward4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	fw, public := topo.Firewall, lab.FirewallV4.String()+":8080"
	const publish = "-p tcp -m addrtype --dst-type LOCAL --dport 8080 -j DNAT --to-destination 10.77.2.2:80"
	shell(t, fw, "iptables-nft -t nat -A PREROUTING "+publish+"; iptables-nft -t nat -A OUTPUT "+publish+
		"; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER")
	if said := spoken(mustDo(t, fw, 0, "doctor", public), false); said != nil {
		t.Errorf("a published service: %q", said)
	}
	apply := slices.Concat([]string{"apply", public, "--backend", rules.NFT}, given)
	for name, deny := range map[string]string{
		"deny-list": "-s 10.77.3.0/24 -j DROP", "allow-list": "! -s 10.77.1.0/24 -i eth0 -j DROP",
	} {
		a := ailment{code: "access-list", severity: "error", names: []string{"DOCKER-USER", strings.Split(deny, " -j")[0][:9]}}
		shell(t, fw, "iptables-nft -A DOCKER-USER "+deny)
		a.says(t, mustDo(t, fw, honestNo, "doctor", public, "--backend", rules.NFT))
		before := dump(t, fw)
		if done := mustDo(t, fw, unsupported, apply...); !strings.Contains(fmt.Sprint(done["error"]), "DOCKER-USER") {
			t.Errorf("%s: the refusal does not name the chain: %v", name, done["error"])
		}
		sameDump(t, before, dump(t, fw))
		shell(t, fw, "iptables-nft -F DOCKER-USER")
	}
	// What is denied in the raw table stays out, as the hint says.
	shell(t, fw, "iptables-nft -t raw -A PREROUTING -s 10.77.3.0/24 -j DROP")
	mustDo(t, fw, 0, apply...)
	at := netip.MustParseAddrPort(public)
	flows(t, topo, at, true)
	if res := load(t, topo.Attacker, at, lab.LoadConfig{Connections: 1, Mode: lab.ClientFirst, Timeout: time.Second}); res.OK != 0 {
		t.Error("the denied source got in")
	}
	// And with --force the ailment is real: who is denied gets in.
	shell(t, fw, "iptables-nft -t raw -D PREROUTING -s 10.77.3.0/24 -j DROP; iptables-nft -A DOCKER-USER -s 10.77.3.0/24 -m conntrack --ctstate NEW -j DROP")
	(ailment{code: "access-list", severity: "error", names: []string{"DOCKER-USER"}}).says(t, mustDo(t, fw, honestNo, "verify"))
	if res := load(t, topo.Attacker, at, lab.LoadConfig{Connections: 1, Mode: lab.ClientFirst}); res.OK != 1 {
		t.Error("the denied source did not get in: no reason to refuse")
	}
}

// TestDoctorOnKernelFeatures hides the SYNPROXY target from the program that makes rules.
func TestDoctorOnKernelFeatures(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	s := newStage(t, topo.Firewall)
	web := server + ":80"
	a := ailment{code: "kernel-feature", severity: "error", names: []string{rules.NFT, "xt_SYNPROXY", "modprobe"}}
	for _, args := range [][]string{{"doctor"}, {"doctor", web}} {
		if said := spoken(s.good(append(args, "--backend", rules.NFT)...), false); said != nil {
			t.Errorf("a healthy kernel: %q", said)
		}
	}
	s.swap(nil, map[string]string{"iptables-nft-restore": `text=$(cat); case "$text" in *"-j SYNPROXY"*) echo "Extension SYNPROXY revision 0 not supported, missing kernel module?" >&2; exit 4;; esac; printf "%s\n" "$text" | REAL/iptables-nft-restore "$@"`})
	s.remember()
	for _, args := range [][]string{{"doctor"}, {"doctor", web}} {
		a.says(t, s.exits(honestNo, append(args, "--backend", rules.NFT)...))
	}
	if _, _, exit := s.synproxyctl("", applying(web, "--backend", rules.NFT)...); exit != 1 {
		t.Errorf("apply: exit %d, want 1", exit)
	}
	s.untouched()
}

// TestDoctorOnAFullTable fills the connection tracking table with an unprotected flood.
func TestDoctorOnAFullTable(t *testing.T) {
	topo := newTopology(t)
	web := input4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	fw := topo.Firewall
	doctor := []string{"doctor", web.String(), "--backend", rules.NFT}
	if said := spoken(mustDo(t, fw, 0, doctor...), false); said != nil {
		t.Errorf("a table with room: %q", said)
	}
	shell(t, fw, "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT") // begins to track
	limit := int(number(t, mustDo(t, fw, 0, "status"), "conntrack", "max"))
	deadline := time.Now().Add(20 * time.Second)
	for filled := 0; filled < limit*8/10; filled = int(number(t, mustDo(t, fw, 0, "status"), "conntrack", "count")) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d entries", filled, limit)
		}
		if _, err := topo.Attacker.Flood(t.Context(), lab.FloodConfig{Destination: web, Packets: 100_000, Duration: 5 * time.Second, Seed: uint64(filled)}); err != nil {
			t.Fatal(err)
		}
	}
	a := ailment{code: "conntrack-small", severity: "warning", names: []string{fmt.Sprint(limit), "net.netfilter.nf_conntrack_max="}}
	a.says(t, mustDo(t, fw, 0, doctor...))
	run(t, fw, "conntrack", "-F")
	if said := spoken(mustDo(t, fw, 0, doctor...), false); said != nil {
		t.Errorf("mended: %q", said)
	}
}

// TestDoctorOnSYNCookies says that they are enough where that is true, and not elsewhere.
func TestDoctorOnSYNCookies(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	fw, local := topo.Firewall, lab.FirewallV4.String()+":80"
	says := func(code string, args ...string) {
		t.Helper()
		var got []string
		for _, each := range mustDo(t, fw, 0, append([]string{"doctor"}, args...)...)["findings"].([]any) {
			if c := each.(map[string]any)["code"].(string); strings.HasPrefix(c, "syn-cookies") {
				got = append(got, c)
			}
		}
		if strings.Join(got, " ") != code {
			t.Errorf("%v: %q, want %q", args, got, code)
		}
	}
	says("syn-cookies-enough", local)
	says("syn-cookies-enough", local, "["+lab.FirewallV6.String()+"]:80")
	says("", server+":80")
	says("", local, server+":80")
	says("", local, "--to", server+":80")
	says("")
	shell(t, fw, "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
	says("syn-cookies-nearly-enough", local)
	says("syn-cookies-enough", "["+lab.FirewallV6.String()+"]:80")
	if err := fw.SetSysctl("net.ipv4.tcp_syncookies", "0"); err != nil {
		t.Fatal(err)
	}
	says("", local)
}

// TestDoctorRefusesLinkLocal has no way to protect an address that exists on every link.
func TestDoctorRefusesLinkLocal(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	for _, command := range []string{"doctor", "apply"} {
		done := mustDo(t, topo.Firewall, badUsage, command, "[fe80::1]:80")
		if text := fmt.Sprint(done["error"]); !strings.Contains(text, "link-local") || !strings.Contains(text, "fe80::1") {
			t.Errorf("%s: %s", command, text)
		}
	}
}
