package rules

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// printed pairs rules with what they print, for each match and each target
// alone and for what the package itself combines.
var printed = []struct {
	rule Rule
	text string
}{
	{Rule{}, ""},
	{Rule{Target: Accept}, "-j ACCEPT"},
	{Rule{Target: Drop}, "-j DROP"},
	{Rule{Target: Jump{chainIn}}, "-j SYNPROXYCTL_IN"},
	{Rule{Target: Notrack{}}, "-j CT --notrack"},
	{Rule{Target: SYNPROXY{}}, "-j SYNPROXY"},
	{Rule{Target: SYNPROXY{Options{MSS: ptr[uint16](65535)}}}, "-j SYNPROXY --mss 65535"},
	{Rule{Target: SYNPROXY{Options{MSS: ptr[uint16](0), WScale: ptr[uint8](0)}}}, "-j SYNPROXY --wscale 0 --mss 0"},
	{Rule{Target: SYNPROXY{Options{SACKPerm: true}}}, "-j SYNPROXY --sack-perm"},
	{Rule{Target: SYNPROXY{Options{Timestamps: true}}}, "-j SYNPROXY --timestamp"},
	{
		Rule{Target: SYNPROXY{Options{MSS: ptr[uint16](1460), WScale: ptr[uint8](14), SACKPerm: true, Timestamps: true}}},
		"-j SYNPROXY --sack-perm --timestamp --wscale 14 --mss 1460",
	},
	{Rule{Target: TCPOptStrip{[]uint8{KindTimestamps}}}, "-j TCPOPTSTRIP --strip-options 8"},
	{Rule{Target: TCPOptStrip{[]uint8{2, 3, 255}}}, "-j TCPOPTSTRIP --strip-options 2,3,255"},
	{match(Source{Prefix: pfx("192.0.2.1/32")}), "-s 192.0.2.1/32"},
	{match(Source{pfx("192.0.2.0/24"), true}), "! -s 192.0.2.0/24"},
	{match(Destination{Prefix: pfx("192.0.2.1/32")}), "-d 192.0.2.1/32"},
	{match(Destination{pfx("128.0.0.0/1"), true}), "! -d 128.0.0.0/1"},
	{match6(Source{pfx("2001:db8::1/128"), true}), "! -s 2001:db8::1/128"},
	{match6(Destination{Prefix: pfx("2001:db8::/32")}), "-d 2001:db8::/32"},
	{match(InInterface{Name: "eth0"}), "-i eth0"},
	{match(InInterface{"lo", true}), "! -i lo"},
	{match(InInterface{Name: "br-0.1@x"}), "-i br-0.1@x"},
	{match(InInterface{Name: "we#rd"}), `-i "we#rd"`},
	{match(TCP{}), "-p tcp"},
	{match(TCP{SrcPort: 1}), "-p tcp -m tcp --sport 1"},
	{match(TCP{DstPort: 65535}), "-p tcp -m tcp --dport 65535"},
	{match(TCP{Mask: SYN}), "-p tcp -m tcp --tcp-flags SYN NONE"},
	{match(TCP{80, 443, FIN | SYN | RST | PSH | ACK | URG, PSH | URG}), "-p tcp -m tcp --sport 80 --dport 443 --tcp-flags FIN,SYN,RST,PSH,ACK,URG PSH,URG"},
	{match(CTState{Invalid}), "-m conntrack --ctstate INVALID"},
	{match(CTState{Invalid | New | Related | Established | Untracked}), "-m conntrack --ctstate INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED"},
	{match(Translated{}), "-m conntrack --ctstate DNAT"},
	{match(Translated{true}), "-m conntrack ! --ctstate DNAT"},
	{match(CTState{New}, Translated{true}), "-m conntrack --ctstate NEW -m conntrack ! --ctstate DNAT"},
	{match(Original{pfx("192.0.2.1/32"), 80}), "-m conntrack --ctorigdst 192.0.2.1 --ctorigdstport 80"},
	{match(Original{pfx("192.0.2.0/24"), 65535}), "-m conntrack --ctorigdst 192.0.2.0/24 --ctorigdstport 65535"},
	{match6(Original{pfx("2001:db8::1/128"), 80}), "-m conntrack --ctorigdst 2001:db8::1 --ctorigdstport 80"},
	{Rule{Target: DNAT{netip.MustParseAddrPort("192.0.2.1:80")}}, "-j DNAT --to-destination 192.0.2.1:80"},
	{Rule{Family: IPv6, Target: DNAT{netip.MustParseAddrPort("[2001:db8::1]:80")}}, "-j DNAT --to-destination [2001:db8::1]:80"},
	{match(SourceType{}), "-m addrtype --src-type LOCAL"},
	{match(SourceType{true}), "-m addrtype ! --src-type LOCAL"},
	{match(DestinationType{}), "-m addrtype --dst-type LOCAL"},
	{match(DestinationType{true}), "-m addrtype ! --dst-type LOCAL"},
	{match(Socket{}), "-m owner --socket-exists"},
	{match(Socket{true}), "-m owner ! --socket-exists"},
	{match(Members{Set: "synproxyctl_n4_x"}), "-m set --match-set synproxyctl_n4_x dst,dst ! --update-counters"},
	{match(Members{Set: "synproxyctl_n4_x", Count: true}), "-m set --match-set synproxyctl_n4_x dst,dst"},
	{match(Members{Set: "synproxyctl_l4_x", Source: true}), "-m set --match-set synproxyctl_l4_x src,src ! --update-counters"},
	{match(Members{Set: "synproxyctl", Source: true, Count: true}), "-m set --match-set synproxyctl src,src"},
	{Rule{Matches: []Match{TCP{}, Members{Set: "synproxyctl_n4_x"}, Socket{true}}, Target: Lookup{"synproxyctl_4_x"}}, "-p tcp -m set --match-set synproxyctl_n4_x dst,dst ! --update-counters -m owner ! --socket-exists -j SYNPROXY --map synproxyctl_4_x"},
	{match(U32{0, 0, 0}), "-m u32 --u32 0&0x0=0x0"},
	{match(U32{255, 0xffffffff, 0xdeadbeef}), "-m u32 --u32 255&0xffffffff=0xdeadbeef"},
	{match(Comment{"x"}), "-m comment --comment x"},
	{match(Comment{"!"}), "-m comment --comment !"},
	{match(Comment{"-j DROP"}), `-m comment --comment "-j DROP"`},
	{match(Comment{"--comment"}), "-m comment --comment --comment"},
	{match(Comment{`a "quoted" \word\, it's #1`}), `-m comment --comment "a \"quoted\" \\word\\, it's #1"`},
	{match(Comment{"grüße \xff"}), "-m comment --comment \"grüße \xff\""},
	{match(Comment{strings.Repeat("x", 255)}), "-m comment --comment " + strings.Repeat("x", 255)},
	{
		Rule{
			Matches: []Match{
				Source{pfx("192.0.2.0/24"), true},
				Destination{pfx("198.51.100.1/32"), true},
				InInterface{"eth0", true},
				TCP{1, 2, SYN | ACK, ACK},
				CTState{New | Untracked},
				SourceType{true},
				Socket{true},
				U32{32, 0xffff, 1},
				Comment{"all of it"},
			},
			Target: Drop,
		},
		"! -s 192.0.2.0/24 ! -d 198.51.100.1/32 ! -i eth0 -p tcp -m tcp --sport 1 --dport 2 --tcp-flags SYN,ACK ACK " +
			"-m conntrack --ctstate NEW,UNTRACKED -m addrtype ! --src-type LOCAL -m owner ! --socket-exists " +
			`-m u32 --u32 32&0xffff=0x1 -m comment --comment "all of it" -j DROP`,
	},
}

func match(ms ...Match) Rule { return Rule{Matches: ms} }

func match6(ms ...Match) Rule { return Rule{Family: IPv6, Matches: ms} }

// at puts a rule of the tables into a place.
func at(r Rule) Rule {
	if r.Family == "" {
		r.Family = IPv4
	}
	r.Table, r.Chain = Filter, "INPUT"
	return r
}

func TestRulePrintsAndParses(t *testing.T) {
	for _, tt := range printed {
		rule := at(tt.rule)
		if got := rule.String(); got != tt.text {
			t.Errorf("String() = %s, want %s", got, tt.text)
		}
		got, err := ParseRule(rule.Family, Filter, "INPUT", tt.text)
		if diff := cmp.Diff(rule, got, compareTypes); err != nil || diff != "" {
			t.Errorf("%s: %v; -want +got:\n%s", tt.text, err, diff)
		}
	}
}

// Args are for execve: not quoted.
func TestRuleArgs(t *testing.T) {
	r := Rule{Matches: []Match{Comment{`a "b"`}, TCP{DstPort: 80}}, Target: Jump{chainIn}}
	want := []string{"-p", "tcp", "-m", "tcp", "--dport", "80", "-m", "comment", "--comment", `a "b"`, "-j", "SYNPROXYCTL_IN"}
	if diff := cmp.Diff(want, r.Args()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, first := r.Matches[0].(Comment); !first {
		t.Error("printing reordered the caller's matches")
	}
	if got := (Rule{Foreign: "-j LOG"}).Args(); len(got) != 0 {
		t.Errorf("a foreign rule has arguments: %q", got)
	}
}

// What iptables, its variants and people write otherwise than we do.
func TestParseRuleSynonyms(t *testing.T) {
	for text, want := range map[string]string{
		"-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j NOTRACK": "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j CT --notrack",
		"-p tcp --syn":                                 "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
		"-p tcp -m tcp --dport 80 --syn":               "-p tcp -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN",
		"--protocol 6 --match tcp --dport 80":          "-p tcp -m tcp --dport 80",
		"-p tcp -m tcp":                                "-p tcp",
		"-p tcp -m tcp --tcp-flags ALL NONE":           "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE",
		"-p tcp -m tcp --tcp-flags ALL ALL":            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG FIN,SYN,RST,PSH,ACK,URG",
		"-p tcp -m tcp --tcp-flags ACK,SYN ACK":        "-p tcp -m tcp --tcp-flags SYN,ACK ACK",
		"--source 192.0.2.1":                           "-s 192.0.2.1/32",
		"--destination 192.0.2.0/24":                   "-d 192.0.2.0/24",
		"--in-interface eth0 --jump DROP":              "-i eth0 -j DROP",
		"-m conntrack --ctstate UNTRACKED,INVALID":     "-m conntrack --ctstate INVALID,UNTRACKED",
		`-m u32 --u32 "0x20&0xffff=0x0"`:               "-m u32 --u32 32&0xffff=0x0",
		"-m comment --comment z -p tcp -j DROP":        "-p tcp -m comment --comment z -j DROP",
		"-p tcp -m conntrack --ctstate NEW --dport 80": "-p tcp -m tcp --dport 80 -m conntrack --ctstate NEW",
		"-j TCPOPTSTRIP --strip-options timestamp,mss,wscale,sack-permitted,sack,md5": "-j TCPOPTSTRIP --strip-options 2,3,4,5,8,19",
		"-j TCPOPTSTRIP --strip-options 8,timestamp":                                  "-j TCPOPTSTRIP --strip-options 8",
		"-j SYNPROXY --mss 1460 --wscale 7 --timestamp --sack-perm":                   "-j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460",
		`"-j" "DROP"`: "-j DROP",
	} {
		r, err := ParseRule(IPv4, Raw, "OUTPUT", text)
		if err != nil || r.Foreign != "" || r.String() != want {
			t.Errorf("%s: %v, foreign %q, printed %s; want %s", text, err, r.Foreign, r, want)
		}
	}
}

// All of these are legal, and more than our types can say, or a fault that
// iptables would refuse. Taking one for ours would change what it means.
var foreignTexts = []string{
	"!", "! !", "! -j DROP", "-j", "-j DROP -j ACCEPT", "-j REJECT --reject-with icmp-port-unreachable", "-j LOG --log-prefix \"a b\"",
	"-j other", "-g SYNPROXYCTL_IN", "-j CT --zone 1", "-j DNAT --to-destination 192.0.2.1", "-j DNAT --to-destination 192.0.2.1:80 --random", "-j DNAT --to-destination [2001:db8::1]:80",
	"-m conntrack --ctstate NEW,DNAT", "-m conntrack ! --ctstate NEW", "-m conntrack --ctorigdst 192.0.2.1", "-m conntrack --ctorigdst 192.0.2.1 --ctorigdstport 80:81", "-m conntrack ! --ctorigdst 192.0.2.1 --ctorigdstport 80", "-j CT", "-j CT --notrack --zone 1", "-j NOTRACK --x", "-j DROP --x", "-c 1 2 -j DROP",
	"-j SYNPROXY --ecn", "-j SYNPROXY --mss", "-j SYNPROXY --mss x", "-j SYNPROXY --mss 65536", "-j SYNPROXY --wscale 256",
	"-j SYNPROXY --mss 1 --mss 2", "-j SYNPROXY --wscale 1 --wscale 2", "-j SYNPROXY -p tcp",
	"-j TCPOPTSTRIP", "-j TCPOPTSTRIP --strip-options", "-j TCPOPTSTRIP --strip-options x", "-j TCPOPTSTRIP --strip-options 256",
	"-j TCPOPTSTRIP --strip-options 8,", "-j TCPOPTSTRIP ! --strip-options 8",
	"-s", "-s x", "-s 192.0.2.0/255.0.255.0", "-s 2001:db8::1/128", "-s 192.0.2.1/24", "-s 192.0.2.1 -s 192.0.2.2", "-s fe80::1%eth0",
	"-i", "-i eth0 -i eth1", "-o eth0", "-f", "! -f", "-p", "-p udp", "-p all", "! -p tcp", "-p tcp -p tcp", "-m", "-m tcp", "--dport 80",
	"-p tcp -m tcp --dport 80:90", "-p tcp -m tcp --dport 0", "-p tcp -m tcp --dport 65536", "-p tcp -m tcp --dport http", "-p tcp -m tcp --dport",
	"-p tcp -m tcp ! --dport 80", "-p tcp -m tcp --dport 80 --dport 80", "-p tcp -m tcp ! --sport 80", "-p tcp -m tcp --dport -80",
	"-p tcp -m tcp ! --tcp-flags SYN SYN", "-p tcp -m tcp --tcp-flags SYN", "-p tcp -m tcp --tcp-flags", "-p tcp -m tcp --tcp-flags SYN ACK",
	"-p tcp -m tcp --tcp-flags NONE NONE", "-p tcp -m tcp --tcp-flags SYN X", "-p tcp -m tcp --syn --syn", "-p tcp ! --syn",
	"-p tcp --tcp-flags SYN SYN --syn", "-p tcp -m tcp --tcp-option 8", "-p tcp -m multiport --dports 80,443",
	"-m conntrack", "-m conntrack --ctstate", "-m conntrack ! --ctstate NEW", "-m conntrack --ctstate NEW,",
	"-m conntrack --ctstatus ASSURED", "-m conntrack --ctstate NEW --ctproto 6", "-m conntrack --ctstate NEW -m conntrack --ctstate INVALID",
	"-m state --state NEW", "! -m conntrack --ctstate NEW",
	"-m addrtype --dst-type UNICAST", "-m addrtype --src-type UNICAST", "-m addrtype --src-type LOCAL --limit-iface-in", "-m addrtype",
	"-m owner --uid-owner 0", "-m owner ! --socket-exists --uid-owner 0", "-m owner",
	`-m u32 --u32 "0x20&0xffff=0x0:0x5"`, `-m u32 --u32 "0x0>>0x16&0x3c@0xc>>0x10=0x0"`, "-m u32 --u32 0x100&0x1=0x1", "-m u32 --u32 1=2",
	"-m u32 --u32 1&2", "-m u32 ! --u32 1&2=3", "-m u32 --u32 0&0x100000000=0", `-m u32 --u32 "0x0&0x1=0x1&&0x4&0x1=0x1"`,
	`-m comment --comment ""`, "-m comment --comment \"a\tb\"", "-m comment --comment \"a\nb\"", "-m comment --comment a -m comment --comment b",
	"-m comment", "-m comment --comment", "-m comment ! --comment x", "-m comment --comment " + strings.Repeat("x", 256),
	"-m limit --limit 3/sec", "-m set --match-set x src", "-m set --match-set theirs dst,dst", "-m set --match-set SYNPROXYCTL dst,dst", "-m set ! --match-set synproxyctl_x dst,dst",
	"-m set --match-set synproxyctl_x dst", "-m set --match-set synproxyctl_x src,dst", "-m set --match-set synproxyctl_x dst,src", "-m set --match-set synproxyctl_x", "-m set --match-set", "-m set",
	"-m set --match-set synproxyctl_x dst,dst --update-counters", "-m set --match-set synproxyctl_x dst,dst ! --update-subcounters",
	"-m set --match-set synproxyctl_x dst,dst --return-nomatch", "-m set --match-set synproxyctl_x dst,dst ! --update-counters --packets-gt 5",
	"-m set --match-set synproxyctl_x dst,dst -m set --match-set synproxyctl_y dst,dst", "-j SYNPROXY --map", "-j SYNPROXY --map a --mss 1", "-j SYNPROXY --mss 1 --map a", "-j SET --add-set synproxyctl_x dst,dst",
	"-m string --string \"x \\\" y\" --algo bm", "-m u32 --u32 1&0x1=x", "loose words",
}

func TestParseRuleForeign(t *testing.T) {
	for _, text := range foreignTexts {
		got, err := ParseRule(IPv4, Filter, "INPUT", text)
		if diff := cmp.Diff(foreign("INPUT", text), got, compareTypes); err != nil || diff != "" {
			t.Errorf("%q: %v; -want +got:\n%s", text, err, diff)
		}
		if got.String() != text {
			t.Errorf("%q is printed as %q", text, got)
		}
	}
}

func TestParseRuleBroken(t *testing.T) {
	for _, text := range []string{`-m comment --comment "x`, "-j DROP\n-A INPUT -j ACCEPT"} {
		r, err := ParseRule(IPv4, Filter, "INPUT", text)
		if err == nil || !strings.Contains(err.Error(), "rule \"") {
			t.Errorf("%q: %+v, %v; want an error that names the rule", text, r, err)
		}
	}
}

func TestSets(t *testing.T) {
	if got := TCPFlags(0).String(); got != "NONE" {
		t.Errorf("no flags: %q", got)
	}
	if got := (SYN | FIN).String(); got != "FIN,SYN" {
		t.Errorf("FIN and SYN: %q", got)
	}
	if got := (Untracked | Invalid).String(); got != "INVALID,UNTRACKED" {
		t.Errorf("invalid and untracked: %q", got)
	}
}
