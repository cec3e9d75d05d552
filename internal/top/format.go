package top

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// rate is events in a second, as people read it: at most ten characters.
func rate(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	if n := human(v); strings.HasSuffix(n, "k") || strings.HasSuffix(n, "M") || strings.HasSuffix(n, "G") {
		return n[:len(n)-1] + " " + n[len(n)-1:] + "/s"
	}
	return human(v) + "/s"
}

// human is a number with three or four digits and a letter for its size.
func human(v float64) string {
	switch {
	case v < 0 || math.IsNaN(v):
		return "-"
	case v == 0:
		return "0"
	case v < 0.05:
		return "0.1" // it is not nothing
	case v < 9.95 && v != math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v < 9999.5:
		return grouped(uint64(math.Round(v)))
	}
	for _, unit := range "kMGTPE" {
		v /= 1000
		switch {
		case v < 99.95:
			return fmt.Sprintf("%.1f%c", v, unit)
		case v < 999.5:
			return fmt.Sprintf("%.0f%c", v, unit)
		}
	}
	return "lots"
}

// grouped is a whole number with commas; of a very large one, its size.
func grouped(n uint64) string {
	const longest = 100_000_000
	if n >= longest {
		return human(float64(n))
	}
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// The ramps of graphs, from nothing to the peak.
var (
	blocks = []rune(" ▁▂▃▄▅▆▇█")
	plain  = []rune(" .:-=+*#@")
)

// spark draws the newest values, at most one in each cell, the newest at the
// right. What is more than nothing is never drawn as nothing.
func spark(h history, cells int, peak float64, ascii bool) string {
	ramp := blocks
	if ascii {
		ramp = plain
	}
	cells = max(0, cells)
	h = h[max(0, len(h)-cells):]
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", cells-len(h)))
	for _, v := range h {
		level := 0
		if v > 0 && peak > 0 {
			level = min(max(1, int(math.Round(v/peak*float64(len(ramp)-1)))), len(ramp)-1)
		}
		b.WriteRune(ramp[level])
	}
	return b.String()
}

// bar draws how full something is.
func bar(n, limit, cells int) string {
	cells -= len("[]")
	if limit <= 0 || cells < 1 {
		return ""
	}
	full := int(math.Ceil(min(1, float64(max(0, n))/float64(limit)) * float64(cells)))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", cells-full) + "]"
}

// clean leaves of a text what takes exactly one cell of any terminal: names come
// from files, and findings quote the rules and programs of others. Whatever
// else there is, escapes and marks that turn the direction of writing too,
// becomes a question mark.
func clean(s string, ascii bool) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7f:
			return '?'
		case r < 0x7f:
			return r
		case ascii || r == 0xad || !unicode.IsPrint(r): // 0xad is the soft hyphen
			return '?'
		case r < 0x300 || r >= 0x370 && r < 0x483 || r >= 0x48a && r < 0x530: // Latin, Greek and Cyrillic, without marks that combine
			return r
		}
		return '?'
	}, s)
}

// wrap breaks a text that is clean into lines of at most width cells, at spaces if there are any.
func wrap(s string, width int) (lines []string) {
	width = max(1, width)
	var now []rune
	for _, word := range strings.Fields(s) {
		w := []rune(word)
		if len(now) > 0 && len(now)+1+len(w) > width {
			lines, now = append(lines, string(now)), nil
		}
		if len(now) > 0 {
			now = append(now, ' ')
		}
		for now = append(now, w...); len(now) > width; now = now[width:] {
			lines = append(lines, string(now[:width]))
		}
	}
	return append(lines, string(now))
}
