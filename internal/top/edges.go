package top

import (
	"fmt"
	"time"
)

// manual is the help.
func manual(int, int) []line {
	var lines []line
	for _, s := range []string{
		"Up Down PgUp PgDn Home End (k j g G)  scroll",
		"s  sort by rate, total or name     /  show services with a word in their name",
		"p  pause, and go on (also space)   q  quit (also Ctrl-C and Esc)",
		"",
		"SYNs answered: SYNs that got a cookie, of a flood and of good clients.",
		"good connections: cookies that came back and were right. Each is a connection.",
		"invalid cookies: ACKs whose cookie was wrong or too old.",
		"proxied now: connections alive that the proxy has opened.",
		"The graphs of services have one scale, each of those above has its own.",
		"Any key closes this help.",
	} {
		lines = append(lines, text(s))
	}
	return lines
}

// findings are what a person should know, the worst first, in at most so many lines.
func (v *View) findings(width, most int) []line {
	var lines []line
	add := func(severity, message string) {
		st := cyan
		switch severity {
		case bad:
			st = red
		case warn:
			st = yellow
		}
		seen := cut(severity+": "+message, width*(most+1)) // however long it is
		for i, s := range wrap(clean(seen, v.ASCII), width) {
			if head := severity + ":"; i == 0 && len(s) >= len(head) && s[:len(head)] == head {
				lines = append(lines, in(st, head).and(span{s[len(head):], normal}))
				continue
			}
			lines = append(lines, text(s))
		}
	}
	if v.failed != nil {
		add(bad, fmt.Sprintf("cannot look since %s, tries again: %v", v.since.Local().Format(time.TimeOnly), v.failed))
	}
	told := 0
	for _, f := range v.now.Findings {
		if len(lines) >= most {
			break
		}
		message := f.Message + " [" + f.Code + "]"
		if f.Hint != "" {
			message += "; hint: " + f.Hint
		}
		add(f.severity(), message)
		told++
	}
	left := len(v.now.Findings) - told
	if len(lines) > most {
		lines = lines[:most]
		left++ // one is not whole
	}
	if left > 0 && most > 1 {
		if len(lines) == most {
			lines = lines[:most-1]
		}
		lines = append(lines, in(faint, "more: synproxyctl verify"))
	}
	return lines
}

// foot tells the keys, or takes the filter.
func (v *View) foot(width int) line {
	switch {
	case v.typing:
		return in(strong, "filter: "+v.filter+"_").and(span{"  Enter keeps it, Esc drops it", faint})
	case v.filter != "":
		return spread(in(strong, "filter: "+v.filter), in(faint, "Esc all services  q quit"), width)
	}
	keys := "q quit  s sort: " + v.order.String() + "  / filter  p pause  ? help"
	return spread(in(faint, keys), in(faint, "every "+v.Interval.String()), width)
}

// small is what matters most: for a corner of a screen.
func (v *View) small(height, width int, now time.Time) []line {
	state := v.state()
	if mood := v.mood(now); mood != nil {
		state = append(state.and(span{" ", normal}), mood...)
	}
	lines := []line{
		state,
		text("SYNs " + rate(v.syns.last())),
		text("good " + rate(v.good.last())),
		text("conntrack " + grouped(uint64(max(0, v.now.Conntrack)))),
		text("proxied " + human(v.proxied.last())),
	}
	if n := len(v.now.Findings); n > 0 && len(lines) < height {
		lines = append(lines, in(yellow, v.now.Findings[0].severity()+": "+count(n, "finding")))
	}
	rows := v.shown()
	v.pageRows = max(0, height-len(lines))
	v.offset = max(0, min(v.offset, len(rows)-v.pageRows))
	for _, r := range rows[v.offset:min(len(rows), v.offset+v.pageRows)] {
		value := rate(r.rate)
		lines = append(lines, text(fit(r.name, width-len(value)-1)+" "+value))
	}
	return lines
}

// severity is a word of ours, whatever a sample brings.
func (f Finding) severity() string {
	switch f.Severity {
	case bad, warn:
		return f.Severity
	}
	return "info"
}

// clockOf is a time as hours, minutes and seconds.
func clockOf(d time.Duration) string {
	s := int(max(0, d).Seconds())
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// count says how many there are of something.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return grouped(uint64(n)) + " " + what + "s"
}
