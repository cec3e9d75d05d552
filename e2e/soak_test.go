package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

var soakFull = flag.Bool("soak", false, "let TestSoak and TestSoakFlood make at least 10,000 connections in each case")

// longestGap is the longest that a living connection may be held up by any transition.
const longestGap = time.Second

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

// soakCases are all but one, which the others contain: a stateful firewall with services of its own.
func soakCases(flood float64) (cases []soakCase) {
	for _, backend := range backends {
		cases = append(cases, soakCase{backend, rules.Input, false, flood},
			soakCase{backend, rules.Forward, false, flood}, soakCase{backend, rules.Forward, true, flood})
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
	if !*soakFull { // one of each hook and of each backend
		cases = []soakCase{cases[0], cases[len(cases)-1]}
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
	s := &soakRun{soakCase: c, T: t, topo: newWAN(t, lab.RelayConfig{Delay: 30 * time.Millisecond}), begun: time.Now()}
	clients := 10 // at each of the two services; as many more have the long connections
	s.phase = 20
	if *soakFull {
		clients, s.phase = 20, 10_000/soakPhases+1
	}
	p := place{c.hook, rules.IPv4}
	host, addr := p.host(s.topo)
	for i, mode := range soakModes {
		s.servers = append(s.servers, serve(t, host, lab.ServerConfig{Address: netip.AddrPortFrom(addr, uint16(80+i)), Mode: mode}))
	}
	other := p.serve(t, s.topo, 8080, lab.ServerConfig{}).String()
	if c.tracked || !s.drains() {
		run(t, s.topo.Firewall, c.backend, "-A", map[rules.Hook]string{rules.Input: "INPUT", rules.Forward: "FORWARD"}[c.hook],
			"-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
	}
	foreignRules(t, s.topo.Firewall) // in every table, so that none comes or goes
	before := dump(t, s.topo.Firewall)

	old := s.open(c.tracked || c.hook == rules.Input)
	short := s.load(clients)
	s.pass("before")
	stopFlood := s.startFlood()

	s.apply("install", s.warmup()...)
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

// drains tells whether the program under test warms up and drains yet.
func (s *soakRun) drains() bool {
	s.Helper()
	help, _, _ := synproxyctl(s, s.topo.Firewall, "apply", "--help")
	return strings.Contains(help, "--warmup")
}

func (s *soakRun) warmup() []string {
	if !s.drains() {
		return nil
	}
	return []string{"--warmup", "2s"}
}

// open opens long connections of each kind to each server.
func (s *soakRun) open(idle bool) (soaks []*lab.Soak) {
	s.Helper()
	for i, mode := range soakModes {
		for _, kind := range soakKinds {
			n := map[lab.SoakKind]int{lab.Chatty: 2, lab.Idle: 2, lab.Uploading: 1, lab.Downloading: 1}[kind]
			if kind == lab.Idle && !idle {
				continue
			}
			soaks = append(soaks, soak(s, s.topo.Client, s.servers[i].Address(), lab.SoakConfig{Mode: mode, Kind: kind, Connections: n}))
		}
	}
	return soaks
}

// end ends long connections, all at once.
func (s *soakRun) end(soaks []*lab.Soak) *lab.SoakResult {
	all := &lab.SoakResult{}
	results := make([]*lab.SoakResult, len(soaks))
	var wg sync.WaitGroup
	for i, each := range soaks {
		wg.Go(func() { results[i] = each.Stop() })
	}
	wg.Wait()
	for _, r := range results {
		all.Add(r)
	}
	return all
}

// load makes short connections to each server until the returned function is called.
func (s *soakRun) load(clients int) (stop func() []*lab.LoadResult) {
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	results := make([]*lab.LoadResult, len(s.servers))
	errs := make([]error, len(s.servers))
	var wg sync.WaitGroup
	for i, server := range s.servers {
		wg.Go(func() {
			results[i], errs[i] = s.topo.Client.Load(ctx, server.Address(), lab.LoadConfig{
				Concurrency: clients, Mode: soakModes[i], Timeout: 10 * time.Second,
			})
		})
	}
	return func() []*lab.LoadResult {
		s.Helper()
		cancel()
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				s.Fatal(err)
			}
		}
		return results
	}
}

// pass waits until a phase's share of short connections has been served.
func (s *soakRun) pass(name string) {
	s.Helper()
	accepted := func() (n int64) {
		for _, server := range s.servers {
			n += server.Accepted()
		}
		return n
	}
	begun, end := time.Now(), accepted()+s.phase
	s.Logf("%s %s", begun.Format(clock), name)
	for accepted() < end {
		if time.Since(begun) > time.Minute {
			s.Fatalf("%s: %d connections are missing after a minute", name, end-accepted())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// startFlood attacks one of the servers until the returned function is called.
func (s *soakRun) startFlood() (stop func()) {
	if s.flood == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	var sent int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		for seed := uint64(0); ctx.Err() == nil && err == nil; seed++ {
			var res lab.FloodResult
			res, err = s.topo.Attacker.Flood(ctx, lab.FloodConfig{
				Destination: s.servers[0].Address(), Packets: lab.MaxFloodPackets, Rate: s.flood, Seed: seed,
			})
			sent += res.Sent
		}
	}()
	begun := time.Now()
	return func() {
		s.Helper()
		cancel()
		<-done
		rate := float64(sent) / time.Since(begun).Seconds()
		s.Logf("flood: %d SYNs, %.0f/s, %v", sent, rate, err)
		if err != nil || rate < s.flood/2 {
			s.Errorf("flood: %.0f SYNs a second, want about %.0f; %v", rate, s.flood, err)
		}
	}
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

// report judges the short connections.
func (s *soakRun) report(name string, results []*lab.LoadResult) {
	s.Helper()
	total := 0
	for i, r := range results {
		total += r.OK
		s.Logf("%s, %s: %v", name, [...]string{"client-first", "server-first"}[i], r)
		if r.Failed != 0 {
			s.Errorf("%s: %d connections failed: %v\n%s", name, r.Failed, r, strings.Join(r.Failures, "\n"))
		}
	}
	if *soakFull && total < 10_000 {
		s.Errorf("%d connections, want 10,000", total)
	}
}

// reportSoak judges the long connections.
func (s *soakRun) reportSoak(name string, r *lab.SoakResult) {
	s.Helper()
	s.Logf("%s: %v", name, r)
	if r.Failed != 0 {
		s.Errorf("%s: %d connections failed: %v\n%s", name, r.Failed, r, strings.Join(r.Failures, "\n"))
	}
	if r.Max() > longestGap {
		s.Errorf("%s: a connection was held up for %v, want at most %v: %v", name, r.Max(), longestGap, r)
	}
}
