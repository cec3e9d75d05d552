package e2e

import (
	"net/netip"
	"slices"
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
// answered on its way in, untracked, and the connection to the container begins on this machine. What the foe sends
// later passes FORWARD as established, and what it is sent has another source.
var dockerDenials = []struct {
	name, rules string
	served      []int // the ports whose server the foe hears nevertheless: 25 speaks first
	answered    bool  // the foe gets SYN+ACKs
}{
	{"DOCKER-USER", "-A DOCKER-USER -s $FOE -j DROP", []int{25}, true},
	{"DOCKER-USER, new ones", "-A DOCKER-USER -s $FOE -m conntrack --ctstate NEW -j DROP", []int{25, 80}, true},
	{"DOCKER-USER, after established", "-A DOCKER-USER -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n-A DOCKER-USER -s $FOE -j DROP", []int{25, 80}, true},
	{"DOCKER-USER, allow-list", "-A DOCKER-USER -i eth2 ! -s $FLOOD -j DROP", []int{25}, true},
	{"DOCKER-USER, by original port", "-A DOCKER-USER -s $FOE -p tcp -m conntrack --ctorigdstport 8080 -j DROP\n-A DOCKER-USER -s $FOE -p tcp -m conntrack --ctorigdstport 2525 -j DROP", []int{25}, true},
	{"mangle FORWARD", "*mangle\n-A FORWARD -s $FOE -j DROP\nCOMMIT\n", []int{25}, true},
	{"nat PREROUTING", "*nat\n-I PREROUTING -s $FOE -j ACCEPT\nCOMMIT\n", []int{25, 80}, true},
	{"mangle PREROUTING", "*mangle\n-A PREROUTING -s $FOE -j DROP\nCOMMIT\n", nil, false},
	{"raw PREROUTING", "*raw\n-A PREROUTING -s $FOE -j DROP\nCOMMIT\n", nil, false},
}

// TestDockerWho compares who gets in to a published port with and without the protection.
func TestDockerWho(t *testing.T) {
	for i, d := range dockerDenials {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, place{rules.Forward, rules.Families[i%2]}, rules.NFT)
			web, mail := s.docker("")
			s.xtables(d.rules)
			server := s.web.Addr()
			s.web, s.mail = web, mail
			if served, answered := s.getsIn(s.Attacker); served || answered {
				s.Fatalf("unprotected, the foe: served %v, SYN+ACK %v", served, answered)
			}
			for port, public := range map[int]netip.AddrPort{80: web, 25: mail} {
				mustDo(s, s.Firewall, 0, "apply", public.String(), "--to", netip.AddrPortFrom(server, uint16(port)).String())
				served, answered := s.getsIn(s.Attacker) // the other port is not protected now, and nobody gets in there
				if port == 25 {
					served = s.hears(s.Attacker, public)
				}
				if served != slices.Contains(d.served, port) || answered != d.answered {
					s.Errorf("port %d: the foe: served %v, SYN+ACK %v", port, served, answered)
				}
			}
		})
	}
}

// TestDockerContainer protects the container's own addresses. Whom DOCKER-USER denies stays out. But those who come by
// the published ports do not get in any more: the cookie was made for the translated address.
func TestDockerContainer(t *testing.T) {
	for _, family := range rules.Families {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			s := newStand(t, place{rules.Forward, family}, rules.NFT)
			web, mail := s.docker("*filter\n-A DOCKER-USER -s $FOE -j DROP\nCOMMIT\n")
			s.asBefore(true, func() { s.apply() })
			s.web, s.mail = web, mail
			served, answered := s.getsIn(s.Client)
			if served || !answered {
				s.Errorf("published ports when the container's are protected: served %v, SYN+ACK %v", served, answered)
			}
		})
	}
}

// TestDockerWithoutTo asks for a published address as if it were one of the machine's own services.
func TestDockerWithoutTo(t *testing.T) {
	s := newStand(t, place{rules.Forward, rules.IPv4}, rules.NFT)
	s.web, s.mail = s.docker("")
	_, stderr, exit := synproxyctl(s, s.Firewall, "apply", s.web.String(), s.mail.String())
	before, _ := s.counters()
	served, answered := s.getsIn(s.Client)
	now, _ := s.counters()
	s.Logf("apply: exit %d; served %v, SYN+ACK %v, by the proxy %d\n%s", exit, served, answered, now-before, stderr)
	if exit == 0 && !served {
		s.Error("the service is broken")
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
				before := dump(s, s.Firewall)
				for real, mode := range map[netip.AddrPort]lab.Mode{s.web: lab.ClientFirst, s.mail: lab.ServerFirst} {
					public := netip.AddrPortFrom(real.Addr(), real.Port()+8000)
					mustDo(s, s.Firewall, 0, "apply", public.String(), "--to", real.String(), "--backend", backend)
					_, was := s.counters()
					s.good(public, lab.LoadConfig{Connections: 20, Mode: mode})
					s.good(public, lab.LoadConfig{Connections: 5, LocalPort: 40000, Mode: mode})
					s.good(public, lab.LoadConfig{Connections: 5, LocalPort: 40001, Mode: mode, Reset: true})
					if _, valid := s.counters(); valid-was != 30 {
						s.Errorf("%d cookies came back of 30", valid-was)
					}
					allGood(s, s.Firewall, real, lab.LoadConfig{Connections: 3, Mode: mode})
				}
				mustDo(s, s.Firewall, 0, "verify")
				mustDo(s, s.Firewall, 0, "revert")
				sameDump(s, before, dump(s, s.Firewall))
			})
		}
	}
}
