package top

import (
	"strings"
	"unicode/utf8"
)

// style is how text looks where there is colour; it never carries a meaning alone.
type style string

// The styles, of the sixteen colours that every terminal has.
const (
	normal  style = ""
	strong  style = "1"
	faint   style = "2"
	heading style = "7"
	green   style = "32"
	yellow  style = "33"
	red     style = "31"
	cyan    style = "36"
)

// span is text in one style.
type span struct {
	text  string
	style style
}

// line is what stands in one line of the terminal.
type line []span

func text(s string) line             { return line{{s, normal}} }
func in(st style, s string) line     { return line{{s, st}} }
func (l line) and(more ...span) line { return append(l, more...) }

func (l line) width() (n int) {
	for _, s := range l {
		n += utf8.RuneCountInString(s.text)
	}
	return n
}

// spread puts two parts at the ends of a line; if there is no room for both, the second goes.
func spread(left, right line, width int) line {
	gap := width - left.width() - right.width()
	if gap < 1 || len(right) == 0 {
		return left
	}
	return append(left.and(span{strings.Repeat(" ", gap), normal}), right...)
}

// page draws lines, and never more than fit: every text in them is clean, so that a rune is a cell.
func page(lines []line, width, height int, colour bool) string {
	var b strings.Builder
	for i, l := range lines[:min(len(lines), max(0, height))] {
		if i > 0 {
			b.WriteByte('\n')
		}
		room, more := width, l.width() > width
		if more {
			room-- // a number that is cut would be another number: a tilde tells it
		}
		for _, s := range l {
			t := cut(s.text, room)
			room -= utf8.RuneCountInString(t)
			if colour && s.style != normal && t != "" {
				t = "\x1b[" + string(s.style) + "m" + t + "\x1b[m"
			}
			b.WriteString(t)
		}
		if more {
			b.WriteByte('~')
		}
	}
	return b.String()
}

// cut is the beginning of a text that has room.
func cut(s string, room int) string {
	if room <= 0 {
		return ""
	}
	if len(s) <= room || utf8.RuneCountInString(s) <= room {
		return s
	}
	return string([]rune(s)[:room])
}

// fit is a text of exactly so many cells; one that is cut ends with a tilde.
func fit(s string, cells int) string {
	n := utf8.RuneCountInString(s)
	switch {
	case n <= cells:
		return s + strings.Repeat(" ", cells-n)
	case cells < 1:
		return ""
	}
	return cut(s, cells-1) + "~"
}

// right is a text at the right end of so many cells.
func right(s string, cells int) string {
	return strings.Repeat(" ", max(0, cells-utf8.RuneCountInString(s))) + s
}
