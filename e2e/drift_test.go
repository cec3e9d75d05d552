package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// drifts changes what is applied behind the tool's back. verify must name each change, and apply mend it.
func drifts(t *testing.T, fw *lab.Host, apply []string, changes []drift) {
	t.Helper()
	right := inAnyOrder(dump(t, fw))
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			shell(t, fw, c.change)
			found := codes(mustDo(t, fw, 3, "verify"))
			for _, code := range strings.Fields(c.codes) {
				if !slices.Contains(found, code) {
					t.Errorf("verify found %v, not %s", found, code)
				}
			}
			if state := mustDo(t, fw, 0, "status")["state"]; state != "drifted" {
				t.Errorf("state %v", state)
			}
			if c.mend != "" {
				before := inAnyOrder(dump(t, fw))
				mustDo(t, fw, 5, apply...)
				sameDump(t, before, inAnyOrder(dump(t, fw)))
				shell(t, fw, c.mend)
			}
			if done := mustDo(t, fw, 0, apply...); done["changed"] != (c.mend == "") {
				t.Errorf("apply: %v", done)
			}
			mustDo(t, fw, 0, "verify")
			sameDump(t, right, inAnyOrder(dump(t, fw)))
		})
	}
}

type drift struct {
	name, change string
	codes        string // that verify must find
	mend         string // what a person must do before apply works; empty: nothing
}

// TestDriftNFT changes our tables of nf_tables.
func TestDriftNFT(t *testing.T) {
	fw := newTopology(t).Firewall
	apply := append([]string{"apply", lab.ServerV4.String() + ":80", "--backend", rules.NFTables, "--first", "server", "--mode", "notrack"}, explicit...)
	mustDo(t, fw, 0, apply...)
	const table, pre = "ip synproxyctl", "ip synproxyctl SYNPROXYCTL_RAW_PREROUTING"
	again := func(hook string) string {
		return fmt.Sprintf("nft 'flush chain %[1]s; delete chain %[1]s; add chain %[1]s { type filter hook %[2]s; }'", pre, hook)
	}
	drifts(t, fw, apply, []drift{
		{"rules flushed", "nft flush chain " + pre, "rule-missing", ""},
		{"rule of others", "nft add rule " + pre + " udp dport 9 accept", "rule-extra", ""},
		{"rule of others, ahead", "nft insert rule " + pre + " udp dport 9 accept", "rule-extra", ""},
		{"rule that says it is ours", "nft insert rule " + pre + ` 'udp dport 9 accept comment "-j ACCEPT"'`, "rule-extra", ""},
		{"no anchor", "nft delete chain " + table + " SYNPROXYCTL_ANCHOR", "rule-missing", ""},
		{"another priority", again("prerouting priority -200"), "rule-missing rule-extra", ""},
		{"another hook", again("input priority -300"), "rule-missing rule-extra", ""},
		{"another policy", again("prerouting priority -300; policy drop"), "rule-missing rule-extra", ""},
		{"no hook", again("prerouting priority -300")[:len(again(""))-len("{ type filter hook ; }'")] + "'", "rule-missing", ""},
		{"chain", "nft add chain " + table + " SYNPROXYCTL_OLD", "chain-left-over", ""},
		{"base chain", "nft 'add chain " + table + " mine { type filter hook input priority 0; }'", "chain-left-over", ""},
		{"object", "nft 'add synproxy " + table + " mine { mss 536 wscale 1; }'", "chain-left-over", ""},
		{"table", "nft delete table " + table, "rule-missing", ""},
		{"setting", "echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "sysctl", ""},
		{"set", "nft 'add set " + table + " mine { type inet_service; }'", "set-foreign", "nft delete set " + table + " mine"},
	})
	mustDo(t, fw, 0, "revert")
}

// TestDriftOfSets changes the sets of services that are alike.
func TestDriftOfSets(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			fw := newTopology(t).Firewall
			at := lab.ServerV4.String()
			network := strings.TrimSuffix(at, "2")
			apply := append([]string{"apply", at + ":80,443,8080", network + "0/30:25", network + "4/30:25", "--backend", backend, "--first", "server"}, explicit...)
			mustDo(t, fw, 0, apply...)
			letter := map[string]string{rules.NFT: "n", rules.Legacy: "l"}[backend]
			changes := []drift{
				{"member gone", "ipset del $SET " + at + ",80", "member-missing", ""},
				{"member of others", "ipset add $SET 192.0.2.1,80", "member-extra", ""},
				{"all members gone", "ipset flush $SET", "member-missing", ""},
				{"network gone", "ipset del $NETS " + network + "0/30,25", "member-missing", ""},
				{"set left over", "ipset create synproxyctl_" + letter + "4_0123456789 hash:ip,port", "set-left-over", ""},
				{"set of another type", "ipset create synproxyctl_" + letter + "4_0123456789 hash:ip", "set-foreign", "ipset destroy synproxyctl_" + letter + "4_0123456789"},
			}
			named := strings.NewReplacer(setNames(t, fw, backend)...)
			if backend == rules.NFTables {
				changes = []drift{
					{"member gone", "nft 'delete element ip synproxyctl $SET { " + at + " . 80 }'", "member-missing", ""},
					{"SYN's member gone", "nft 'delete element ip synproxyctl $SYN { " + at + " . 80 }'", "member-missing", ""},
					{"member of others", "nft 'add element ip synproxyctl $SYN { 192.0.2.1 . 80 }'", "member-extra", ""},
					{"all members gone", "nft flush set ip synproxyctl $SYN", "member-missing", ""},
					{"network gone", "nft 'delete element ip synproxyctl $NETS { " + network + "0/30 . 25 }'", "member-missing", ""},
				}
			}
			for i := range changes {
				changes[i].change = named.Replace(changes[i].change)
			}
			drifts(t, fw, apply, changes)
			mustDo(t, fw, 0, "revert")
		})
	}
}

// setNames returns pairs of a variable and the set that it stands for: $SET of single addresses, for nftables a map;
// $SYN of those that new connections are counted in; $NETS of networks.
func setNames(t *testing.T, fw *lab.Host, backend string) []string {
	t.Helper()
	var names []string
	if backend != rules.NFTables {
		for line := range strings.Lines(run(t, fw, "ipset", "save")) {
			words := strings.Fields(line)
			if variable := map[string]string{"hash:ip,port": "$SET", "hash:net,port": "$NETS"}[words[2]]; words[0] == "create" && variable != "" {
				names = append(names, variable, words[1])
			}
		}
		return names
	}
	listing := run(t, fw, "nft", "list", "table", "ip", "synproxyctl")
	for _, block := range strings.Split(listing, "\n\t}\n") {
		words := strings.Fields(block)
		kind := strings.TrimSpace(block)
		switch {
		case strings.HasPrefix(kind, "map") && !strings.Contains(block, "interval"):
			names = append(names, "$SET", words[1])
		case strings.HasPrefix(kind, "set") && !strings.Contains(block, "interval"):
			names = append(names, "$SYN", words[1])
		case strings.HasPrefix(kind, "set"):
			names = append(names, "$NETS", words[1])
		}
	}
	return names
}

// TestNFTReload saves all rules as people do, and loads them again, ours among them. They work as before; verify does
// not know them for ours any more where nft keeps no comment, and apply mends that.
func TestNFTReload(t *testing.T) {
	for _, mode := range []string{"tracked", "notrack"} {
		t.Run(mode, func(t *testing.T) {
			topo := newTopology(t)
			fw := topo.Firewall
			var args []string
			for _, p := range places[2:] {
				for _, port := range []uint16{80, 81} {
					args = append(args, p.serve(t, topo, port, lab.ServerConfig{Mode: lab.ClientFirst}).String())
				}
			}
			apply := slices.Concat([]string{"apply", "--backend", rules.NFTables, "--first", "client", "--mode", mode}, explicit, args)
			mustDo(t, fw, 0, apply...)
			right := inAnyOrder(dump(t, fw))
			saved := run(t, fw, "nft", "list", "ruleset")
			runInput(t, fw, "flush ruleset\n"+saved, "nft", "-f", "-")
			for _, server := range args {
				allGood(t, topo.Client, netip.MustParseAddrPort(server), lab.LoadConfig{Connections: 5, Mode: lab.ClientFirst})
			}
			if n := cookies(t, fw); n != 20 {
				t.Errorf("%v of 20 connections passed the proxy", n)
			}
			mustDo(t, fw, 3, "verify")
			mustDo(t, fw, 0, apply...)
			mustDo(t, fw, 0, "verify")
			sameDump(t, right, inAnyOrder(dump(t, fw)))
			mustDo(t, fw, 0, "revert")
		})
	}
}
