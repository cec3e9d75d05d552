package firewall

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestFate asks for the fate of a SYN to 192.0.2.1:80, an address of the host,
// unless the packet says otherwise.
func TestFate(t *testing.T) {
	source := func(text string) func(*Packet) { return func(p *Packet) { p.Source = prefix(text) } }
	state := func(s rules.States) func(*Packet) { return func(p *Packet) { p.States = s } }
	from := func(names ...string) func(*Packet) { return func(p *Packet) { p.In = names } }
	for _, tt := range []struct {
		name  string
		rules string // of the filter table
		p     func(*Packet)
		want  Outcome
		by    string // a part of the first rule that denies
	}{
		{"nothing", ``, nil, Accepted, ""},
		{"drop", `-A INPUT -j DROP`, nil, Denied, "-A INPUT -j DROP"},
		{"reject", `-A INPUT -p tcp -j REJECT --reject-with tcp-reset`, nil, Denied, "REJECT"},
		{"another protocol", `-A INPUT -p udp -j DROP`, nil, Accepted, ""},
		{"protocol by number", `-A INPUT -p 6 -j DROP`, nil, Denied, ""},
		{"not a protocol", `-A INPUT ! -p tcp -j DROP`, nil, Accepted, ""},
		{"port", `-A INPUT -p tcp -m tcp --dport 80 -j DROP`, nil, Denied, "--dport 80"},
		{"another port", `-A INPUT -p tcp -m tcp --dport 81 -j DROP`, nil, Accepted, ""},
		{"ports", `-A INPUT -p tcp -m tcp --dport 79:81 -j DROP`, nil, Denied, ""},
		{"ports to the end", `-A INPUT -p tcp -m tcp --dport 1024: -j DROP`, nil, Accepted, ""},
		{"not a port", `-A INPUT -p tcp -m tcp ! --dport 22 -j DROP`, nil, Denied, ""},
		{"multiport", `-A INPUT -p tcp -m multiport --dports 22,80,8000:8999 -j DROP`, nil, Denied, ""},
		{"not in multiport", `-A INPUT -p tcp -m multiport ! --dports 22,80 -j DROP`, nil, Accepted, ""},
		{"either port", `-A INPUT -p tcp -m multiport --ports 80 -j DROP`, nil, Depends, "--ports"},
		{"source port", `-A INPUT -p tcp -m tcp --sport 1024:65535 -j ACCEPT` + "\n" + `-A INPUT -j DROP`, nil, Depends, "DROP"},
		{"all source ports", `-A INPUT -p tcp -m tcp --sport 1:65535 -j ACCEPT` + "\n" + `-A INPUT -j DROP`, nil, Accepted, ""},
		{"destination", `-A INPUT -d 192.0.2.1/32 -j DROP`, nil, Denied, ""},
		{"network", `-A INPUT -d 192.0.2.0/24 -j DROP`, nil, Denied, ""},
		{"another network", `-A INPUT -d 192.0.3.0/24 -j DROP`, nil, Accepted, ""},
		{"not the network", `-A INPUT ! -d 192.0.2.0/24 -j DROP`, nil, Accepted, ""},
		{"mask", `-A INPUT -d 192.0.2.0/255.255.255.0 -j DROP`, nil, Denied, ""},
		{"odd mask", `-A INPUT -d 0.0.0.1/0.0.0.255 -j DROP`, nil, Denied, ""},
		{"odd mask of the source", `-A INPUT -s 0.0.0.1/0.0.0.255 -j DROP`, nil, Depends, ""},
		{"part of a service", `-A INPUT -d 192.0.2.1/32 -j DROP`, func(p *Packet) { p.Destination = prefix("192.0.2.0/24") }, Depends, ""},
		{"more than a service", `-A INPUT -d 192.0.0.0/16 -j DROP`, func(p *Packet) { p.Destination = prefix("192.0.2.0/24") }, Denied, ""},
		{"some sources", `-A INPUT -s 198.51.100.0/24 -j DROP`, nil, Depends, "198.51.100.0/24"},
		{"one of them", `-A INPUT -s 198.51.100.0/24 -j DROP`, source("198.51.100.7"), Denied, ""},
		{"another", `-A INPUT -s 198.51.100.0/24 -j DROP`, source("198.51.101.7"), Accepted, ""},
		{"range of sources", `-A INPUT -m iprange --src-range 198.51.100.5-198.51.100.9 -j DROP`, source("198.51.100.7"), Denied, ""},
		{"every source", `-A INPUT -s 0.0.0.0/1 -j DROP` + "\n" + `-A INPUT -s 128.0.0.0/1 -j DROP` + "\n", nil, Depends, ""},
		{"no client is on lo", `-A INPUT -s 127.0.0.0/8 -j DROP`, nil, Accepted, ""},
		{"local sources", `-A INPUT -m addrtype --src-type LOCAL -j DROP`, nil, Accepted, ""},
		{"local destination", `-A INPUT -m addrtype --dst-type LOCAL -j DROP`, nil, Denied, ""},
		{"not broadcast", `-A INPUT -m addrtype ! --dst-type BROADCAST,MULTICAST -j DROP`, nil, Denied, ""},
		{"limited to the interface", `-A INPUT -m addrtype --dst-type LOCAL --limit-iface-in -j DROP`, nil, Depends, ""},
		{"state", `-A INPUT -m conntrack --ctstate NEW -j DROP`, nil, Denied, "NEW"},
		{"not the state", `-A INPUT -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP`, nil, Denied, ""},
		{"another state", `-A INPUT -m state --state INVALID -j DROP`, nil, Accepted, ""},
		{"one of two states", `-A INPUT -m state --state INVALID -j DROP`, state(rules.Invalid | rules.Untracked), Depends, ""},
		{"each of two states", `-A INPUT -m state --state INVALID -j DROP` + "\n" + `-A INPUT -m state --state UNTRACKED -j DROP`, state(rules.Invalid | rules.Untracked), Denied, ""},
		{"flags", `-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP`, nil, Denied, ""},
		{"other flags", `-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN FIN,SYN -j DROP`, nil, Accepted, ""},
		{"not a SYN", `-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP`, nil, Accepted, ""},
		{"flags none", `-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP`, nil, Accepted, ""},
		{"lo", `-A INPUT -i lo -j DROP`, nil, Accepted, ""},
		{"not lo", `-A INPUT ! -i lo -j DROP`, nil, Denied, ""},
		{"some interface", `-A INPUT -i eth0 -j DROP`, nil, Depends, ""},
		{"its interface", `-A INPUT -i eth0 -j DROP`, from("eth0"), Denied, ""},
		{"its interfaces", `-A INPUT -i eth+ -j DROP`, from("eth0", "eth1"), Denied, ""},
		{"one of its interfaces", `-A INPUT -i eth0 -j DROP`, from("eth0", "eth1"), Depends, ""},
		{"another interface", `-A INPUT -i eth -j DROP`, from("eth0"), Accepted, ""},
		{"mark", `-A INPUT -m mark --mark 0x8000/0x8000 -j DROP`, nil, Depends, ""},
		{"limit", `-A INPUT -m limit --limit 3/min -j ACCEPT` + "\n" + `-A INPUT -j DROP`, nil, Depends, ""},
		{"set", `-A INPUT -m set --match-set bad src -j DROP`, nil, Depends, "--match-set bad"},
		{"connlimit", `-A INPUT -p tcp -m connlimit --connlimit-above 20 --connlimit-mask 32 --connlimit-saddr -j REJECT`, nil, Depends, ""},
		{"set that does not matter", `-A INPUT -p udp -m set --match-set bad src -j DROP`, nil, Accepted, ""},
		{"comment", `-A INPUT -m comment --comment "-j ACCEPT all" -j DROP`, nil, Denied, ""},
		{"log", `-A INPUT -j LOG --log-prefix "-j DROP "`, nil, Accepted, ""},
		{"queue", `-A INPUT -j NFQUEUE --queue-num 0`, nil, Depends, "NFQUEUE"},
		{"no target", `-A INPUT -p tcp`, nil, Accepted, ""},
		{"unknown target", `-A INPUT -j XYZ`, nil, Depends, "XYZ"},
		{"jump", ":a - [0:0]\n-A INPUT -j a\n-A a -j DROP", nil, Denied, "-A a -j DROP"},
		{"return", ":a - [0:0]\n-A INPUT -j a\n-A a -p tcp -j RETURN\n-A a -j DROP", nil, Accepted, ""},
		{"perhaps return", ":a - [0:0]\n-A INPUT -j a\n-A a -s 198.51.100.0/24 -j RETURN\n-A a -j DROP", nil, Depends, "-A a -j DROP"},
		{"goto", ":a - [0:0]\n-A INPUT -g a\n-A INPUT -j DROP\n-A a -p udp -j DROP", nil, Accepted, ""},
		{"perhaps jump", ":a - [0:0]\n-A INPUT -i eth0 -j a\n-A INPUT -j DROP\n-A a -j ACCEPT", nil, Depends, "-A INPUT -j DROP"},
		{"every way leads to accept", ":a - [0:0]\n-A INPUT -i eth0 -j a\n-A INPUT -j ACCEPT\n-A INPUT -j DROP\n-A a -j ACCEPT", nil, Accepted, ""},
		{"loop", ":a - [0:0]\n-A INPUT -j a\n-A a -j a", nil, Depends, ""},
		{"ours", ":SYNPROXYCTL-INPUT - [0:0]\n-A INPUT -j SYNPROXYCTL-INPUT\n-A SYNPROXYCTL-INPUT -j DROP", nil, Accepted, ""},
		{"another hook", `-A FORWARD -j DROP`, nil, Accepted, ""},
		{"old negation", `-A INPUT -s ! 198.51.100.0/24 -j DROP`, source("198.51.100.7"), Accepted, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := parse(t, filter(tt.rules)).Fate(syn(tt.p), Everything)
			if got.Outcome != tt.want {
				t.Fatalf("%s by %v, want %s", got.Outcome, got.By, tt.want)
			}
			if (len(got.By) == 0) != (tt.want == Accepted) && tt.name != "loop" {
				t.Errorf("%s by %v", got.Outcome, got.By)
			}
			if tt.by != "" && !strings.Contains(got.By[0].String(), tt.by) {
				t.Errorf("by %s, want %q", &got.By[0], tt.by)
			}
		})
	}
}

func TestFateOfPolicy(t *testing.T) {
	const policy = "*filter\n:INPUT DROP [0:0]\n"
	for lines, want := range map[string]Outcome{
		"": Denied,
		"-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n":         Accepted,
		"-A INPUT -s 10.0.0.0/8 -j ACCEPT\n":                    Depends,
		":a - [0:0]\n-A INPUT -j a\n-A a -j RETURN\n":           Denied,
		":a - [0:0]\n-A INPUT -g a\n-A INPUT -j ACCEPT\n":       Denied,
		"-A INPUT -j RETURN\n-A INPUT -j ACCEPT\n":              Denied,
		"-A INPUT -m limit --limit 1/s -j DROP\n":               Denied,
		"-A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT\n": Denied,
	} {
		got := parse(t, policy+lines+"COMMIT\n").Fate(syn(nil), Everything)
		if got.Outcome != want {
			t.Errorf("%s: %s by %v, want %s", lines, got.Outcome, got.By, want)
		}
		if want == Denied && lines == "" && got.By[0].String() != "iptables-nft ip filter INPUT: policy drop" {
			t.Errorf("by %s", &got.By[0])
		}
	}
}

// TestFateBeforeConntrack: without a connection the kernel says INVALID, and
// NOTRACK changes what comes after.
func TestFateBeforeConntrack(t *testing.T) {
	incoming := func(p *Packet) { p.Hook = Prerouting }
	for _, tt := range []struct {
		name, rules string
		p           func(*Packet)
		want        Outcome
	}{
		{"all is INVALID", table("raw", "-A PREROUTING -m conntrack --ctstate INVALID -j DROP"), incoming, Denied},
		{"nothing is NEW", table("raw", "-A PREROUTING -m conntrack --ctstate NEW -j DROP"), incoming, Accepted},
		{"by lo it has its state", table("raw", "-A PREROUTING -m conntrack --ctstate INVALID -j DROP"), func(p *Packet) { incoming(p); p.In = []string{"lo"} }, Accepted},
		{"what SYNPROXY made has its state", table("raw", "-A OUTPUT -m conntrack --ctstate INVALID -j DROP"), func(p *Packet) { p.Hook, p.Made = Output, true }, Accepted},
		{"later it is NEW", table("mangle", "-A PREROUTING -m conntrack --ctstate INVALID -j DROP"), incoming, Accepted},
		{"notrack", table("raw", "-A PREROUTING -p tcp -j CT --notrack") + table("mangle", "-A PREROUTING -m conntrack --ctstate UNTRACKED -j DROP"), incoming, Denied},
		{"perhaps notrack", table("raw", "-A PREROUTING -s 10.0.0.0/8 -j NOTRACK") + table("mangle", "-A PREROUTING -m conntrack --ctstate UNTRACKED -j DROP"), incoming, Depends},
		{"notrack after a perhaps", table("raw", "-A PREROUTING -s 10.0.0.0/8 -j RETURN\n-A PREROUTING -j LOG\n-A PREROUTING -j NOTRACK") + table("mangle", "-A PREROUTING -m conntrack --ctstate UNTRACKED -j DROP"), incoming, Depends},
		{"nat is for NEW only", table("nat", "-A PREROUTING -j DROP"), func(p *Packet) { incoming(p); p.States = rules.Established }, Accepted},
		{"nat", table("nat", "-A PREROUTING -j DROP"), incoming, Denied},
		{"reverse path", table("mangle", "-A PREROUTING -m rpfilter --validmark --invert -j DROP"), incoming, Depends},
		{"reverse path on lo", table("mangle", "-A PREROUTING -m rpfilter --validmark --invert -j DROP"), func(p *Packet) { incoming(p); p.In = []string{"lo"} }, Accepted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := parse(t, tt.rules).Fate(syn(tt.p), Everything); got.Outcome != tt.want {
				t.Errorf("%s by %v, want %s", got.Outcome, got.By, tt.want)
			}
		})
	}
}

// TestDeniedBy: of the rules that may deny, the one that surely does is named.
func TestDeniedBy(t *testing.T) {
	fw := parse(t, filter(":a - [0:0]\n-A INPUT -s 10.0.0.0/8 -j a\n-A INPUT -j DROP\n-A a -j DROP"))
	got := fw.Fate(syn(nil), Everything)
	if got.Outcome != Denied || len(got.By) != 2 {
		t.Errorf("%s by %v, want both", got.Outcome, got.By)
	}
	p := syn(func(p *Packet) { p.Source = prefix("10.0.0.1") })
	if got := fw.Fate(p, Everything); len(got.By) != 1 || got.By[0].Text != "-A a -j DROP" {
		t.Errorf("%s by %v, want that of chain a", got.Outcome, got.By)
	}
}

// TestFateOfNobody: what SYNPROXY makes has no socket, and what others send may have one.
func TestFateOfNobody(t *testing.T) {
	const policy = "*filter\n:OUTPUT DROP [0:0]\n"
	for lines, want := range map[string][2]Outcome{
		"-A OUTPUT -m owner --socket-exists -j ACCEPT\n":   {Denied, Depends},
		"-A OUTPUT -m owner ! --socket-exists -j ACCEPT\n": {Accepted, Depends},
		"-A OUTPUT -m owner --uid-owner 0 -j ACCEPT\n":     {Denied, Depends},
		"-A OUTPUT -m owner --gid-owner 0 -j ACCEPT\n":     {Denied, Depends},
		"-A OUTPUT -m owner ! --uid-owner 0 -j ACCEPT\n":   {Depends, Depends},
	} {
		for i, made := range []bool{true, false} {
			got := parse(t, policy+lines+"COMMIT\n").Fate(syn(func(p *Packet) { p.Hook, p.Made = Output, made }), Everything)
			if got.Outcome != want[i] {
				t.Errorf("%s: made %v: %s by %v, want %s", lines, made, got.Outcome, got.By, want[i])
			}
		}
	}
}

func TestWindow(t *testing.T) {
	fw := parse(t, table("mangle", "-A INPUT -j DROP"))
	for _, tt := range []struct {
		w    Window
		want Outcome
	}{
		{Everything, Denied},
		{Everything.Before(PriorityMangle), Accepted},
		{Everything.Before(PriorityMangle + 1), Denied},
		{Everything.After(PriorityMangle), Accepted},
		{Everything.After(PriorityMangle - 1), Denied},
		{Window{From: Everything.From, To: Everything.To, Without: func(c *Chain) bool { return c.Table == "mangle" }}, Accepted},
	} {
		if got := fw.Fate(syn(nil), tt.w); got.Outcome != tt.want {
			t.Errorf("%+v: %s, want %s", tt.w, got.Outcome, tt.want)
		}
	}
}

// TestTranslation reads Docker's rules, and some more.
func TestTranslation(t *testing.T) {
	docker := loadFile(t, "docker.save")
	redirect := parse(t, table("nat", "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080"))
	balance := parse(t, table("nat", "-A PREROUTING -p tcp -m tcp --dport 80 -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.0.0.1\n-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2-10.0.0.3:81"))
	published := func(h Hook, in ...string) Packet {
		return syn(func(p *Packet) { p.Hook, p.In, p.DestinationPort = h, in, 8080 })
	}
	to := netip.MustParseAddrPort
	for _, tt := range []struct {
		name    string
		fw      Firewall
		p       Packet
		to      netip.AddrPort
		rule    string
		certain bool
	}{
		{"from outside", docker, published(Prerouting, "eth0"), to("172.17.0.2:80"), "DOCKER, rule 2", true},
		{"from anywhere", docker, published(Prerouting), to("172.17.0.2:80"), "DOCKER, rule 2", false},
		{"from containers", docker, published(Prerouting, "docker0"), netip.AddrPort{}, "", false},
		{"from the proxy", docker, published(Output), to("172.17.0.2:80"), "DOCKER, rule 2", true},
		{"another port", docker, syn(func(p *Packet) { p.Hook = Prerouting }), netip.AddrPort{}, "", false},
		{"not to this machine", docker, syn(func(p *Packet) { p.Hook, p.DestinationPort, p.DestinationLocal = Prerouting, 8080, false }), netip.AddrPort{}, "", false},
		{"redirect", redirect, syn(func(p *Packet) { p.Hook = Prerouting }), netip.AddrPortFrom(netip.Addr{}, 8080), "REDIRECT", true},
		{"perhaps", balance, syn(func(p *Packet) { p.Hook = Prerouting }), to("10.0.0.1:80"), "statistic", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to, rule, certain := tt.fw.Translation(tt.p)
			if to != tt.to || certain != tt.certain || (rule == nil) != (tt.rule == "") {
				t.Fatalf("%s by %v, certain %t, want %s by %q, certain %t", to, rule, certain, tt.to, tt.rule, tt.certain)
			}
			if rule != nil && !strings.Contains(rule.String(), tt.rule) {
				t.Errorf("by %s, want %q", rule, tt.rule)
			}
		})
	}
}

func TestDNATTarget(t *testing.T) {
	addr := netip.MustParseAddr
	for text, want := range map[string]Target{
		"10.0.0.1":               {Addr: addr("10.0.0.1")},
		"10.0.0.1:80":            {Addr: addr("10.0.0.1"), Port: 80},
		":80":                    {Port: 80},
		"10.0.0.1-10.0.0.9:80":   {Addr: addr("10.0.0.1"), Port: 80, Many: true},
		"10.0.0.1:80-90":         {Addr: addr("10.0.0.1"), Port: 80, Many: true},
		"2001:db8::1":            {Addr: addr("2001:db8::1")},
		"[2001:db8::1]:80":       {Addr: addr("2001:db8::1"), Port: 80},
		"[2001:db8::1]":          {Addr: addr("2001:db8::1")},
		"2001:db8::1-2001:db8::": {Addr: addr("2001:db8::1"), Many: true},
		"x:y":                    {Many: true},
		"":                       {},
	} {
		if got := dnatTarget(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}
