package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/synproxyctl/synproxyctl/bench/report"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// measureSYN floods the services of all contenders by turns, at each size.
func (b *bench) measureSYN(ctx context.Context) error {
	for _, size := range b.sizes {
		sites, end, err := b.sites(ctx, size, servicePort)
		if err != nil {
			return err
		}
		err = b.floodByTurns(ctx, sites)
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) floodByTurns(ctx context.Context, sites []*site) error {
	if err := pin(true); err != nil {
		return err
	}
	defer func() { _ = pin(false) }() // the same call a second time
	for rep := range b.reps {
		for _, s := range sites {
			if err := b.flood(ctx, s, rep); err != nil {
				return fmt.Errorf("%s, %d services: %w", s.contender.name, s.size, err)
			}
		}
	}
	return nil
}

// flood measures one repetition of one contender.
func (b *bench) flood(ctx context.Context, s *site, rep int) error {
	name := s.contender.name
	attack := lab.StormConfig{
		Destination: addrPort(0, s.port), Services: s.size, Duration: b.storm, CPU: senderCPU,
	}
	c, sent, err := s.storm(ctx, attack)
	if err != nil {
		return err
	}
	seconds := sent.Duration.Seconds()
	if c.answers == 0 || c.softirq == 0 {
		return fmt.Errorf("%d of %d SYNs were answered, in %v of the receiver's time", c.answers, c.received, c.softirq)
	}
	perSYN := c.softirq.Seconds() * 1e9 / float64(c.answers)
	b.results.Add(report.Offered, name, s.size, float64(c.received)/seconds)
	b.results.Add(report.Answered, name, s.size, float64(c.answers)/seconds)
	b.results.Add(report.Rate, name, s.size, 1e9/perSYN)
	b.results.Add(report.SYNCost, name, s.size, perSYN)
	b.results.Add(report.Busy, name, s.size, c.softirq.Seconds()/seconds)
	// One flow to somebody whom no rule knows: what the rules cost him.
	attack.Destination, attack.Services, attack.Sources = netip.AddrPortFrom(unrelatedPrefix.Addr().Next(), 9), 1, netip.PrefixFrom(lab.FloodV4.Addr().Next(), 32)
	u, _, err := s.storm(ctx, attack)
	if err != nil {
		return err
	}
	if u.passed == 0 || u.softirq == 0 {
		return fmt.Errorf("%d of %d unrelated packets have passed, in %v of the receiver's time", u.passed, u.received, u.softirq)
	}
	perPacket := u.softirq.Seconds() * 1e9 / float64(u.passed)
	b.results.Add(report.Unrelated, name, s.size, perPacket)
	b.say("%-28s %6d services, %d: offered %.0f SYN/s, answered %.0f, %.0f a CPU, %.0f ns each, receiver %.0f%% busy; unrelated %.0f ns",
		name, s.size, rep+1, float64(c.received)/seconds, float64(c.answers)/seconds, 1e9/perSYN, perSYN, 100*c.softirq.Seconds()/seconds, perPacket)
	return nil
}

// storm sends a storm to the site's firewall and returns what was counted meanwhile.
func (s *site) storm(ctx context.Context, cfg lab.StormConfig) (counters, lab.FloodResult, error) {
	before, err := s.counters()
	if err != nil {
		return counters{}, lab.FloodResult{}, err
	}
	sent, err := s.Attacker.Storm(ctx, cfg)
	if err != nil {
		return counters{}, sent, err
	}
	if err := ctx.Err(); err != nil {
		return counters{}, sent, err
	}
	if err := settle(ctx); err != nil {
		return counters{}, sent, err
	}
	after, err := s.counters()
	return after.since(before), sent, err
}
