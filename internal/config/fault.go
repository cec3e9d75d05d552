package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxFaults bounds how many faults are told, so that a wrong file does not fill
// the screen.
const maxFaults = 20

// A Place is where something stands in a file.
type Place struct {
	File string // as it was given; "standard input" for that
	Line int    // from 1; 0: the whole file
	// Column counts characters from 1; 0: the whole line, as in lists of targets.
	Column int
}

// String returns FILE:LINE:COLUMN, as far as it is known.
func (p Place) String() string {
	text := p.File
	if p.Line > 0 {
		text += ":" + strconv.Itoa(p.Line)
	}
	if p.Line > 0 && p.Column > 0 {
		text += ":" + strconv.Itoa(p.Column)
	}
	return text
}

// A Fault is one thing that is wrong in a configuration.
type Fault struct {
	Place
	Code    string // stable, for programs, such as "unknown-key"
	Problem string // in lower case
	Advice  string // what to do
	Err     error  // the cause from below, or nil
}

// Error returns the place and the problem.
func (f *Fault) Error() string { return fmt.Sprintf("%s: %s", f.Place, f.Problem) }

// Unwrap returns the cause from below.
func (f *Fault) Unwrap() error { return f.Err }

// Hint returns what to do.
func (f *Fault) Hint() string { return f.Advice }

// Faults are all that is wrong in a configuration; as an error there is at least one.
type Faults struct {
	List []*Fault // in the order of their places; at most twenty
	More int      // that are not in the list
}

// Error returns a line for each fault. Where there are several, each tells what
// to do about it, unless the one before did: there is but one hint for all.
func (fs *Faults) Error() string {
	if len(fs.List) == 1 && fs.More == 0 {
		return fs.List[0].Error()
	}
	lines := make([]string, 0, len(fs.List)+1)
	said := ""
	for _, f := range fs.List {
		line := f.Error()
		if f.Advice != said {
			line += " (" + f.Advice + ")"
			said = f.Advice
		}
		lines = append(lines, line)
	}
	if fs.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", fs.More))
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults.
func (fs *Faults) Unwrap() []error {
	errs := make([]error, len(fs.List))
	for i, f := range fs.List {
		errs[i] = f
	}
	return errs
}

// Hint returns what to do.
func (fs *Faults) Hint() string {
	if len(fs.List) == 1 && fs.More == 0 {
		return fs.List[0].Advice
	}
	return "correct what is named; nothing was touched. A complete example: synproxyctl config example"
}

// add takes a fault.
func (fs *Faults) add(f *Fault) {
	if len(fs.List) == maxFaults {
		fs.More++
		return
	}
	fs.List = append(fs.List, f)
}

// err returns the faults as an error; nil if there is none.
func (fs *Faults) err() error {
	if len(fs.List) == 0 {
		return nil
	}
	rank := map[string]int{} // the file, then its lists in their order
	for _, f := range fs.List {
		if _, known := rank[f.File]; !known {
			rank[f.File] = len(rank)
		}
	}
	slices.SortStableFunc(fs.List, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(rank[a.File], rank[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return fs
}

// alone returns one fault as an error.
func alone(at Place, code, advice, format string, args ...any) error {
	fs := &Faults{}
	fs.add(&Fault{Place: at, Code: code, Problem: fmt.Sprintf(format, args...), Advice: advice})
	return fs
}

// quote makes hostile text harmless and long text short.
func quote(s string) string {
	const longest = 80
	if len(s) > longest {
		return fmt.Sprintf("%q...", s[:longest])
	}
	return strconv.Quote(s)
}
