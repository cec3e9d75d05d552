package demo

import (
	"context"
	"math"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// outcome is what a goroutine came back with.
type outcome[T any] struct {
	value T
	err   error
}

// begin runs f beside the caller.
func begin[T any](f func() (T, error)) <-chan outcome[T] {
	c := make(chan outcome[T], 1)
	go func() {
		v, err := f()
		c <- outcome[T]{v, err}
	}()
	return c
}

// await waits for what begin began, or for the end of ctx.
func await[T any](ctx context.Context, c <-chan outcome[T]) (T, error) {
	select {
	case o := <-c:
		return o.value, o.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

// measure lets the good client make its connections, under a flood or not.
func (s *stage) measure(ctx context.Context, flood bool, tell func(Live)) (*Measurement, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	before, err := s.serverCounters()
	if err != nil {
		return nil, err
	}
	w, err := s.watch(ctx, tell)
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.stop() }() // for the early returns, which have an error already
	var attack <-chan outcome[lab.FloodResult]
	if flood {
		attack = begin(func() (lab.FloodResult, error) {
			return s.topo.Attacker.Flood(ctx, lab.FloodConfig{
				Destination: target, Packets: packets, Rate: floodRate, Seed: floodSeed, Duration: longest,
			})
		})
		pause(ctx, lead)
	}
	// A context that ends does not end a connection, hence the goroutine.
	load, err := await(ctx, begin(func() (*lab.LoadResult, error) {
		return s.topo.Client.Load(ctx, target, lab.LoadConfig{
			Connections: connections, Concurrency: connections, Rate: loadRate, Timeout: patience,
		})
	}))
	if err != nil {
		return nil, err
	}
	m := newMeasurement(load)
	m.SYNCookies = s.cookies
	if flood {
		sent, err := await(ctx, attack)
		if err != nil {
			return nil, err
		}
		m.SYNs, m.SYNRate = sent.Sent, math.Round(sent.Rate())
	}
	after, err := s.serverCounters()
	if err != nil {
		return nil, err
	}
	m.Server = after.since(before)
	if err := w.stop(); err != nil {
		return nil, err
	}
	m.Conntrack, m.SYNQueue = w.conntrack, w.synQueue
	return m, nil
}

func newMeasurement(load *lab.LoadResult) *Measurement {
	return &Measurement{
		Connections: load.OK + load.Failed, Served: load.OK, Lost: load.Failed, Errors: load.Errors,
		Latency: Latency{
			P50: load.Percentile(50).Microseconds(),
			P99: load.Percentile(99).Microseconds(),
			Max: load.Max().Microseconds(),
		},
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
