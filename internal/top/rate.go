package top

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

const (
	// remembered is how many rates of the totals are kept: as many as the widest graph has cells.
	remembered = 120
	// serviceRemembered is the same for a service, of which there may be a hundred thousand.
	serviceRemembered = 20
	// fastest is more events in a second than any machine has. A counter that seems
	// to run faster has begun anew.
	fastest = 1e8
)

// unknown is the rate in an interval that cannot be told.
var unknown = math.NaN()

// history is a series of values, the newest last.
type history []float64

func (h *history) push(v float64, limit int) {
	if len(*h) >= limit {
		*h = slices.Delete(*h, 0, len(*h)-limit+1)
	}
	*h = append(*h, v)
}

// last is the newest value; unknown if there is none.
func (h history) last() float64 {
	if len(h) == 0 {
		return unknown
	}
	return h[len(h)-1]
}

// peak is the highest value that is known; 0 if there is none.
func (h history) peak() float64 {
	highest := 0.0
	for _, v := range h {
		if v > highest { // never of a NaN
			highest = v
		}
	}
	return highest
}

// perSecond is the rate of n events; unknown if no machine is that fast.
func perSecond(n uint64, elapsed time.Duration) float64 {
	rate := float64(n) / elapsed.Seconds()
	if elapsed <= 0 || rate > fastest {
		return unknown
	}
	return rate
}

// place is what a service keeps from one sample to the next.
type place struct {
	destination netip.Prefix
	port        uint16
}

func (s *Service) place() place { return place{s.Destination, s.Port} }

// track is what is known of one service.
type track struct {
	syns  uint64
	at    time.Time // when that was read
	round int       // in which it was there
	rate  float64
	past  history // nil as long as nothing came: most of ten thousand services are quiet
}

// see takes a new count.
func (t *track) see(syns uint64, at time.Time) {
	t.rate = unknown
	switch {
	case t.at.IsZero():
	case syns >= t.syns:
		t.rate = perSecond(syns-t.syns, at.Sub(t.at))
	default: // its rule was made anew in between: at least this much came
		t.rate = perSecond(syns, at.Sub(t.at))
	}
	t.syns, t.at = syns, at
	if t.past != nil || t.rate > 0 {
		t.past.push(t.rate, serviceRemembered)
	}
}
