package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// clearLine wipes what a bar drew.
const clearLine = "\r\x1b[K"

const (
	// barRedraw is how often a bar is drawn anew at most.
	barRedraw = 100 * time.Millisecond
	// barSettle is how long a rate is measured before it is shown.
	barSettle = 500 * time.Millisecond
	// The bar itself takes what the figures leave of the line, in cells, or nothing.
	barShortest, barLongest = 10, 40
)

// bar shows on a terminal how far something has come, and draws nothing
// elsewhere. One serves all phases of a command, one after another.
type bar struct {
	w     io.Writer // nil for nothing
	p     paint
	now   func() time.Time
	width func() int // of the terminal, in columns

	phase        string
	began, drawn time.Time
	first        int // what was done when the phase began
	visible      bool
}

func newBar(w io.Writer) *bar {
	if !isTerminal(w) {
		return &bar{}
	}
	return &bar{w: w, p: painter(w), now: time.Now, width: func() int { return terminalWidth(w) }}
}

// terminalWidth is that of the narrowest usual terminal if it cannot be told.
func terminalWidth(w any) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return columns
}

// show draws the bar, if it is time to; with all of it done it is wiped away.
func (b *bar) show(phase string, done, total int) {
	if b.w == nil {
		return
	}
	now := b.now()
	if phase != b.phase || done < b.first {
		b.phase, b.began, b.first, b.drawn = phase, now, done, time.Time{}
	}
	switch {
	case done >= total:
		b.wipe()
	case done < total && now.Sub(b.drawn) >= barRedraw:
		fmt.Fprint(b.w, clearLine, b.line(done, total, now.Sub(b.began)))
		b.drawn, b.visible = now, true
	}
}

// wipe takes the bar away.
func (b *bar) wipe() {
	if b.visible {
		fmt.Fprint(b.w, clearLine)
		b.visible = false
	}
}

// line is the bar after some time in its phase. It never fills the last
// column, behind which terminals wrap.
func (b *bar) line(done, total int, elapsed time.Duration) string {
	room := b.width() - 1
	text := fmt.Sprintf("%s %d/%d", b.phase, done, total)
	if rate := float64(done-b.first) / elapsed.Seconds(); elapsed >= barSettle && done > b.first {
		figures := fmt.Sprintf(" %s/s ETA %s", short(rate), clock(float64(total-done)/rate))
		if cells := min(room-width(text)-len(figures)-len(" []"), barLongest); cells >= barShortest {
			return text + b.cells(done, total, cells) + figures
		}
		if width(text)+len(figures) <= room {
			return text + figures
		}
	} else if cells := min(room-width(text)-len(" []"), barLongest); cells >= barShortest {
		return text + b.cells(done, total, cells)
	}
	if runes := []rune(text); len(runes) > room {
		return string(runes[:max(0, room)])
	}
	return text
}

func (b *bar) cells(done, total, cells int) string {
	full := max(0, min(cells, done*cells/total))
	filled := strings.Repeat("#", full)
	if full > 0 {
		filled = b.p.good(filled)
	}
	return " [" + filled + strings.Repeat("-", cells-full) + "]"
}

func width(text string) int { return utf8.RuneCountInString(text) }

// short is a rate with two or more digits.
func short(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f", rate)
	}
	return fmt.Sprintf("%.0f", rate)
}

// clock is a time in seconds as minutes and seconds, or as hours too.
func clock(seconds float64) string {
	const longest = 100 * 3600
	s := int(min(seconds, longest-1) + 0.5)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}
