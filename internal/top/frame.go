package top

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Below this there is only room for what matters most.
const (
	narrow = 40
	low    = 10
	// From here on there is room for empty lines too.
	roomy = 16
)

// Frame draws the view: at most height lines of at most width cells each.
func (v *View) Frame(width, height int, now time.Time) string {
	if width < 1 || height < 1 {
		return ""
	}
	var lines []line
	switch {
	case width < narrow || height < low:
		lines = v.small(height, width, now)
	case v.help:
		lines = v.full(width, height, now, manual)
	default:
		lines = v.full(width, height, now, v.table)
	}
	return page(lines, width, height, v.Colour)
}

// full is everything: the head, the totals, the body in what is left, findings and keys.
func (v *View) full(width, height int, now time.Time, body func(width, height int) []line) []line {
	var gap []line
	if height >= roomy {
		gap = []line{{}}
	}
	lines := slices.Concat(v.head(width, now), gap, v.totals(width, height))
	findings := v.findings(width, max(2, (height-len(lines))/3))
	lines = append(lines, gap...)
	room := height - len(lines) - len(findings) - 1
	middle := body(width, room)
	lines = append(lines, middle[:min(len(middle), max(0, room))]...)
	for len(lines) < height-1-len(findings) {
		lines = append(lines, line{})
	}
	lines = append(lines, findings...)
	return append(lines[:min(len(lines), height-1)], v.foot(width))
}

// head tells where we are, how it is, and how old that is.
func (v *View) head(width int, now time.Time) []line {
	name := in(strong, "synproxyctl top").and(span{"  " + clean(v.Host, v.ASCII), normal})
	clock := text("open " + clockOf(now.Sub(v.Began)))
	if !v.now.At.IsZero() {
		clock = text(v.now.At.Local().Format(time.TimeOnly)).and(span{"  ", normal}, clock[0])
	}
	state := v.state()
	if v.now.Backend != "" {
		state = state.and(span{" by " + clean(v.now.Backend, v.ASCII), normal})
	}
	if n := len(v.rows); n > 0 {
		state = state.and(span{"  " + count(n, "service"), normal})
	}
	if v.now.Watched {
		state = state.and(span{"  watched", normal})
	}
	if t := v.now.Trial; !t.IsZero() {
		left := max(0, t.Sub(now).Round(time.Second))
		state = state.and(span{"  on trial: " + left.String() + " left to confirm", yellow})
	}
	return []line{spread(name, clock, width), spread(state, v.mood(now), width)}
}

// mood tells why the figures stand still, if they do.
func (v *View) mood(now time.Time) line {
	age := now.Sub(v.now.At)
	switch {
	case v.paused:
		return in(yellow, "PAUSED")
	case v.failed != nil:
		return in(red, "cannot look")
	case !v.now.At.IsZero() && age > 2*v.Interval+time.Second:
		return in(yellow, age.Round(time.Second).String()+" old")
	}
	return nil
}

func (v *View) state() line {
	switch s := v.now.State; s {
	case "":
		return in(faint, "looking...")
	case "active":
		return in(green, s)
	case "draining":
		return in(yellow, s)
	case "drifted":
		return in(red, s)
	default:
		return text(clean(s, v.ASCII))
	}
}

// The columns of the totals.
const (
	labelCells = 18
	valueCells = 10
	noteCells  = 18
)

// totals are the figures of the whole namespace.
func (v *View) totals(width, height int) []line {
	const gaps = 4
	graph := min(width-labelCells-valueCells-noteCells-gaps, remembered)
	item := func(label, value string, h history, st style, note string) line {
		l := text(fit(label, labelCells) + right(value, valueCells))
		if graph < 8 {
			return l
		}
		return l.and(span{"  ", normal}, span{spark(h, graph, h.peak(), v.ASCII), st}, span{"  " + note, faint})
	}
	peak := func(h history) string {
		if h.peak() == 0 {
			return ""
		}
		return "peak " + rate(h.peak())
	}
	proxied := ""
	if p := v.proxied.peak(); p > 0 {
		proxied = "peak " + human(p)
	}
	n, limit := v.now.Conntrack, v.now.ConntrackMax
	use := text(fit("conntrack entries", labelCells) + right(grouped(uint64(max(0, n))), valueCells))
	switch {
	case v.now.State == "":
		use = text(fit("conntrack entries", labelCells) + right("-", valueCells))
	case limit <= 0:
		use = use.and(span{"  no limit", faint})
	default:
		share := float64(n) / float64(limit) * 100
		note := fmt.Sprintf("%.0f%%", share)
		if graph >= 8 {
			use = use.and(span{"  ", normal}, span{bar(n, limit, graph), fullness(share)})
			note += " of " + grouped(uint64(limit))
		}
		use = use.and(span{"  " + note, faint})
	}
	lines := []line{
		item("SYNs answered", rate(v.syns.last()), v.syns, cyan, peak(v.syns)),
		item("good connections", rate(v.good.last()), v.good, green, peak(v.good)),
		item("invalid cookies", rate(v.bad.last()), v.bad, red, peak(v.bad)),
		item("proxied now", human(v.proxied.last()), v.proxied, green, proxied),
		use,
	}
	if height >= roomy {
		k := v.now.Counters
		lines = append(lines, in(faint, fmt.Sprintf("in all: %s SYNs; cookies: %s valid, %s invalid, %s repeated",
			grouped(k.SYNReceived), grouped(k.CookieValid), grouped(k.CookieInvalid), grouped(k.CookieRetrans))))
	}
	return lines
}

// fullness is the style of a table that is filled to so many percent.
func fullness(percent float64) style {
	switch {
	case percent >= 90:
		return red
	case percent >= 70:
		return yellow
	}
	return green
}

// table lists the services that fit.
func (v *View) table(width, height int) []line {
	graph := 0
	const columns = 10 + 2 + 12
	switch {
	case width >= 70:
		graph = serviceRemembered
	case width >= 55:
		graph = 10
	}
	name := width - columns - graph
	if graph > 0 {
		name -= 2
	}
	join := func(a, b, c, d string) string {
		if graph > 0 {
			c = "  " + fit(c, graph)
		}
		return fit(a, name) + right(b, 10) + c + right(d, 14)
	}
	rows := v.shown()
	v.pageRows = max(0, height-1)
	v.offset = max(0, min(v.offset, len(rows)-v.pageRows))
	last := min(len(rows), v.offset+v.pageRows)
	title := "SERVICE"
	if v.offset > 0 || last < len(rows) {
		title += fmt.Sprintf(" %d-%d of %s", v.offset+1, last, grouped(uint64(len(rows))))
	}
	lines := []line{in(heading, join(title, "SYN/s", "", "SYNs"))}
	switch {
	case v.now.State == "":
		return nil
	case len(v.rows) == 0:
		return []line{text("Nothing is protected. See: synproxyctl apply --help")}
	case len(rows) == 0:
		return append(lines, text("No service has this in its name: "+v.filter))
	}
	for _, r := range rows[v.offset:max(v.offset, last)] {
		st := normal
		if r.rate > 0 {
			st = strong
		}
		value := strings.TrimSuffix(rate(r.rate), "/s")
		l := in(st, fit(r.name, name)+right(value, 10))
		if graph > 0 {
			l = l.and(span{"  ", normal}, span{fit(spark(r.past, graph, v.highest, v.ASCII), graph), cyan})
		}
		lines = append(lines, l.and(span{right(grouped(r.syns), 14), normal}))
	}
	return lines
}
