package watch

import (
	"time"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

const (
	shortestHold = time.Hour      // also: how long an odd answer is remembered
	longestHold  = 24 * time.Hour // to which the former doubles
)

// backend is what is remembered of one whose answers have not all been as
// announced. Those that are fine need none.
type backend struct {
	announced traits
	family    rules.Family

	run  run        // the latest answers, all alike and not as announced
	odd  []sighting // answers that the announced options are not safe for
	hold time.Duration
	wary time.Time // until then changes go only towards what is safe for both

	verdict probe.Verdict // of the latest answers if they were none to learn from; else empty
	silence int           // how many of those in a row

	asked int       // questions since it became odd
	ask   time.Time // when to ask again; zero: with the others
	told  string    // what was told of it last; empty: nothing is wrong
}

// run is a row of answers that are alike.
type run struct {
	of    traits
	n     int
	since time.Time
}

// sighting is an answer at a time.
type sighting struct {
	of traits
	at time.Time
}

// hear takes an answer, and returns the options that the rules should have by
// all that is known; those that they have, if nothing is to change. Confirm is
// how many answers make a change believable.
func (b *backend) hear(now time.Time, t traits, confirm int) traits {
	b.verdict, b.silence = "", 0
	if b.hold > 0 && now.Sub(b.wary) > b.hold { // calm since
		b.hold = 0
	}
	if t == b.announced {
		if b.run.n > 0 {
			b.beWary(now) // it went back by itself: a pool, or a strange packet
		}
		b.run, b.asked, b.ask = run{}, 0, time.Time{}
		return b.announced
	}
	if b.run.n == 0 || b.run.of != t {
		b.run = run{of: t, since: now}
	}
	b.run.n++
	both := common(b.family, b.announced, t)
	safe := both == b.announced
	often := !safe && b.sight(now, t) >= confirm
	wary := b.hold > 0 && now.Before(b.wary)
	switch {
	case b.run.n >= confirm && !wary:
		return t
	case b.run.n >= confirm && safe && now.Sub(b.run.since) >= b.hold:
		return t
	case often:
		// In a row, but it has changed a short while ago; or again and again,
		// with others between them: announced is what is safe for all.
		return both
	}
	return b.announced
}

// sight remembers an answer, and returns how often it came of late.
func (b *backend) sight(now time.Time, t traits) int {
	kept, n := b.odd[:0], 1
	for _, s := range b.odd {
		if now.Sub(s.at) < shortestHold {
			kept = append(kept, s)
			if s.of == t {
				n++
			}
		}
	}
	const bound = 64 // of a backend that answers something else each time
	if len(kept) == bound {
		kept = kept[1:]
	}
	b.odd = append(kept, sighting{t, now})
	return n
}

// beWary doubles the time in which changes go only towards what is safe.
func (b *backend) beWary(now time.Time) {
	b.hold = min(max(2*b.hold, shortestHold), longestHold)
	b.wary = now.Add(b.hold)
}

// followed is told that the rules announce something else now.
func (b *backend) followed(now time.Time, t traits) {
	b.announced = t
	b.run, b.odd, b.asked, b.ask, b.told = run{}, nil, 0, time.Time{}, ""
	b.beWary(now)
}

// hush takes an answer that says nothing of options.
func (b *backend) hush(v probe.Verdict) {
	b.verdict = v
	b.silence++
}

// again plans one more question to this backend alone, unless there were enough
// already: each distance is twice the one before.
func (b *backend) again(now time.Time, spacing time.Duration, confirm int) {
	b.ask = time.Time{}
	if enough := 4 * confirm; b.asked >= enough {
		return
	}
	b.ask = now.Add(min(spacing<<min(b.asked, 10), 10*time.Minute))
	b.asked++
}

// calm reports whether nothing has to be remembered.
func (b *backend) calm(now time.Time) bool {
	return b.run.n == 0 && b.silence == 0 && b.told == "" && (b.hold == 0 || now.Sub(b.wary) > b.hold)
}

// place is how backends are told apart: services at one place are one.
type place struct {
	service string
	at      string
}

func placeOf(s *protect.Service) place { return place{s.String(), s.ProbeAt.String()} }
