package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/synproxyctl/synproxyctl/internal/demo"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// writeScene says what is about to be seen.
func writeScene(w io.Writer, r *demo.Report) {
	fmt.Fprintf(w, `A SYN flood, without and with protection, between machines that are network
namespaces of this process. Nothing outside of them is touched.

  client ----- firewall ----- server %s
                  |
               attacker: %s SYNs from random sources, %s a second

`, r.Flood.Target, grouped(r.Flood.Packets), grouped(int(r.Flood.Rate)))
}

// writeDemo writes what the demo has measured, in at most 80 columns.
func writeDemo(w io.Writer, p paint, r *demo.Report) {
	fmt.Fprintln(w)
	runs := []*demo.Measurement{r.Direct, r.Unprotected, r.Protected}
	rows := [][]string{{"", "no flood", "flood, unprotected", "flood, protected"}}
	for _, line := range []struct {
		name  string
		value func(*demo.Measurement) string
	}{
		{"good connections served", served},
		{"  latency p50", func(m *demo.Measurement) string { return millis(m, m.Latency.P50) }},
		{"  latency p99", func(m *demo.Measurement) string { return millis(m, m.Latency.P99) }},
		{"  latency max", func(m *demo.Measurement) string { return millis(m, m.Latency.Max) }},
		{"SYNs of the flood", flooded(func(m *demo.Measurement) string { return grouped(m.SYNs) })},
		{"  per second", flooded(func(m *demo.Measurement) string { return grouped(int(m.SYNRate)) })},
		{"firewall", nil},
		{"  conntrack entries", conntrack},
		{"  SYNs answered", proxied(func(m *demo.Measurement) uint64 { return m.SYNPROXY.SYNReceived })},
		{"  cookies that came back", proxied(func(m *demo.Measurement) uint64 { return m.SYNPROXY.CookieValid })},
		{"server", nil},
		{"  half-open connections", func(m *demo.Measurement) string { return grouped(m.SYNQueue) }},
		{"  SYNs dropped", flooded(func(m *demo.Measurement) string { return grouped(m.Server.ListenDrops) })},
	} {
		row := []string{line.name}
		for _, m := range runs {
			if line.value == nil {
				break
			}
			row = append(row, line.value(m))
		}
		rows = append(rows, row)
	}
	writeColumns(w, rows, func(row, column int, text string) string {
		switch {
		case row != 1 || column == 0:
			return text
		case runs[column-1].Lost > 0:
			return p.of(protect.Bad, text)
		}
		return p.good(text)
	})
	writeWhy(w, r)
	fmt.Fprint(w, `
The same for a server of yours, as root on its firewall or on itself:
  synproxyctl probe  192.0.2.1:443    what does the server announce?
  synproxyctl apply  192.0.2.1:443    protect it
  synproxyctl status                  how is it going?
  synproxyctl verify                  is everything still as it was asked for?
  synproxyctl revert                  take it all away
`)
	if r.Holds {
		fmt.Fprintf(w, "\n%s: no good connection lost under protection, nothing left (%.0f s)\n", p.good("done"), r.Seconds)
	}
}

// writeWhy says what the figures mean, and what they do not.
func writeWhy(w io.Writer, r *demo.Report) {
	fmt.Fprintf(w, `
A good connection is lost if it has no answer within %d s. The server is one
with a backlog of %d and no SYN cookies, in place of appliances and systems
without them: once half-open connections fill its queue, it drops further SYNs.
`, r.Load.TimeoutMillis/1000, r.Load.Backlog)
	c := r.Cookies
	verdict := "loses connections too"
	if c.Lost == 0 {
		verdict = "withstands this flood by itself"
	}
	fmt.Fprintf(w, `
A server with SYN cookies, Linux's default, %s:
%s served (p99 %s). But its firewall then tracks
%s connections, where SYNPROXY leaves it with %s.
`, verdict, served(c), millis(c, c.Latency.P99), grouped(c.Conntrack.Peak), grouped(r.Protected.Conntrack.Peak))
}

func served(m *demo.Measurement) string { return fmt.Sprintf("%d of %d", m.Served, m.Connections) }

// millis shows microseconds; a dash where nothing was served.
func millis(m *demo.Measurement, us int64) string {
	if m.Served == 0 {
		return "-"
	}
	return strconv.FormatFloat(float64(us)/1000, 'f', 1, 64) + " ms"
}

// flooded shows a figure of runs with a flood.
func flooded(value func(*demo.Measurement) string) func(*demo.Measurement) string {
	return func(m *demo.Measurement) string {
		if m.SYNs == 0 {
			return "-"
		}
		return value(m)
	}
}

// proxied shows a figure of runs with protection.
func proxied(value func(*demo.Measurement) uint64) func(*demo.Measurement) string {
	return func(m *demo.Measurement) string {
		if m.SYNPROXY == nil {
			return "-"
		}
		return grouped(value(m))
	}
}

func conntrack(m *demo.Measurement) string {
	if m.Conntrack.Full() {
		return grouped(m.Conntrack.Peak) + " (full)"
	}
	return grouped(m.Conntrack.Peak)
}

// grouped shows a number of at least 0 with commas: 1,234,567.
func grouped[T int | uint64](n T) string {
	s := strconv.FormatUint(uint64(n), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// writeColumns aligns the first column to the left and all others to the
// right. tint may colour a padded text, which must not change its width.
func writeColumns(w io.Writer, rows [][]string, tint func(row, column int, text string) string) {
	widths := map[int]int{}
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	for r, row := range rows {
		for i, text := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			switch {
			case i > 0:
				text = "   " + pad + text
			case len(row) > 1:
				text += pad
			}
			fmt.Fprint(w, tint(r, i, text))
		}
		fmt.Fprintln(w)
	}
}
