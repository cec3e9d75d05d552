package e2e

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

func TestDumpShowsEveryChange(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	for _, tables := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		run(t, fw, tables, "-t", "raw", "-A", "PREROUTING", "-j", "ACCEPT") // makes the table and the chain, for good
		run(t, fw, tables, "-t", "raw", "-A", "OUTPUT", "-j", "LOG")
	}
	before := dump(t, fw)
	if again := dump(t, fw); again != before {
		t.Fatalf("two dumps of an untouched host differ:\n%s", cmp.Diff(before, again))
	}
	for _, change := range []struct{ name, do, undo string }{
		{"iptables-nft", "iptables-nft -t raw -A OUTPUT -j ACCEPT", "iptables-nft -t raw -D OUTPUT -j ACCEPT"},
		{"ip6tables-nft", "ip6tables-nft -t raw -A OUTPUT -j ACCEPT", "ip6tables-nft -t raw -D OUTPUT -j ACCEPT"},
		{"iptables-legacy", "iptables-legacy -t raw -A OUTPUT -j ACCEPT", "iptables-legacy -t raw -D OUTPUT -j ACCEPT"},
		{"ip6tables-legacy", "ip6tables-legacy -t raw -A OUTPUT -j ACCEPT", "ip6tables-legacy -t raw -D OUTPUT -j ACCEPT"},
		{"policy", "iptables-legacy -t raw -P OUTPUT DROP", "iptables-legacy -t raw -P OUTPUT ACCEPT"},
		{"nft", "nft add table inet x", "nft delete table inet x"},
		{"ipset", "ipset create x hash:ip,port", "ipset destroy x"},
		{"sysctl", "loose 0", "loose 1"},
		{"sysctl of IPv6", "ipv6 0", "ipv6 1"},
	} {
		t.Run(change.name, func(t *testing.T) {
			apply(t, fw, change.do)
			if dump(t, fw) == before {
				t.Error("the dump does not show the change")
			}
			apply(t, fw, change.undo)
			if after := dump(t, fw); after != before {
				t.Errorf("the change was undone, and is still seen:\n%s", cmp.Diff(before, after))
			}
		})
	}
}

// apply runs one step of a table: a program with arguments, or a sysctl under a short name.
func apply(t *testing.T, host *lab.Host, step string) {
	t.Helper()
	words := strings.Fields(step)
	key, isSysctl := map[string]string{
		"loose": "net.netfilter.nf_conntrack_tcp_loose",
		"ipv6":  "net.ipv6.conf.all.forwarding",
	}[words[0]]
	if !isSysctl {
		run(t, host, words[0], words[1:]...)
		return
	}
	if err := host.SetSysctl(key, words[1]); err != nil {
		t.Fatal(err)
	}
}
