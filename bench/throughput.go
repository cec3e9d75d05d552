package main

import (
	"context"
	"fmt"
	"time"

	"github.com/synproxyctl/synproxyctl/bench/report"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

const (
	// oneWay is half of the round trip over which throughput is measured.
	oneWay = 20 * time.Millisecond
	// sample is how many bytes go first. What is slower than slowRate is measured by these alone.
	sample   = 1 << 20
	slowRate = 1e6
)

var figThroughput = map[lab.Direction]string{lab.Upload: report.Upload, lab.Download: report.Download}

// measureThroughput moves bytes through each contender over a long way, by turns.
func (b *bench) measureThroughput(ctx context.Context) error {
	var sites []*site
	defer func() {
		for _, s := range sites {
			_ = s.Close() // its namespaces go with the process anyway
		}
	}()
	for _, c := range b.chosen(1) {
		s, err := newSite(ctx, b.world, c, 1, bulkPort, &lab.RelayConfig{Delay: oneWay})
		if err != nil {
			return err
		}
		sites = append(sites, s)
		if err := s.install(ctx); err != nil {
			if !b.mayLeaveOut(err) {
				return err
			}
			sites = sites[:len(sites)-1]
			_ = s.Close() // its namespaces go with the process anyway
		}
	}
	for rep := range b.reps {
		for _, s := range sites {
			for _, d := range []lab.Direction{lab.Upload, lab.Download} {
				rate, err := s.rate(ctx, d, b.transfer)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", s.contender.name, figThroughput[d], err)
				}
				b.results.Add(figThroughput[d], s.contender.name, 1, rate/1e6)
				b.say("%-28s %d: %s %.2f", s.contender.name, rep+1, figThroughput[d], rate/1e6)
			}
			if late := s.Relay.Stats(); late.Overflowed > 0 {
				return fmt.Errorf("%s: the relay has lost %d packets", s.contender.name, late.Overflowed)
			}
		}
	}
	return nil
}

// rate moves bytes and returns how many a second.
func (s *site) rate(ctx context.Context, d lab.Direction, bytes int64) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	t, err := s.Client.Transfer(ctx, addrPort(0, bulkPort), d, sample)
	if err != nil || t.Rate() < slowRate {
		return t.Rate(), err
	}
	t, err = s.Client.Transfer(ctx, addrPort(0, bulkPort), d, bytes)
	return t.Rate(), err
}
