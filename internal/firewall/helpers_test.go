package firewall

import (
	"net/netip"
	"os"
	"testing"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// parse reads the rules of iptables-save.
func parse(t testing.TB, text string) Firewall {
	t.Helper()
	d, err := rules.ParseSave(rules.IPv4, "", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return New(FromDump(IPTablesNFT, d)...)
}

func loadFile(t testing.TB, name string) Firewall {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

// filter makes a filter table of rules; its policies are ACCEPT.
func filter(lines string) string {
	return "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n" + lines + "\nCOMMIT\n"
}

// table makes any table of rules.
func table(name, lines string) string {
	text := "*" + name + "\n"
	for _, hook := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		if _, ok := xtablesHooks[name][hook]; ok {
			text += ":" + hook + " ACCEPT [0:0]\n"
		}
	}
	return text + lines + "\nCOMMIT\n"
}

func prefix(text string) netip.Prefix {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.MustParsePrefix(text)
}

// syn is the first packet of a connection to 192.0.2.1:80.
func syn(change func(*Packet)) Packet {
	p := Packet{
		Hook: Input, Destination: prefix("192.0.2.1"), DestinationLocal: true, DestinationPort: 80,
		Flags: rules.SYN, States: rules.New,
	}
	if change != nil {
		change(&p)
	}
	return p
}
