package kernel

// SynproxyTotal counts on in 64 bits where the kernel's counters wrap at 32.
// It may be written as JSON between two runs, for as long as the host is not
// booted again. The zero value has seen nothing.
type SynproxyTotal struct {
	// Seen tells whether Last was read; the first reading is taken as it is.
	Seen bool `json:"seen"`
	// Last is the latest reading.
	Last SynproxyStats `json:"last"`
	// Total is what was counted so far. It never falls.
	Total SynproxyStats `json:"total"`
}

// Add takes the next reading. The sum over the CPUs is enough, since a wrapped
// CPU lowers it by 2^32, which is nothing modulo 2^32. A step of less than 2^31
// is taken as counted, across a wrap or not. A longer one is a step back: the
// module was loaded anew, and what it counted since then is added. A counter
// reset from above 2^31 looks like a wrap and cannot be told from one.
func (t *SynproxyTotal) Add(now SynproxyStats) {
	last := t.Last
	if !t.Seen {
		t.Total = now
	} else {
		t.Total.SYNReceived += step(now.SYNReceived, last.SYNReceived)
		t.Total.CookieInvalid += step(now.CookieInvalid, last.CookieInvalid)
		t.Total.CookieValid += step(now.CookieValid, last.CookieValid)
		t.Total.CookieRetrans += step(now.CookieRetrans, last.CookieRetrans)
		t.Total.ConnReopened += step(now.ConnReopened, last.ConnReopened)
	}
	t.Seen, t.Last = true, now
}

// Gone notes that the module is not loaded: when it is, it begins at zero.
func (t *SynproxyTotal) Gone() { t.Seen, t.Last = true, SynproxyStats{} }

// step returns what one counter went on by from last to now.
func step(now, last uint64) uint64 {
	if n := since(now, last); n < 1<<31 {
		return n
	}
	return now
}
