package main

import (
	"fmt"
	"strings"
)

// roff writes a manual page with the macros of man(7).
type roff struct{ b strings.Builder }

// page begins a page. The day of its date is in ISO 8601; empty where it is not known.
func (r *roff) page(name, section, day string) {
	fmt.Fprintf(&r.b, ".\\\" Made by: synproxyctl man %s\n.TH %s %s %q %q %q\n", section, strings.ToUpper(name), section, day, "synproxyctl "+version, "System Administration")
	fmt.Fprint(&r.b, ".nh\n.ad l\n") // no hyphens in the names of flags
}

func (r *roff) section(title string) { r.macro("SH", strings.ToUpper(title)) }

func (r *roff) sub(title string) { r.macro("SS", title) }

// tagged begins a paragraph with a tag, which is bold but for its value.
func (r *roff) tagged(tag, value string) {
	line := `\fB` + escape(tag) + `\fR`
	if value != "" {
		line += ` \fI` + escape(value) + `\fR`
	}
	fmt.Fprintf(&r.b, ".TP\n%s\n", line)
}

// text writes paragraphs that are apart by empty lines.
func (r *roff) text(text string) {
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			fmt.Fprint(&r.b, ".PP\n")
		}
		r.words(paragraph)
	}
}

// words writes one paragraph, a sentence or a line of the text on each line.
func (r *roff) words(text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintln(&r.b, guarded(escape(line)))
		}
	}
}

// lines writes them as they are.
func (r *roff) lines(text string) {
	fmt.Fprint(&r.b, ".RS 4\n.nf\n")
	for line := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		fmt.Fprintln(&r.b, guarded(escape(strings.TrimRight(line, "\n"))))
	}
	fmt.Fprint(&r.b, ".fi\n.RE\n")
}

func (r *roff) macro(name, argument string) {
	fmt.Fprintf(&r.b, ".%s \"%s\"\n", name, strings.ReplaceAll(escape(argument), `"`, `\(dq`))
}

// escape keeps text from being taken for requests: hyphens and quotes can be
// copied into a shell.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "~", `\(ti`, "^", `\(ha`).Replace(text)
}

// guarded keeps a line from being taken for a request.
func guarded(line string) string {
	if strings.HasPrefix(line, ".") {
		return `\&` + line
	}
	return line
}
