package e2e

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

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

// report judges the short connections.
func (s *soakRun) report(name string, results []*lab.LoadResult) {
	s.Helper()
	total := 0
	for i, r := range results {
		total += r.OK
		s.Logf("%s, %s: %v", name, [...]string{"client-first", "server-first"}[i], r)
		for _, failure := range r.Failures {
			s.Log(failure)
		}
		if r.Failed > mayFail(r.OK+r.Failed) {
			s.Errorf("%s: %d connections failed", name, r.Failed)
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
	if r.Max() > longestGap() {
		s.Errorf("%s: a connection was held up for %v, want at most %v: %v", name, r.Max(), longestGap(), r)
	}
}
