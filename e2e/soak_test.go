package e2e

import (
	"flag"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

var (
	soakFull = flag.Bool("soak", false, "let TestSoak and TestSoakFlood make at least 10,000 connections in each case")
	soakLoss = flag.Float64("soak-loss", 0, "let the way of TestSoak and TestSoakFlood lose packets with this probability, such as 0.01")
)

// longestGap returns how long a living connection may be held up, whatever happens to the firewall. On a way that loses
// packets, a line and its repetition can get lost one after the other.
func longestGap() time.Duration {
	if *soakLoss > 0 {
		return 4 * time.Second
	}
	return time.Second
}

// mayFail returns how many of so many short connections may fail: none, but for handshakes that lose a packet which
// nobody repeats (see TestLostHandshake), of which each connection has two or three.
func mayFail(connections int) int { return int(4 * *soakLoss * float64(connections)) }

// soakCase is one kind of firewall for the soak.
type soakCase struct {
	backend string
	hook    rules.Hook
	// tracked tells that the firewall has a stateful rule of its own before we come. Without one, conntrack sees the
	// old connections only during the warm-up: idle ones that are routed it cannot know, and they are at risk, as
	// apply says; idle ones of the firewall's own services are carried over.
	tracked bool
	// flood is how many SYNs a second from random sources attack one of the services throughout.
	flood float64
}

func (c soakCase) String() string {
	name := fmt.Sprintf("%s-%s", c.backend, c.hook)
	if c.tracked {
		name += "-tracked"
	}
	return name
}

// soakCases are all but one for each backend, which the others contain: a stateful firewall with services of its own.
// In short each backend has one that is routed.
func soakCases(flood float64) (cases []soakCase) {
	for _, backend := range backends {
		cases = append(cases, soakCase{backend, rules.Input, false, flood})
		for _, tracked := range []bool{false, true} {
			if *soakFull || *full || tracked != (backend == rules.NFTables) {
				cases = append(cases, soakCase{backend, rules.Forward, tracked, flood})
			}
		}
	}
	return cases
}

// TestSoak takes busy services through every transition, 30 ms away from their clients: install, three changes, drain
// and removal. Connections of each kind live from before the protection to after it, others from under the protection
// into the drain, and short ones come and go all the time. None may fail, none be held up for a second.
func TestSoak(t *testing.T) {
	for _, c := range soakCases(0) {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			c.run(t)
		})
	}
}

// TestSoakFlood is the same while one of the services is flooded, one case at a time.
func TestSoakFlood(t *testing.T) {
	cases := soakCases(30_000)
	if !*soakFull && !*full { // what TestSoak leaves out
		cases = []soakCase{cases[0], {rules.NFTables, rules.Forward, true, cases[0].flood}}
	}
	for _, c := range cases {
		t.Run(c.String(), c.run)
	}
}

// soakRun is a soak under way.
type soakRun struct {
	soakCase
	*testing.T
	topo    *lab.Topology
	servers []*lab.Server // client-first, server-first
	phase   int64         // how many short connections make a phase
	begun   time.Time
}

// soakPhases is how many phases a soak has, each with its share of the short connections.
const soakPhases = 9

func (c soakCase) run(t *testing.T) {
	s := &soakRun{soakCase: c, T: t, topo: newWAN(t, lab.RelayConfig{Delay: 30 * time.Millisecond, Loss: *soakLoss}), begun: time.Now()}
	clients := 10 // at each of the two services; as many more have the long connections
	s.phase = 20
	if *soakFull {
		clients, s.phase = 20, 11_000/soakPhases // the servers count more than these connections
	}
	p := place{c.hook, rules.IPv4}
	host, addr := p.host(s.topo)
	for i, mode := range soakModes {
		s.servers = append(s.servers, serve(t, host, lab.ServerConfig{Address: netip.AddrPortFrom(addr, uint16(80+i)), Mode: mode}))
	}
	other := p.serve(t, s.topo, 8080, lab.ServerConfig{}).String()
	if c.tracked {
		run(t, s.topo.Firewall, p.program(c.backend), "-A", map[rules.Hook]string{rules.Input: "INPUT", rules.Forward: "FORWARD"}[c.hook],
			"-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
	}
	foreignRules(t, s.topo.Firewall) // in every table, so that none comes or goes
	before := dump(t, s.topo.Firewall)

	old := s.open(c.tracked || c.hook == rules.Input)
	short := s.load(clients)
	s.pass("before")
	stopFlood := s.startFlood()

	s.apply("install", "--warmup", "2s")
	fresh := s.open(true)
	s.pass("installed")
	s.apply("other options", "--mss", "1400")
	s.pass("with other options")
	s.apply("another service", other, "--mss", "1400")
	s.pass("with another service")
	s.apply("its removal")
	s.pass("without it")
	if n := number(t, mustDo(t, s.topo.Firewall, 0, "status"), "counters", "cookie_valid"); n < float64(4*s.phase) {
		t.Errorf("only %v connections came by the proxy", n)
	}
	s.revert(fresh)
	s.pass("removed")

	stopFlood()
	s.report("short", short())
	s.reportSoak("opened before", s.end(old))
	sameDump(t, before, dump(t, s.topo.Firewall))
	t.Logf("%v; %+v", time.Since(s.begun).Round(time.Millisecond), s.topo.Relay.Stats())
}

// apply brings the protection of the two servers to what the arguments say.
func (s *soakRun) apply(name string, args ...string) {
	s.Helper()
	begun := time.Now()
	args = append([]string{"apply", s.servers[0].Address().String(), s.servers[1].Address().String(), "--backend", s.backend}, args...)
	if done := mustDo(s, s.topo.Firewall, 0, args...); done["changed"] != true {
		s.Errorf("%s: %v", name, done)
	}
	s.Logf("%s apply, %s: took %v", begun.Format(clock), name, time.Since(begun).Round(time.Millisecond))
}

// clock is how the lab's results tell a time of day.
const clock = "15:04:05.000"
