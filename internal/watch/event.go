package watch

import (
	"fmt"
	"log/slog"
)

// An Event is a change that is worth a line in the journal. Its code is stable.
type Event struct {
	Level   slog.Level
	Code    string
	Message string
	Hint    string // what to do; may be empty
}

func event(l slog.Level, code, hint, format string, args ...any) Event {
	return Event{l, code, fmt.Sprintf(format, args...), hint}
}

// count says how many there are of something.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// most is how many lines are written of what is of one kind; the rest is counted.
const most = 10

// shorten keeps the first events of many, and counts the rest.
func shorten(events []Event) []Event {
	if len(events) <= most {
		return events
	}
	rest := len(events) - most
	last := events[most]
	last.Message, last.Hint = fmt.Sprintf("and %d more like these", rest), ""
	return append(events[:most:most], last)
}
