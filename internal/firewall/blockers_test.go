package firewall

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// service is 192.0.2.1:80 at a hook, in tracked mode or not.
func service(h Hook, tracked bool) Service {
	return Service{Destination: prefix("192.0.2.1"), Port: 80, Hook: h, Tracked: tracked, Backend: IPTablesNFT}
}

func codes(bs []Blocker) []string {
	var all []string
	for _, b := range bs {
		all = append(all, string(b.Severity)+" "+b.Code)
	}
	return all
}

func TestBlockers(t *testing.T) {
	in, fwd := service(Input, true), service(Forward, true)
	inUntracked, fwdUntracked := service(Input, false), service(Forward, false)
	nat := inUntracked
	nat.Port, nat.To = 8080, netip.MustParseAddrPort("172.17.0.2:80")
	const strict = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n" +
		"-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n" +
		"-A INPUT -m conntrack --ctstate INVALID -j DROP\n-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT\n" +
		"-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\nCOMMIT\n"
	for _, tt := range []struct {
		name  string
		s     Service
		rules string
		want  []string
	}{
		{"nothing", in, "", nil},
		{"nothing", fwdUntracked, "", nil},
		{"INVALID in filter is harmless", in, filter("-A INPUT -m conntrack --ctstate INVALID -j DROP"), nil},
		{"INVALID in filter is harmless, routed", fwd, filter("-A FORWARD -m conntrack --ctstate INVALID -j DROP"), nil},
		{"INVALID in prerouting", in, table("mangle", "-A PREROUTING -m conntrack --ctstate INVALID -j DROP"), []string{"fatal invalid-drop"}},
		{"INVALID in prerouting, untracked", fwdUntracked, table("mangle", "-A PREROUTING -m conntrack --ctstate INVALID -j DROP"), []string{"fatal invalid-drop"}},
		{"INVALID in prerouting, of some", in, table("mangle", "-A PREROUTING -m conntrack --ctstate INVALID -m limit --limit 1/s -j DROP"), []string{"warning invalid-drop"}},
		{"a list in prerouting is none", in, table("mangle", "-A PREROUTING -m set --match-set bad src -j DROP"), nil},
		{"INVALID in mangle behind us", in, table("mangle", "-A INPUT -m conntrack --ctstate INVALID -j DROP"), nil},
		{"what is no SYN must not be NEW", in, table("mangle", "-A PREROUTING -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP"), nil},
		{"sane MSS", in, table("mangle", "-A PREROUTING -p tcp -m conntrack --ctstate NEW -m tcpmss ! --mss 536:65535 -j DROP"), nil},
		{"an allow-list", in, strict, nil},
		{"an allow-list, untracked", inUntracked, strict, []string{"fatal notrack-denied"}},
		{"all is denied", in, filter("-A INPUT -p tcp -m tcp --dport 80 -j DROP"), []string{"warning service-denied"}},
		{"all is denied early", in, table("raw", "-A PREROUTING -p tcp -m tcp --dport 80 -j DROP"), []string{"warning service-denied"}},
		{"strict output", fwd, "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n", nil},
		{"strict output without established", fwd, "*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n", nil},
		{"no spoofing", fwd, table("mangle", "-A OUTPUT -m addrtype ! --src-type LOCAL -j DROP"), []string{"fatal output-drop", "fatal synack-drop"}},
		{"no spoofing, local", in, table("mangle", "-A OUTPUT -m addrtype ! --src-type LOCAL -j DROP"), []string{"fatal output-drop"}},
		{"no spoofing by address", in, table("mangle", "-A OUTPUT ! -s 192.0.2.0/24 -j DROP"), []string{"fatal output-drop"}},
		{"a denied source is the host's will", in, table("mangle", "-A OUTPUT -s 198.51.100.0/24 -j DROP"), nil},
		{"no strangers on lo", in, table("raw", "-A PREROUTING -i lo ! -s 127.0.0.0/8 -j DROP"), []string{"fatal lo-spoof-drop"}},
		{"no strangers on lo, routed", fwd, table("raw", "-A PREROUTING -i lo ! -s 127.0.0.0/8 -j DROP"), nil},
		{"no strangers on lo, in the filter", in, filter("-A INPUT -i lo ! -s 127.0.0.0/8 -j DROP"), nil},
		{"no loopback from outside", in, table("raw", "-A PREROUTING ! -i lo -s 127.0.0.0/8 -j DROP"), nil},
		{"INVALID in mangle output", inUntracked, table("mangle", "-A OUTPUT -m conntrack --ctstate INVALID -j DROP"), []string{"fatal synack-drop"}},
		{"INVALID in mangle output, tracked", in, table("mangle", "-A OUTPUT -m conntrack --ctstate INVALID -j DROP"), nil},
		{"INVALID in postrouting", inUntracked, table("mangle", "-A POSTROUTING -m conntrack --ctstate INVALID,UNTRACKED -j DROP"), []string{"fatal synack-drop"}},
		{"zone", in, table("raw", "-A PREROUTING -i eth0 -j CT --zone 7"), []string{"fatal zone"}},
		{"zone of another service", in, table("raw", "-A PREROUTING -p udp -j CT --zone 7"), nil},
		{"zone of what goes out", fwd, table("raw", "-A OUTPUT -p tcp -j CT --zone 7"), []string{"fatal zone"}},
		{
			"another SYNPROXY", inUntracked, table("raw", "-A PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j CT --notrack") +
				filter("-A INPUT -p tcp -m tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460"),
			[]string{"warning another-synproxy"},
		},
		{"SYNs are not tracked", in, table("raw", "-A PREROUTING -p tcp -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN -j CT --notrack"), nil},
		{"a SYNPROXY of another port", in, filter("-A INPUT -p tcp -m tcp --dport 443 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460"), nil},
		{"no tracking", inUntracked, table("raw", "-A PREROUTING -p tcp -m tcp --dport 80 -j CT --notrack"), []string{"fatal notrack"}},
		{"no tracking of answers", in, table("raw", "-A OUTPUT -p tcp -m tcp --sport 80 -j NOTRACK"), []string{"fatal notrack"}},
		{"no tracking of routed answers", fwd, table("raw", "-A PREROUTING -p tcp -m tcp --sport 80 -j NOTRACK"), []string{"fatal notrack"}},
		{"no tracking of something else", in, table("raw", "-A PREROUTING -p udp -j CT --notrack"), nil},
		{"kube-proxy", in, filter(":KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\n-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP"), []string{"warning kube-proxy"}},
		{"cilium", in, filter(":CILIUM_INPUT - [0:0]\n-A INPUT -j CILIUM_INPUT"), []string{"warning cilium"}},
		{"published by Docker", nat, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := parse(t, tt.rules).Blockers(tt.s)
			if diff := cmp.Diff(tt.want, codes(got)); diff != "" {
				t.Errorf("(-want +got):\n%s\n%+v", diff, got)
			}
			for _, b := range got {
				if b.Rule == "" || b.Message == "" || b.Hint == "" {
					t.Errorf("something is missing: %+v", b)
				}
			}
		})
	}
}

// TestRealRuleSets takes those of ufw and of Docker.
func TestRealRuleSets(t *testing.T) {
	ufw, docker := loadFile(t, "ufw.save"), loadFile(t, "docker.save")
	at := func(port uint16, tracked bool) Service {
		s := service(Input, tracked)
		s.Port = port
		return s
	}
	published := at(8080, false)
	published.To = netip.MustParseAddrPort("172.17.0.2:80")
	for _, tt := range []struct {
		name     string
		fw       Firewall
		s        Service
		want     []string
		restrict string // a part of the rule that restricts
	}{
		{"ufw allow", ufw, at(80, true), nil, ""},
		{"ufw allow, untracked", ufw, at(80, false), nil, ""},
		{"ufw limit", ufw, at(22, true), nil, "-s 10.77.3.0/24 -j DROP"},
		{"ufw allow from", ufw, at(5432, true), nil, "10.77.3.0/24"},
		{"ufw does not allow", ufw, at(81, true), []string{"warning service-denied", "warning service-denied"}, "10.77.3.0/24"},
		{"ufw, routed", ufw, service(Forward, true), []string{"warning service-denied"}, "FORWARD: policy drop"},
		{"Docker", docker, published, nil, "DOCKER-ISOLATION-STAGE-2"},
		{"Docker, another service", docker, at(22, false), nil, ""},
		{"Docker, routed", docker, service(Forward, false), nil, "DOCKER-ISOLATION-STAGE-2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.fw.Blockers(tt.s)
			if diff := cmp.Diff(tt.want, codes(got)); diff != "" {
				t.Errorf("(-want +got):\n%s\n%+v", diff, got)
			}
			fate, restricted := tt.fw.Restricts(tt.s)
			if restricted != (tt.restrict != "") {
				t.Fatalf("restricted: %t by %v, want %q", restricted, fate.By, tt.restrict)
			}
			if restricted && !strings.Contains(fate.By[0].String(), tt.restrict) {
				t.Errorf("restricted by %v, want %q", fate.By, tt.restrict)
			}
		})
	}
}

// TestRestrictsByState tells what only tracked mode honours in prerouting.
func TestRestrictsByState(t *testing.T) {
	for lines, want := range map[string]bool{
		"": false,
		"-A PREROUTING -p tcp -m conntrack --ctstate NEW -m tcpmss ! --mss 536:65535 -j DROP": true,
		"-A PREROUTING -s 198.51.100.0/24 -j DROP":                                            false,
		"-A PREROUTING -m conntrack --ctstate INVALID -j DROP":                                false,
		"-A INPUT -s 198.51.100.0/24 -j DROP":                                                 true,
		"-A FORWARD -s 198.51.100.0/24 -j DROP":                                               false,
	} {
		if fate, got := parse(t, table("mangle", lines)).Restricts(service(Input, false)); got != want {
			t.Errorf("%s: %t by %v, want %t", lines, got, fate.By, want)
		}
	}
}

// TestMarking asks whether SYNPROXY's own packets get the mark 1, of which routes may depend.
func TestMarking(t *testing.T) {
	const set, restore = "-A PREROUTING -i eth0 -j CONNMARK --set-xmark 0x1/0xffffffff\n", "-A PREROUTING -i eth1 -j CONNMARK --restore-mark\n"
	in, inUntracked, fwd := service(Input, true), service(Input, false), service(Forward, true)
	for _, tt := range []struct {
		name, rules string
		s           Service
		want        string // the end of the rule; empty: nothing to be said
		missing     bool
	}{
		{"no rules", "", fwd, "", false},
		{"multi-WAN", set + restore, fwd, "--set-xmark 0x1/0xffffffff", true},
		{"multi-WAN, saved", "-A PREROUTING -i eth0 -j MARK --set-xmark 0x1/0xffffffff\n-A PREROUTING -j CONNMARK --save-mark\n" + restore, fwd, "--save-mark", true},
		{"never restored", set, fwd, "", false},
		{"never set", restore, fwd, "", false},
		{"another mark", strings.ReplaceAll(set, "0x1", "0x2") + restore, fwd, "", false},
		{"other bits", strings.ReplaceAll(set, "0x1/0xffffffff", "0x10/0xf0") + restore, fwd, "", false},
		{"by the server's port", "-A PREROUTING -p tcp -m tcp --sport 80 -j MARK --set-xmark 0x1/0xffffffff", fwd, "0x1/0xffffffff", true},
		{"by the server's port, local", "-A OUTPUT -p tcp -m tcp --sport 80 -j MARK --set-xmark 0x1/0xffffffff", in, "", false},
		{"after routing", "-A FORWARD -j MARK --set-xmark 0x1/0xffffffff\n-A POSTROUTING -j MARK --set-xmark 0x1/0xffffffff", fwd, "", false},
		{"mended by half", set + restore + "-A OUTPUT -p tcp -m tcp --sport 80 -j MARK --set-xmark 0x1/0xffffffff", fwd, "0x1/0xffffffff", false},
		{"mended", set + restore + "-A OUTPUT -p tcp -m tcp --sport 80 -j MARK --set-xmark 0x1/0xffffffff\n-A OUTPUT -p tcp -m tcp --dport 80 -j CONNMARK --set-xmark 0x1/0xffffffff", fwd, "", false},
		{"restored in OUTPUT", set + "-A OUTPUT -j CONNMARK --restore-mark", in, "0x1/0xffffffff", false},
		{"restored in OUTPUT, untracked", set + "-A OUTPUT -j CONNMARK --restore-mark", inUntracked, "0x1/0xffffffff", true},
		{"of datagrams", "-A PREROUTING -p udp -j MARK --set-xmark 0x1/0xffffffff", fwd, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, found := parse(t, table("mangle", tt.rules)).Marking(tt.s, []string{"eth1"}, 1, 0xff)
			if found != (tt.want != "") || !strings.HasSuffix(m.Rule.Text, tt.want) || m.Missing != tt.missing {
				t.Errorf("%t: missing %t by %q, want %t by %q", found, m.Missing, m.Rule.Text, tt.missing, tt.want)
			}
		})
	}
}

// FuzzDump has no dump of iptables-save panic or take forever.
func FuzzDump(f *testing.F) {
	f.Add(filter("-A INPUT -s ! 10.0.0.0/255.0.255.0 -p tcp -m multiport --dports 1,2:3 -j DROP"))
	f.Add(table("nat", ":a - [0:0]\n-A PREROUTING -j a\n-A a -g a\n-A a -j DNAT --to-destination [::1]:1-2"))
	f.Add(table("mangle", "-A PREROUTING -m conntrack ! --ctstate NEW -i eth+ -m mark --mark 1/3 -m rpfilter --invert -j CT --zone 1"))
	f.Fuzz(func(t *testing.T, text string) {
		for _, family := range rules.Families {
			d, err := rules.ParseSave(family, "", []byte(text))
			if err != nil {
				return
			}
			fw := New(FromDump(IPTablesNFT, d)...)
			for _, s := range []Service{service(Input, true), service(Forward, false)} {
				if family == rules.IPv6 {
					s.Destination = prefix("2001:db8::/64")
				}
				for _, b := range fw.Blockers(s) {
					if b.Rule == "" {
						t.Errorf("no rule: %+v", b)
					}
				}
				fw.Restricts(s)
				fw.Marking(s, nil, 1, 1)
				fw.Translation(s.toService(Prerouting, rules.SYN, rules.New))
			}
		}
	})
}
