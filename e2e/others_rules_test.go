package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// guards are hand-made rule sets. Each lets the friend in and denies the foe; sources of a flood are let in.
var guards = []struct {
	name   string
	rules  string
	open   bool // nobody is denied
	strict bool // everywhere, and with a flood
}{
	{name: "deny before established", rules: `
-A $CHAIN -s $FOE -j DROP
-A $CHAIN -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT`},
	{name: "deny after established, by reset", rules: `
-A $CHAIN -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A $CHAIN -m conntrack --ctstate INVALID -j DROP
-A $CHAIN -s $FOE -p tcp -j REJECT --reject-with tcp-reset`},
	{name: "allow-list of new ones", rules: `
:$CHAIN DROP
-A $CHAIN -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A $CHAIN -m conntrack --ctstate INVALID -j DROP
-A $CHAIN -i lo -j ACCEPT
-A $CHAIN -p $ICMP -j ACCEPT
-A $CHAIN -p tcp -s $FRIEND -m multiport --dports 25,80 -m conntrack --ctstate NEW -j ACCEPT
-A $CHAIN -p tcp -s $FLOOD -m conntrack --ctstate NEW -j ACCEPT`},
	{name: "all policies drop", strict: true, rules: `
:INPUT DROP
:FORWARD DROP
:OUTPUT DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A OUTPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p $ICMP -j ACCEPT
-A FORWARD -p $ICMP -j ACCEPT
-A OUTPUT -p $ICMP -j ACCEPT
-A INPUT -i lo -m addrtype --src-type LOCAL -j ACCEPT
-A OUTPUT -m addrtype --src-type LOCAL -m conntrack --ctstate NEW -j ACCEPT
-A $CHAIN -d $SERVICE -p tcp -m multiport --dports 25,80 -s $FRIEND -m conntrack --ctstate NEW -j ACCEPT
-A $CHAIN -d $SERVICE -p tcp --dport 80 -s $FLOOD -m conntrack --ctstate NEW -j ACCEPT`},
	{name: "new without SYN", rules: `
-A $CHAIN -p tcp ! --syn -m conntrack --ctstate NEW -j DROP
-A $CHAIN -m state --state ESTABLISHED -j ACCEPT
-A $CHAIN -p tcp --syn -s $FOE -m state --state NEW -j DROP`},
	{name: "deny by set", rules: `
-A $CHAIN -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A $CHAIN -m set --match-set foes src -j DROP`},
	{name: "allow by set", rules: `
-A $CHAIN -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A $CHAIN -i lo -j ACCEPT
-A $CHAIN -p $ICMP -j ACCEPT
-A $CHAIN -m set ! --match-set friends src -j DROP`},
	{name: "deny in raw", rules: `*raw
-A PREROUTING -s $FOE -j DROP
COMMIT
`},
	{name: "deny in mangle", rules: `*mangle
-A $CHAIN -s $FOE -j DROP
COMMIT
`},
	{name: "drop of what is forged", rules: `*raw
-A PREROUTING -m rpfilter --invert -j DROP
COMMIT
*mangle
-A PREROUTING -p tcp --tcp-flags SYN,FIN SYN,FIN -j DROP
-A PREROUTING -p tcp --tcp-flags SYN,RST SYN,RST -j DROP
-A PREROUTING -p tcp --syn -m tcpmss ! --mss 536:65535 -j DROP
-A PREROUTING -s $FOE -j DROP
COMMIT
`},
	{name: "masquerade", open: true, rules: `*nat
-A POSTROUTING -j MASQUERADE
COMMIT
`},
}

// TestOthersRules protects services behind hand-made rule sets: whom they let in is served, whom they deny stays out,
// and both as without the protection.
func TestOthersRules(t *testing.T) {
	t.Parallel()
	for i, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel() // all of them together, a few at a time
			test := func(s *stand) {
				s.sets()
				s.xtables(g.rules)
				s.asBefore(!g.open, func() {
					if g.strict {
						s.strictOutput()
					}
					s.apply()
				})
				if g.strict {
					s.flooded()
				}
			}
			if g.strict {
				eachStand(t, test)
			} else {
				twoStands(t, i, test)
			}
		})
	}
}

// sets makes the sets that the rules name.
func (s *stand) sets() {
	s.Helper()
	friend, foe, flood := s.addresses()
	family := map[bool]string{true: "inet6", false: "inet"}[friend.Is6()]
	for name, member := range map[string]string{"foes": foe.String(), "friends": friend.String()} {
		run(s, s.Firewall, "ipset", "create", name, "hash:net", "family", family)
		run(s, s.Firewall, "ipset", "add", name, member)
	}
	run(s, s.Firewall, "ipset", "add", "friends", flood.String())
}

// asBefore looks who gets in, protects, and wants the same again.
func (s *stand) asBefore(denied bool, protect func()) {
	s.Helper()
	if served, _ := s.getsIn(s.Client); !served {
		s.Fatal("unprotected, the friend is not served")
	}
	if served, answered := s.getsIn(s.Attacker); (served || answered) == denied {
		s.Fatalf("unprotected, the foe: served %v, SYN+ACK %v", served, answered)
	}
	protect()
	s.served()
	if denied {
		s.keptOut()
	}
	mustDo(s, s.Firewall, 0, "verify")
}

// limits are rules that count, and how many connections they let in that one client opens and keeps.
var limits = []struct {
	name  string
	rules string
	want  int
}{
	{"connlimit", `-A $CHAIN -p tcp --syn --dport 80 ! -i lo -m connlimit --connlimit-above 3 -j REJECT --reject-with tcp-reset`, 3},
	{"connlimit of all new", `-A $CHAIN -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A $CHAIN -p tcp --dport 80 -m conntrack --ctstate NEW -m connlimit --connlimit-above 3 -j DROP`, 3},
	{"hashlimit", `-A $CHAIN -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A $CHAIN -p tcp --dport 80 -m hashlimit --hashlimit-upto 1/min --hashlimit-burst 4 --hashlimit-mode srcip --hashlimit-name web -j ACCEPT
-A $CHAIN -p tcp --dport 80 -j DROP`, 4},
	{"limit", `-A $CHAIN -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A $CHAIN -p tcp --dport 80 ! -i lo -m limit --limit 1/min --limit-burst 4 -j ACCEPT
-A $CHAIN -p tcp --dport 80 ! -i lo -j DROP`, 4},
	{"recent", `-A $CHAIN -p tcp --dport 80 -m conntrack --ctstate NEW -m recent --set --name web
-A $CHAIN -p tcp --dport 80 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 --name web -j DROP`, 5},
}

// TestOthersLimits wants rules that count connections to count the same with the protection as without it.
func TestOthersLimits(t *testing.T) {
	t.Parallel()
	for i, l := range limits {
		t.Run(l.name, func(t *testing.T) {
			twoStands(t, i, func(s *stand) {
				attempts := l.want + 2
				bare := newStand(t, s.place, s.backend)
				bare.xtables(l.rules)
				s.xtables(l.rules)
				s.apply()
				without, with := bare.held(attempts), s.held(attempts)
				if without != l.want || with != l.want {
					s.Errorf("let in of %d: %d without, %d with the protection, want %d", attempts, without, with, l.want)
				}
				if _, valid := s.counters(); valid != with {
					s.Errorf("%d valid cookies for %d connections", valid, with)
				}
			})
		})
	}
}

// TestLimitsInFlight sends eight SYNs of one source before any of them is completed. Rules that count SYNs hold as
// without the protection. A limit of connections counts what conntrack knows, which are none of the handshakes that
// are under way: it holds against connections that follow each other, and not against those that begin together.
func TestLimitsInFlight(t *testing.T) {
	for i, l := range limits {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			p := place{[]rules.Hook{rules.Forward, rules.Input}[i%2], rules.IPv4}
			bare, s := newStand(t, p, turnOf(i)), newStand(t, p, turnOf(i))
			bare.xtables(l.rules)
			s.xtables(l.rules)
			s.apply()
			without, with := bare.handshakes(8), s.handshakes(8)
			_, valid := s.counters()
			want := l.want
			if i < 2 { // the limits of connections
				want = 8
			}
			if without != l.want || with != want || valid != want {
				t.Errorf("SYN+ACKs of 8: %d without, %d with the protection, %d valid cookies, want %d and %d", without, with, valid, l.want, want)
			}
		})
	}
}

// handshakes sends SYNs from one address that nobody has, then the ACKs that complete them, and returns how many SYNs
// were answered.
func (s *stand) handshakes(n int) int {
	s.Helper()
	source := netip.MustParseAddr("198.18.0.1")
	answers, err := s.Attacker.Capture("eth0", func(p lab.Packet) bool {
		return !p.Outgoing && p.Segment != nil && p.Segment.Flags == lab.SYN|lab.ACK && p.Segment.Destination.Addr() == source
	})
	if err != nil {
		s.Fatal(err)
	}
	send := func(seg lab.Segment) {
		s.Helper()
		if err := s.Attacker.SendSegment("eth0", seg); err != nil {
			s.Fatal(err)
		}
	}
	for i := range n {
		send(lab.Segment{
			Source: netip.AddrPortFrom(source, uint16(5000+i)), Destination: s.web, Seq: 1000, Flags: lab.SYN, Window: 64240, Options: []byte{2, 4, 5, 0xb4},
		})
	}
	const wait = 150 * time.Millisecond
	time.Sleep(wait)
	packets, err := answers.Stop()
	if err != nil {
		s.Fatal(err)
	}
	for _, p := range packets {
		a := p.Segment
		send(lab.Segment{Source: a.Destination, Destination: a.Source, Seq: 1001, Ack: a.Seq + 1, Flags: lab.ACK, Window: 64240})
	}
	time.Sleep(wait / 3)
	return len(packets)
}
