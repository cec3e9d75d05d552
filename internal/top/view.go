package top

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// order is what services are sorted by.
type order int

const (
	byRate order = iota
	byTotal
	byName
	orders
)

func (o order) String() string { return [...]string{"rate", "total", "name"}[o] }

// View is the live view: it takes samples and keys, and draws frames. It is not
// for more than one goroutine.
type View struct {
	Host     string        // its name, and its namespace if that has one
	Began    time.Time     // when the view began
	Interval time.Duration // from one look to the next
	Colour   bool
	ASCII    bool // graphs without block characters, and everything else in ASCII

	now    Sample // the last that succeeded; State is empty before the first
	failed error  // of the looks since then
	since  time.Time
	base   bool // the counters of now are those that the next rate is taken from

	syns, good, bad, proxied history
	tracks                   map[place]*track
	round                    int
	highest                  float64 // rate of any service that is remembered
	rows                     []row

	order            order
	paused, help     bool
	filter           string
	typing           bool // the filter
	offset, pageRows int
}

// row is one line of the table.
type row struct {
	name string
	syns uint64
	rate float64
	past history
	at   int // in the order of the services
}

// Paused reports whether looks are to stop for now.
func (v *View) Paused() bool { return v.paused }

// Add takes a sample.
func (v *View) Add(s Sample) {
	if s.Err != nil {
		if v.failed == nil {
			v.since = s.At
		}
		v.failed = s.Err
		return
	}
	v.failed = nil
	if v.base {
		elapsed := s.At.Sub(v.now.At)
		d := s.Counters.Since(v.now.Counters)
		v.syns.push(perSecond(d.SYNReceived, elapsed), remembered)
		v.good.push(perSecond(d.CookieValid, elapsed), remembered)
		v.bad.push(perSecond(d.CookieInvalid, elapsed), remembered)
	}
	proxied := unknown
	if s.Proxied >= 0 {
		proxied = float64(s.Proxied)
	}
	v.proxied.push(proxied, remembered)
	v.seeServices(&s)
	s.Services = nil // the rows have what is needed of them
	v.now, v.base = s, true
	v.arrange()
}

// seeServices brings the tracks up to date, and forgets those of services that are gone.
func (v *View) seeServices(s *Sample) {
	if v.tracks == nil {
		v.tracks = map[place]*track{}
	}
	v.round++
	v.highest = 0
	v.rows = slices.Grow(v.rows[:0], len(s.Services))
	for i := range s.Services {
		service := &s.Services[i]
		t := v.tracks[service.place()]
		if t == nil {
			t = &track{rate: unknown}
			v.tracks[service.place()] = t
		}
		if t.round = v.round; service.Unseen {
			t.rate = unknown
		} else {
			t.see(service.SYNs, s.At)
		}
		v.highest = max(v.highest, t.past.peak())
		v.rows = append(v.rows, row{clean(service.Name, v.ASCII), t.syns, t.rate, t.past, i})
	}
	for p, t := range v.tracks {
		if t.round != v.round {
			delete(v.tracks, p)
		}
	}
}

// arrange sorts the rows.
func (v *View) arrange() {
	slices.SortFunc(v.rows, func(a, b row) int {
		c := 0
		switch v.order {
		case byRate:
			c = cmp.Or(cmp.Compare(known(b.rate), known(a.rate)), cmp.Compare(b.syns, a.syns))
		case byTotal:
			c = cmp.Compare(b.syns, a.syns)
		case byName:
			c = strings.Compare(a.name, b.name)
		}
		return cmp.Or(c, cmp.Compare(a.at, b.at))
	})
}

// known is a rate, or less than any of one that is not known.
func known(r float64) float64 {
	if math.IsNaN(r) {
		return -1
	}
	return r
}

// shown are the rows that the filter leaves.
func (v *View) shown() []row {
	if v.filter == "" {
		return v.rows
	}
	word := strings.ToLower(v.filter)
	var rows []row
	for _, r := range v.rows {
		if strings.Contains(strings.ToLower(r.name), word) {
			rows = append(rows, r)
		}
	}
	return rows
}

// Key takes a key by the name that bubbletea gives it, and reports whether it ends the view.
func (v *View) Key(key string) (quit bool) {
	if key == "ctrl+c" {
		return true
	}
	if v.typing {
		v.typed(key)
		return false
	}
	if v.help {
		v.help = false
		if key != "q" {
			return false
		}
	}
	page := max(1, v.pageRows)
	switch key {
	case "q":
		return true
	case "esc":
		if v.filter == "" {
			return true
		}
		v.filter, v.offset = "", 0
	case "up", "k":
		v.offset--
	case "down", "j":
		v.offset++
	case "pgup":
		v.offset -= page
	case "pgdown":
		v.offset += page
	case "home", "g":
		v.offset = 0
	case "end", "G":
		v.offset = len(v.rows)
	case "s":
		v.order = (v.order + 1) % orders
		v.offset = 0
		v.arrange()
	case "p", "space":
		v.paused = !v.paused
		if v.paused { // what comes in the meantime is of no single interval
			v.base = false
			for _, t := range v.tracks {
				t.at = time.Time{}
			}
		}
	case "/":
		v.typing = true
	case "?", "h":
		v.help = true
	}
	v.offset = max(0, v.offset)
	return false
}

// typed takes a key of the filter.
func (v *View) typed(key string) {
	const longest = 40
	v.offset = 0
	switch key {
	case "enter":
		v.typing = false
	case "esc":
		v.typing, v.filter = false, ""
	case "backspace":
		if _, n := utf8.DecodeLastRuneInString(v.filter); n > 0 {
			v.filter = v.filter[:len(v.filter)-n]
		}
	case "space":
		key = " "
		fallthrough
	default:
		if utf8.RuneCountInString(key) == 1 && utf8.RuneCountInString(v.filter) < longest {
			v.filter += clean(key, v.ASCII)
		}
	}
}
