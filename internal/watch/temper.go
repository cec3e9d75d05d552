package watch

import "time"

const (
	freeAttempts  = 3
	attemptWindow = 10 * time.Minute
	shortestPause = time.Minute
	longestPause  = time.Hour
)

// Temper keeps attempts apart that do not last: three within ten minutes are
// free, then each waits, a minute first, twice as long each time, an hour at
// most. Who fights with another program so does not win, but is not the one that
// keeps the fight going either. The zero value is ready to use.
type Temper struct {
	recent []time.Time
	pause  time.Duration // 0: calm
	until  time.Time
}

// May reports whether an attempt may be made.
func (t *Temper) May(now time.Time) bool { return !now.Before(t.until) }

// Made notes an attempt. It returns how long the next one has to wait; 0: not
// at all.
func (t *Temper) Made(now time.Time) time.Duration {
	if t.pause > 0 && now.Sub(t.until) > attemptWindow { // calm since
		t.pause, t.recent = 0, nil
	}
	kept := t.recent[:0]
	for _, at := range t.recent {
		if now.Sub(at) < attemptWindow {
			kept = append(kept, at)
		}
	}
	t.recent = append(kept, now)
	if t.pause == 0 && len(t.recent) < freeAttempts {
		return 0
	}
	t.pause = min(max(2*t.pause, shortestPause), longestPause)
	t.until = now.Add(t.pause)
	return t.pause
}

// Until is when the next attempt may be made.
func (t *Temper) Until() time.Time { return t.until }
