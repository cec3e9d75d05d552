package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// dockerRules are those that Docker 28 makes for a container that publishes its port 80 as 8080 and its port 25 as
// 2525: eth1 is its bridge, the server the container.
const dockerRules = `*filter
:FORWARD DROP
:DOCKER -
:DOCKER-BRIDGE -
:DOCKER-CT -
:DOCKER-FORWARD -
:DOCKER-ISOLATION-STAGE-1 -
:DOCKER-ISOLATION-STAGE-2 -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d $SERVICE ! -i eth1 -o eth1 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d $SERVICE ! -i eth1 -o eth1 -p tcp -m tcp --dport 25 -j ACCEPT
-A DOCKER ! -i eth1 -o eth1 -j DROP
-A DOCKER-BRIDGE -o eth1 -j DOCKER
-A DOCKER-CT -o eth1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i eth1 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i eth1 ! -o eth1 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o eth1 -j DROP
COMMIT
*nat
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d $LOOPBACK -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s $INSIDE ! -o eth1 -j MASQUERADE
-A DOCKER ! -i eth1 -p tcp -m tcp --dport 8080 -j DNAT --to-destination $TARGET:80
-A DOCKER ! -i eth1 -p tcp -m tcp --dport 2525 -j DNAT --to-destination $TARGET:25
COMMIT
`

// dockerDirect is what keeps packets to the container's own address out, unless its network is nat-unprotected.
const dockerDirect = `*raw
-A PREROUTING -d $SERVICE ! -i eth1 -j DROP
COMMIT
`

// docker puts Docker's rules on the firewall, and returns the published addresses.
func (s *stand) docker(more string) (web, mail netip.AddrPort) {
	s.Helper()
	public, loopback, inside, target := lab.FirewallV4, "127.0.0.0/8", "10.77.2.0/24", s.web.Addr().String()
	if s.family == rules.IPv6 {
		public, loopback, inside, target = lab.FirewallV6, "::1/128", "fd77:2::/64", "["+target+"]"
	}
	s.xtables(strings.NewReplacer("$LOOPBACK", loopback, "$INSIDE", inside, "$TARGET", target).Replace(dockerRules + more))
	return netip.AddrPortFrom(public, 8080), netip.AddrPortFrom(public, 2525)
}

// TestDockerPublished protects a published port by its public address, one service that speaks first and one that does not.
func TestDockerPublished(t *testing.T) {
	t.Parallel()
	for turn := range 2 {
		for i, backend := range backends {
			p := place{rules.Forward, rules.Families[(turn+i)%2]}
			t.Run(backend+"-"+p.String(), func(t *testing.T) {
				t.Parallel()
				for port, mode := range map[int]lab.Mode{80: lab.ClientFirst, 25: lab.ServerFirst} {
					s := newStand(t, p, backend)
					web, mail := s.docker(dockerDirect)
					to := s.web
					s.web, s.mail = web, mail
					public := web
					if port == 25 {
						to, public = netip.AddrPortFrom(to.Addr(), 25), mail
					}
					mustDo(s, s.Firewall, 0, "apply", public.String(), "--to", to.String(), "--backend", backend)
					before, _ := s.counters()
					s.good(public, lab.LoadConfig{Connections: 20, Mode: mode})
					s.good(public, lab.LoadConfig{Connections: 5, LocalPort: 40000, Mode: mode})
					s.good(public, lab.LoadConfig{Connections: 5, LocalPort: 40001, Mode: mode, Reset: true})
					if _, valid := s.counters(); valid-before != 30 {
						s.Errorf("%d cookies came back of 30", valid-before)
					}
					if port == 80 {
						s.flooded()
					}
					mustDo(s, s.Firewall, 0, "verify")
				}
			})
		}
	}
}

// dockerDenials are ways to keep the foe from published ports. With the protection the SYN never meets FORWARD: it is
// answered on its way in, untracked, and the connection to the container begins on this machine. So apply must not begin
// where FORWARD, or the translation itself, decides who gets in; what PREROUTING denies stays out.
var dockerDenials = []struct {
	name, rules string
	refused     bool
}{
	{"DOCKER-USER", "-A DOCKER-USER -s $FOE -j DROP", true},
	{"DOCKER-USER, new ones", "-A DOCKER-USER -s $FOE -m conntrack --ctstate NEW -j DROP", true},
	{"DOCKER-USER, after established", "-A DOCKER-USER -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n-A DOCKER-USER -s $FOE -j DROP", true},
	{"DOCKER-USER, allow-list", "-A DOCKER-USER -i eth2 ! -s $FLOOD -j DROP", true},
	{"DOCKER-USER, by original port", "-A DOCKER-USER -s $FOE -p tcp -m conntrack --ctorigdstport 8080 -j DROP\n-A DOCKER-USER -s $FOE -p tcp -m conntrack --ctorigdstport 2525 -j DROP", true},
	{"mangle FORWARD", "*mangle\n-A FORWARD -s $FOE -j DROP\nCOMMIT\n", true},
	{"nat PREROUTING", "*nat\n-I PREROUTING -s $FOE -j ACCEPT\nCOMMIT\n", true},
	{"mangle PREROUTING", "*mangle\n-A PREROUTING -s $FOE -j DROP\nCOMMIT\n", false},
	{"raw PREROUTING", "*raw\n-A PREROUTING -s $FOE -j DROP\nCOMMIT\n", false},
}

// TestDockerWho compares who gets in to a published port with and without the protection.
func TestDockerWho(t *testing.T) {
	t.Parallel()
	for i, d := range dockerDenials {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, place{rules.Forward, rules.Families[i%2]}, turnOf(i))
			web, mail := s.docker("")
			s.xtables(d.rules)
			server := s.web.Addr()
			s.web, s.mail = web, mail
			if served, answered := s.getsIn(s.Attacker); served || answered {
				s.Fatalf("unprotected, the foe: served %v, SYN+ACK %v", served, answered)
			}
			for port, public := range map[int]netip.AddrPort{80: web, 25: mail} {
				exit := map[bool]int{true: 5}[d.refused]
				mode := map[int]lab.Mode{80: lab.ClientFirst, 25: lab.ServerFirst}[port]
				mustDo(s, s.Firewall, exit, "apply", public.String(), "--to", netip.AddrPortFrom(server, uint16(port)).String(), "--backend", s.backend)
				s.good(public, lab.LoadConfig{Connections: 5, Mode: mode})
				if served, answered := s.getsIn(s.Attacker); served || answered || s.hears(s.Attacker, mail) {
					s.Errorf("after apply, the foe: served %v, SYN+ACK %v", served, answered)
				}
			}
		})
	}
}

// TestDockerContainer protects the container's own addresses. Whom DOCKER-USER denies stays out, and those who come by
// the published ports get in as before: a cookie for the translated address would not hold.
func TestDockerContainer(t *testing.T) {
	t.Parallel()
	for _, family := range rules.Families {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			s := newStand(t, place{rules.Forward, family}, rules.NFT)
			web, mail := s.docker("*filter\n-A DOCKER-USER -s $FOE -j DROP\nCOMMIT\n")
			s.asBefore(true, func() { s.apply() })
			s.web, s.mail = web, mail
			if served, _ := s.getsIn(s.Client); !served {
				s.Error("published ports are dead when the container's own are protected")
			}
		})
	}
}

// TestDockerWithoutTo asks for published addresses as if they were the machine's own services: the host's own rules lead
// the proxy's connections to the container, wherever that moves.
func TestDockerWithoutTo(t *testing.T) {
	t.Parallel()
	for _, family := range rules.Families {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			p := place{rules.Forward, family}
			s := newStand(t, p, rules.NFT)
			s.web, s.mail = s.docker(dockerDirect)
			done := mustDo(s, s.Firewall, 0, "apply", s.web.String(), s.mail.String())
			for _, each := range done["services"].([]any) {
				if service := each.(map[string]any); service["published"] != true || service["mode"] != "notrack" || service["source"] != "probed" {
					s.Errorf("service: %v", service)
				}
			}
			if out := run(s, s.Firewall, p.program(rules.NFT), "-t", "nat", "-S"); strings.Contains(out, "SYNPROXYCTL") {
				s.Errorf("a translation of our own beside Docker's:\n%s", out)
			}
			_, was := s.counters()
			s.good(s.web, lab.LoadConfig{Connections: 20, Mode: lab.ClientFirst})
			s.good(s.mail, lab.LoadConfig{Connections: 20, Mode: lab.ServerFirst})
			if _, valid := s.counters(); valid-was != 40 {
				s.Errorf("%d cookies came back of 40", valid-was)
			}
			mustDo(s, s.Firewall, 0, "verify")
		})
	}
}

// TestRedirect protects a port of the firewall whose server listens on another port of it, where OUTPUT lets go only
// what belongs to accepted connections and what is the machine's own.
func TestRedirect(t *testing.T) {
	const strict = `:INPUT DROP
:FORWARD DROP
:OUTPUT DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A OUTPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p $ICMP -j ACCEPT
-A OUTPUT -p $ICMP -j ACCEPT
-A INPUT -i lo -m addrtype --src-type LOCAL -j ACCEPT
-A OUTPUT -m addrtype --src-type LOCAL -j ACCEPT`
	for _, backend := range backends {
		for _, family := range rules.Families {
			p := place{rules.Input, family}
			t.Run(backend+"-"+p.String(), func(t *testing.T) {
				t.Parallel()
				s := newStand(t, p, backend)
				if backend == rules.Legacy {
					foreignRules(s, s.Firewall) // its tables cannot be unmade
				}
				s.xtables(strict)
				// Nobody else may reach the real ports: then not by another name either.
				public := netip.AddrPortFrom(s.web.Addr(), s.web.Port()+8000)
				mustDo(s, s.Firewall, 5, "apply", public.String(), "--to", s.web.String(), "--backend", backend)
				s.xtables("-A INPUT -p tcp -m multiport --dports 25,80 -m conntrack --ctstate NEW -j ACCEPT")
				strictOutput(s, s.Firewall, p, backend, netip.AddrPortFrom(s.web.Addr(), 8080).String(), "--to", s.web.String())
				before := dump(s, s.Firewall)
				for server, mode := range map[netip.AddrPort]lab.Mode{s.web: lab.ClientFirst, s.mail: lab.ServerFirst} {
					public := netip.AddrPortFrom(server.Addr(), server.Port()+8000)
					mustDo(s, s.Firewall, 0, "apply", public.String(), "--to", server.String(), "--backend", backend)
					_, was := s.counters()
					s.good(public, lab.LoadConfig{Connections: 20, Mode: mode})
					s.good(public, lab.LoadConfig{Connections: 5, LocalPort: 40000, Mode: mode})
					s.good(public, lab.LoadConfig{Connections: 5, LocalPort: 40001, Mode: mode, Reset: true})
					if _, valid := s.counters(); valid-was != 30 {
						s.Errorf("%d cookies came back of 30", valid-was)
					}
					allGood(s, s.Firewall, server, lab.LoadConfig{Connections: 3, Mode: mode})
				}
				mustDo(s, s.Firewall, 0, "verify")
				mustDo(s, s.Firewall, 0, "revert")
				sameDump(s, before, dump(s, s.Firewall))
			})
		}
	}
}
