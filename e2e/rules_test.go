package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// comparePrefixes lets cmp look at rules.
var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// eachXtables runs a test on a host of its own for both variants of iptables and both families. The function that
// it hands over names the program for the family: xt("-save") is "ip6tables-nft-save", for example.
func eachXtables(t *testing.T, test func(t *testing.T, host *lab.Host, family rules.Family, xt func(kind string) string)) {
	for _, variant := range []string{"nft", "legacy"} {
		for program, family := range map[string]rules.Family{"iptables-": rules.IPv4, "ip6tables-": rules.IPv6} {
			t.Run(program+variant, func(t *testing.T) {
				test(t, newHost(t), family, func(kind string) string { return program + variant + kind })
			})
		}
	}
}

// newHost returns a host without links.
func newHost(t *testing.T) *lab.Host {
	t.Helper()
	l := world.NewLab()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	host, err := l.Host("fw")
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// testChain is jumped to from nowhere, so that it may hold what only fits some of the built-in chains.
const testChain = rules.ChainPrefix + "_TEST"

// TestRulesComeBack hands every match and target in all their combinations to the real programs, and reads from
// all three kinds of listing the very values that were written.
func TestRulesComeBack(t *testing.T) {
	eachXtables(t, func(t *testing.T, host *lab.Host, family rules.Family, xt func(string) string) {
		written := map[rules.Table][]rules.Rule{}
		var b strings.Builder
		for _, table := range []rules.Table{rules.Raw, rules.Mangle, rules.NAT, rules.Filter, rules.Security} {
			written[table] = everyRule(family, table)
			fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n", table, testChain)
			for _, r := range written[table] {
				fmt.Fprintf(&b, "-A %s %s\n", testChain, r)
			}
			b.WriteString("COMMIT\n")
		}
		runInput(t, host, b.String(), xt("-restore"))
		for _, counters := range []string{"", "-c"} {
			args := slices.DeleteFunc([]string{counters}, func(s string) bool { return s == "" })
			checkComesBack(t, written, family, "", run(t, host, xt("-save"), args...))
		}
		for table, want := range written {
			checkComesBack(t, map[rules.Table][]rules.Rule{table: want}, family, table, run(t, host, xt(""), "-t", string(table), "-S"))
		}
	})
}

func checkComesBack(t *testing.T, written map[rules.Table][]rules.Rule, family rules.Family, table rules.Table, text string) {
	t.Helper()
	d, err := rules.ParseSave(family, table, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, c := range d.Chains {
		if c.Name != testChain {
			continue
		}
		found++
		want := written[c.Table]
		if len(c.Rules) != len(want) {
			t.Fatalf("table %s: %d rules, want %d", c.Table, len(c.Rules), len(want))
		}
		for i, r := range c.Rules {
			if !reflect.DeepEqual(want[i], r) { // much faster than cmp, and there are many
				t.Fatalf("table %s: %s: -written +read:\n%s", c.Table, want[i], cmp.Diff(want[i], r, comparePrefixes))
			}
		}
	}
	if found != len(written) {
		t.Fatalf("%d of %d chains came back", found, len(written))
	}
}

// everyRule combines each target of the table with each set of matches.
func everyRule(family rules.Family, table rules.Table) []rules.Rule {
	var all []rules.Rule
	for i, target := range targets(family, table) {
		kinds := matches(family)
		for set := range 1 << len(kinds) {
			g := rand.New(rand.NewPCG(uint64(i), uint64(set)))
			r := rules.Rule{Family: family, Table: table, Chain: testChain, Target: target}
			tcp := false
			for bit, ways := range kinds {
				if set&(1<<bit) == 0 {
					continue
				}
				m := ways[g.IntN(len(ways))]
				_, is := m.(rules.TCP)
				tcp = tcp || is
				r.Matches = append(r.Matches, m)
			}
			switch target.(type) {
			case rules.SYNPROXY, rules.TCPOptStrip, rules.DNAT: // they want -p tcp
				if !tcp {
					continue
				}
			}
			all = append(all, r)
		}
	}
	return all
}

func targets(family rules.Family, table rules.Table) []rules.Target {
	switch table {
	case rules.Raw:
		return []rules.Target{rules.Notrack{}}
	case rules.NAT:
		to := map[rules.Family]string{rules.IPv4: "192.0.2.1:80", rules.IPv6: "[2001:db8::1]:65535"}[family]
		return []rules.Target{rules.DNAT{To: netip.MustParseAddrPort(to)}}
	case rules.Security:
		return []rules.Target{rules.SYNPROXY{}}
	case rules.Mangle:
		return []rules.Target{rules.TCPOptStrip{Kinds: []uint8{rules.KindTimestamps}}, rules.TCPOptStrip{Kinds: []uint8{2, 3, 4, 5, 8, 19, 255}}}
	}
	all := []rules.Target{nil, rules.Accept, rules.Drop, rules.SYNPROXY{Options: rules.Options{MSS: ptr[uint16](88), WScale: ptr[uint8](0)}}}
	for _, mss := range []*uint16{nil, ptr[uint16](65535)} {
		for _, wscale := range []*uint8{nil, ptr[uint8](14)} {
			for i := range 4 {
				all = append(all, rules.SYNPROXY{Options: rules.Options{MSS: mss, WScale: wscale, SACKPerm: i&1 != 0, Timestamps: i&2 != 0}})
			}
		}
	}
	return all
}

func ptr[T any](v T) *T { return &v }

// matches returns for each kind of match, in the order in which rules hold them, the ways to write it.
func matches(family rules.Family) [][]rules.Match {
	networks := []string{"192.0.2.1/32", "198.51.100.0/24", "128.0.0.0/1"}
	if family == rules.IPv6 {
		networks = []string{"2001:db8::1/128", "2001:db8::/32", "::ffff:192.0.2.1/128", "::192.0.2.1/128"}
	}
	var source, destination []rules.Match
	for _, n := range networks {
		for _, not := range []bool{false, true} {
			source = append(source, rules.Source{Prefix: netip.MustParsePrefix(n), Not: not})
			destination = append(destination, rules.Destination{Prefix: netip.MustParsePrefix(n), Not: not})
		}
	}
	const all = rules.FIN | rules.SYN | rules.RST | rules.PSH | rules.ACK | rules.URG
	return [][]rules.Match{
		source, destination,
		{rules.InInterface{Name: "eth0"}, rules.InInterface{Name: "lo", Not: true}, rules.InInterface{Name: "br-0.1@x"}, rules.InInterface{Name: "we#rd"}},
		{
			rules.TCP{},
			rules.TCP{SrcPort: 65535},
			rules.TCP{DstPort: 1},
			rules.TCP{SrcPort: 2, DstPort: 3, Mask: all, Set: rules.SYN | rules.URG},
			rules.TCP{Mask: rules.FIN | rules.SYN | rules.RST | rules.ACK, Set: rules.SYN},
			rules.TCP{Mask: all},
			rules.TCP{Mask: rules.ACK, Set: rules.ACK},
		},
		{
			rules.CTState{States: rules.Invalid},
			rules.CTState{States: rules.Invalid | rules.Untracked},
			rules.CTState{States: rules.New | rules.Related | rules.Established},
			rules.CTState{States: 31},
			rules.Translated{Not: true},
			rules.Translated{},
			rules.Original{Destination: netip.MustParsePrefix(networks[0]), Port: 80},
			rules.Original{Destination: netip.MustParsePrefix(networks[1]), Port: 65535},
		},
		{rules.SourceType{}, rules.SourceType{Not: true}},
		{rules.DestinationType{}, rules.DestinationType{Not: true}},
		{rules.Socket{}, rules.Socket{Not: true}},
		{rules.U32{Offset: 32, Mask: 0xffff}, rules.U32{Mask: 0xffffffff, Value: 0xdeadbeef}, rules.U32{Offset: 255, Mask: 1, Value: 1}},
		comments(),
	}
}

func comments() []rules.Match {
	var all []rules.Match
	for _, text := range []string{
		"x", "two words", `"quoted"`, `"`, `\`, `back\slash\\`, `\"`, "it's", "#", "# not a comment", "!", "! -j DROP", "-j DROP", "--comment", "-A INPUT",
		"*filter", "COMMIT", " spaces  around ", "grüße", "\xff\xfe", "$(true) `true` %s %n", "[1:2] -A x", strings.Repeat("x", 127), strings.Repeat(`y"`, 64),
		strings.Repeat("z", 255),
	} {
		all = append(all, rules.Comment{Text: text})
	}
	return all
}

// strangers are rules of other people, as iptables-save prints them, except for the order of things.
var strangers = []string{
	"-m limit --limit 3/sec --limit-burst 7 -j ACCEPT",
	"-p tcp -m multiport --dports 22,80,443:445 -j ACCEPT",
	`-j LOG --log-prefix "odd \"x\" # \\ 'y' "`,
	"-p tcp -j REJECT --reject-with tcp-reset",
	"-p tcp -m hashlimit --hashlimit-upto 5/sec --hashlimit-burst 5 --hashlimit-name h -j ACCEPT",
	"-m recent --set --name r --rsource",
	"-m recent --update --seconds 5 --name r --rsource -j DROP",
	`-m string --string "say \"hi\" \\ # x" --algo bm -j DROP`,
	`-m string --hex-string "|00ff0a22|" --algo kmp -j DROP`,
	"-m mark --mark 0x1/0xff -j ACCEPT",
	"-m mac --mac-source 02:00:00:00:00:01 -j DROP",
	"-m connlimit --connlimit-above 3 -j REJECT",
	"-m statistic --mode random --probability 0.5 -j ACCEPT",
	"-m time --timestart 01:00 --timestop 02:00 -j ACCEPT",
	"-m state --state NEW -j ACCEPT",
	"-p udp -m udp --dport 53 -j ACCEPT",
	"-m addrtype --dst-type MULTICAST -j DROP",
	"-m length --length 0:100 -j DROP",
	"-m quota --quota 100000 -j ACCEPT",
	"-p tcp -m tcp --tcp-option 8 -j ACCEPT",
	"-p tcp -m tcp ! --dport 80 -j ACCEPT",
	"-p tcp -m tcp --dport 80:90 -j ACCEPT",
	"-p tcp -m tcp ! --tcp-flags SYN,ACK SYN -j ACCEPT",
	"-m conntrack --ctstate SNAT -j ACCEPT",
	"-m conntrack ! --ctstate NEW -j ACCEPT",
	"-m conntrack --ctstate NEW --ctproto 6 -j ACCEPT",
	"-m connmark --mark 0x1 -j ACCEPT",
	`-j NFLOG --nflog-prefix "a b"`,
	"-j NFQUEUE --queue-num 1",
	"-m socket --transparent -j ACCEPT",
	"-m policy --dir in --pol ipsec -j ACCEPT",
	"-m helper --helper ftp -j ACCEPT",
	`-m u32 --u32 "6&0xFF=1:5&&4=0" -j DROP`,
	"-m comment --comment \"\" -j DROP",
	"-m comment --comment \"tab\there\" -j DROP",
	"-m set --match-set theirs src -j DROP",
	"-i eth+ -j other",
	"-g other",
	"! -p tcp -j DROP",
}

// TestStrangersComeBack wants the rules of others kept word for word, so that what we print is what they wrote.
func TestStrangersComeBack(t *testing.T) {
	eachXtables(t, func(t *testing.T, host *lab.Host, family rules.Family, xt func(string) string) {
		inet := map[rules.Family]string{rules.IPv4: "inet", rules.IPv6: "inet6"}[family]
		run(t, host, "ipset", "create", "theirs", "hash:ip", "family", inet)
		text := "*filter\n:other - [0:0]\n"
		for _, r := range strangers {
			text += "-A INPUT " + r + "\n"
		}
		runInput(t, host, text+"COMMIT\n", xt("-restore"))
		// iptables-restore takes a line for a rule, so this one can only come by a command.
		run(t, host, xt(""), "-A", "INPUT", "-m", "comment", "--comment", "line\n-A INPUT -j \"DROP\"\nbreaks", "-j", "DROP")

		before := remark.ReplaceAllString(run(t, host, xt("-save"), "-t", "filter"), "")
		d, err := rules.ParseSave(family, "", []byte(before))
		if err != nil {
			t.Fatal(err)
		}
		reprinted := "*filter\n"
		for _, c := range d.Chains {
			reprinted += fmt.Sprintf(":%s %s [0:0]\n", c.Name, c.Policy)
		}
		n := 0
		for _, c := range d.Chains {
			for _, r := range c.Rules {
				n++
				reprinted += fmt.Sprintf("-A %s %s\n", c.Name, r)
				if r.Foreign == "" {
					t.Errorf("taken for ours: %s", r)
				}
			}
		}
		reprinted += "COMMIT\n"
		if n != len(strangers)+1 {
			t.Errorf("%d rules came back, want %d", n, len(strangers)+1)
		}
		if diff := cmp.Diff(before, zeroCounters(reprinted)); diff != "" {
			t.Errorf("-saved +printed:\n%s", diff)
		}
		restorable := strings.ReplaceAll(reprinted, "-A INPUT -m comment --comment \"line\n-A INPUT -j \\\"DROP\\\"\nbreaks\" -j DROP\n", "")
		if restorable == reprinted {
			t.Error("the rule with the line break is not as it was")
		}
		if said := runInput(t, host, restorable, xt("-restore")); said != "" {
			t.Errorf("%s says: %s", xt("-restore"), said)
		}
		again := remark.ReplaceAllString(run(t, host, xt("-save"), "-t", "filter"), "")
		if diff := cmp.Diff(restorable, again); diff != "" {
			t.Errorf("-printed +restored:\n%s", diff)
		}
	})
}

var counted = regexp.MustCompile(`(?m)^(:\S+ \S+) \[\d+:\d+\]$`)

func zeroCounters(text string) string { return counted.ReplaceAllString(text, "$1 [0:0]") }
