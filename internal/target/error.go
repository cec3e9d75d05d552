package target

import (
	"errors"
	"fmt"
)

// maxFaults bounds how many faults of a list are reported, so that a wrong
// file does not fill the screen.
const maxFaults = 10

// An Error is a fault in what the user gave, or in the answer of a resolver.
type Error struct {
	// Where is the list and line that the text is from, such as
	// "targets.txt:3"; empty for the command line.
	Where string
	// Line is that line; 0 if it is none, or not of one line.
	Line int
	// Subject is the user's text; empty where the fault is that of a whole list.
	Subject string
	// Problem says what is wrong with it, in lower case.
	Problem string
	// Advice says what to do next.
	Advice string
	// Err is the cause from below, or nil.
	Err error
}

func (e *Error) Error() string {
	text := e.Problem
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	switch {
	case e.Where != "" && e.Subject != "":
		return fmt.Sprintf("%s: target %s: %s", e.Where, quote(e.Subject), text)
	case e.Where != "":
		return fmt.Sprintf("%s: %s", e.Where, text)
	case e.Subject != "":
		return fmt.Sprintf("target %s: %s", quote(e.Subject), text)
	}
	return text
}

// Unwrap returns the cause from below.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns what to do next.
func (e *Error) Hint() string { return e.Advice }

// quote makes hostile text harmless and long text short.
func quote(s string) string {
	const longest = 80
	if len(s) > longest {
		return fmt.Sprintf("%q...", s[:longest])
	}
	return fmt.Sprintf("%q", s)
}

// joinFaults joins the first faults and counts the rest.
func joinFaults(faults []error) error {
	if more := len(faults) - maxFaults; more > 0 {
		return errors.Join(append(faults[:maxFaults:maxFaults], fmt.Errorf("and %d more", more))...)
	}
	return errors.Join(faults...)
}
