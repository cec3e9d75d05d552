package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// streams are where a run reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// schema is the version of the JSON output. It grows only when a key changes
// its meaning or goes.
const schema = 1

// exitStatus is the contract's table.
var exitStatus = map[protect.Code]int{
	protect.Failed:      1,
	protect.Usage:       2,
	protect.No:          3,
	protect.Permission:  4,
	protect.Unsupported: 5,
	protect.Conflict:    5,
	protect.NotApplied:  5,
	protect.Stuck:       6,
	protect.Interrupted: 130,
}

// errorJSON is how the JSON output shows an error.
type errorJSON struct {
	Code    protect.Code `json:"code"`
	Message string       `json:"message"`
	Hint    string       `json:"hint"`
}

// writeJSON writes the one object of a run: schema, command, the fields of the
// result if there is one, and the error if there is one.
func writeJSON(w io.Writer, command string, result any, failure error) error {
	head := struct {
		Schema  int    `json:"schema"`
		Command string `json:"command"`
	}{schema, command}
	sources := []any{head}
	if result != nil {
		sources = append(sources, result)
	}
	if failure != nil {
		sources = append(sources, struct {
			Error errorJSON `json:"error"`
		}{errorJSON{protect.CodeOf(failure), failure.Error(), protect.HintOf(failure)}})
	}
	// What JSON cannot say is found before anything is written.
	var parts []part
	for _, source := range sources {
		more, err := partsOf(source)
		if err != nil {
			return err
		}
		parts = append(parts, more...)
	}
	separator := "{"
	for _, p := range parts {
		if len(p.text) == 0 {
			continue
		}
		if _, err := io.WriteString(w, separator); err != nil {
			return err
		}
		if err := p.write(w); err != nil {
			return err
		}
		separator = ","
	}
	_, err := io.WriteString(w, "}\n")
	return err
}

// writeError tells people what went wrong and what to do next.
func writeError(w io.Writer, err error) {
	if isTerminal(w) {
		fmt.Fprint(w, clearLine) // progress may have been interrupted
	}
	const name = "synproxyctl: "
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	// Several faults are joined by new lines. Indented, none of them can pass for a hint.
	fmt.Fprintf(w, "%s%s\n", name, strings.Join(lines, "\n"+strings.Repeat(" ", len(name))))
	if hint := protect.HintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", printable(hint))
	}
}

// printable removes what a terminal would act on, since messages quote
// arguments, files and the output of programs.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' {
			return ';'
		}
		if r < ' ' || (r >= 0x7f && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}

// table writes aligned columns.
func table(w io.Writer, rows ...[]string) {
	longTable(w, len(rows), func(i int) []string { return rows[i] })
}

// longTable is a table of n rows which are made when they are needed, twice
// each, as all of them would take too much memory.
func longTable(w io.Writer, n int, row func(i int) []string) {
	var widths []int
	for i := range n {
		for column, text := range row(i) {
			if column == len(widths) {
				widths = append(widths, 0)
			}
			widths[column] = max(widths[column], width(text))
		}
	}
	const gap = 2
	for i := range n {
		cells := row(i)
		for column, text := range cells {
			pad := widths[column] - width(text) + gap
			if column == len(cells)-1 {
				pad = 0
			}
			fmt.Fprintf(w, "%s%*s", text, pad, "")
		}
		fmt.Fprintln(w)
	}
}

// isTerminal reports whether a stream is one, and may be treated as such.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// paint colours text where people see it.
type paint bool

func painter(w io.Writer) paint {
	return paint(isTerminal(w) && os.Getenv("NO_COLOR") == "")
}

func (p paint) of(severity protect.Severity, text string) string {
	code := map[protect.Severity]string{protect.Bad: "31", protect.Warn: "33", protect.Info: "36"}[severity]
	if !p {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p paint) good(text string) string {
	if !p {
		return text
	}
	return "\x1b[32m" + text + "\x1b[0m"
}

func writeFindings(w io.Writer, p paint, findings []protect.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%s: %s [%s]\n", p.of(f.Severity, string(f.Severity)), printable(f.Message), f.Code)
		if f.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", printable(f.Hint))
		}
	}
}
