package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/synproxyctl/synproxyctl/bench/report"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// goodFlood is what the good connections have to stand, in SYN/s: about a quarter of what the receiving CPU can answer
// for one service, so that every contender could.
const goodFlood = 100_000

// goodSizes are how many services the good connections meet.
var goodSizes = []int{1, 1_000}

// measureGood makes good connections to random services while all of them are flooded.
func (b *bench) measureGood(ctx context.Context) error {
	for _, size := range goodSizes {
		if size > b.sizes[len(b.sizes)-1] {
			continue
		}
		for _, port := range []uint16{bannerPort, servicePort} {
			sites, end, err := b.sites(ctx, size, port)
			if err != nil {
				return err
			}
			err = b.goodByTurns(ctx, sites)
			end()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) goodByTurns(ctx context.Context, sites []*site) error {
	if err := pin(true); err != nil {
		return err
	}
	defer func() { _ = pin(false) }() // the same call a second time
	for rep := range b.reps {
		for _, s := range sites {
			err := b.goodUnderFlood(ctx, s, s.contender.name, goodFlood, rep)
			if err == nil && s.contender.name == report.None {
				// What the machine and its other users do to a connection, without any flood.
				err = b.goodUnderFlood(ctx, s, report.NoFlood, 0, rep)
			}
			if err != nil {
				return fmt.Errorf("%s, %d services: %w", s.contender.name, s.size, err)
			}
		}
	}
	return nil
}

// goodUnderFlood measures one repetition of one contender, under a flood of that many SYN/s; 0 means none.
func (b *bench) goodUnderFlood(ctx context.Context, s *site, name string, rate float64, rep int) error {
	first := addrPort(0, s.port)
	var flood lab.FloodResult
	var failed error
	var flooding sync.WaitGroup
	flooding.Go(func() {
		if rate == 0 {
			flood.Duration = b.good
			return
		}
		flood, failed = s.Attacker.Flood(ctx, lab.FloodConfig{
			Destination: first, Services: s.size, Packets: lab.MaxFloodPackets, Duration: b.good + 200*time.Millisecond, Rate: rate,
		})
	})
	// Begin when the flood has.
	time.Sleep(100 * time.Millisecond)
	limited, cancel := context.WithTimeout(ctx, b.good)
	load, err := s.Client.Load(limited, first, lab.LoadConfig{
		Services: s.size, Mode: s.mode(), Rate: 200, Concurrency: 32, Timeout: 5 * time.Second,
	})
	cancel()
	flooding.Wait()
	if err != nil || failed != nil || ctx.Err() != nil {
		return fmt.Errorf("load: %w, flood: %w, %w", err, failed, ctx.Err())
	}
	if err := settle(ctx); err != nil {
		return err
	}
	speaker := "client"
	if s.mode() == lab.ServerFirst {
		speaker = "server"
	}
	total := load.OK + load.Failed
	if total == 0 {
		return fmt.Errorf("no connection was tried")
	}
	b.results.Add(report.Good(speaker, report.Success), name, s.size, float64(load.OK)/float64(total))
	if load.OK > 0 {
		for what, d := range map[string]time.Duration{report.P50: load.Percentile(50), report.P99: load.Percentile(99), report.Max: load.Max()} {
			b.results.Add(report.Good(speaker, what), name, s.size, d.Seconds()*1e3)
		}
	}
	b.results.Add(report.Good(speaker, report.Flood), name, s.size, flood.Rate())
	b.say("%-28s %6d services, port %d, %d: %v, under %.0f SYN/s", name, s.size, s.port, rep+1, load, flood.Rate())
	return nil
}
