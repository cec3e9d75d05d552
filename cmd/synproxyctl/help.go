package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// columns is the width that help keeps to: that of the narrowest terminal.
const columns = 80

// helpAnswer is the help of a command, of the commands of a group, or of the
// tool if there is neither.
func helpAnswer(c *command, group string) *answer {
	var b strings.Builder
	switch {
	case c != nil:
		writeHelp(&b, *c)
	case group != "":
		writeGroup(&b, group, commands())
	default:
		writeOverview(&b, commands())
	}
	return textAnswer(struct {
		Text string `json:"text"`
	}{b.String()}, b.String())
}

func textAnswer(result any, text string) *answer {
	return &answer{result: result, text: func(w io.Writer, _ paint) { _, _ = io.WriteString(w, text) }}
}

// overviewExamples are the first lines of a new user.
const overviewExamples = `  synproxyctl probe 192.0.2.1:443            what does the server answer?
  synproxyctl apply 192.0.2.1:443 --dry-run  what would be changed?
  synproxyctl apply 192.0.2.1:443            protect it, and nothing else
  synproxyctl status                         how does it go?
  synproxyctl revert                         take it away without a trace
`

func writeOverview(w io.Writer, all []command) {
	fmt.Fprint(w, `synproxyctl protects TCP services from SYN floods with the kernel's SYNPROXY.

Usage: synproxyctl COMMAND [FLAG...] [TARGET...]

Commands:
`)
	for _, c := range all {
		if !c.hidden {
			writeItem(w, 16, c.name, c.usage)
		}
	}
	fmt.Fprint(w, "\nFlags of every command:\n")
	writeFlags(w, shared())
	fmt.Fprintf(w, "\nExamples:\n%s", overviewExamples)
	fmt.Fprint(w, `
More on a command: synproxyctl help COMMAND
Exit status: 0 done, 1 failed and rolled back, 2 bad usage, 3 the honest no,
4 not permitted, 5 not supported or a conflict, 6 the rollback failed too,
130 interrupted and rolled back.
`)
}

func writeGroup(w io.Writer, group string, all []command) {
	fmt.Fprintf(w, "Usage: synproxyctl %s COMMAND [FLAG...]\n\nCommands:\n", group)
	for _, c := range all {
		if strings.HasPrefix(c.name, group+" ") {
			writeItem(w, 16, c.name, c.usage)
		}
	}
	fmt.Fprintf(w, "\nMore on a command: synproxyctl help %s COMMAND\n", group)
}

func writeHelp(w io.Writer, c command) {
	usage := "synproxyctl " + c.name + " [FLAG...]"
	if c.args != "" {
		usage += " " + c.args
	}
	fmt.Fprintf(w, "Usage: %s\n\n", usage)
	writeWrapped(w, sentence(c.usage), 0)
	if help := strings.TrimSpace(c.help); help != "" {
		for _, paragraph := range strings.Split(help, "\n\n") {
			fmt.Fprintln(w)
			writeWrapped(w, paragraph, 0)
		}
	}
	fmt.Fprint(w, "\nFlags:\n")
	writeFlags(w, c.all())
	if c.examples != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", strings.Trim(c.examples, "\n"))
	}
}

func writeFlags(w io.Writer, flags []cli.Flag) {
	heads, width := make([]string, len(flags)), 0
	for i, f := range flags {
		heads[i] = "--" + f.Names()[0]
		for _, alias := range f.Names()[1:] {
			heads[i] += ", -" + alias
		}
		if value := valueOf(f); value != "" {
			heads[i] += " " + value
		}
		width = max(width, len(heads[i])+2)
	}
	for i, f := range flags {
		writeItem(w, width, heads[i], withDefault(f))
	}
	writeItem(w, width, "--help, -h", "show help")
}

// valueOf names the value of a flag: as its usage does between back quotes,
// else by its type; empty if it takes none.
func valueOf(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok || !d.TakesValue() {
		return ""
	}
	if parts := strings.Split(d.GetUsage(), "`"); len(parts) == 3 {
		return parts[1]
	}
	switch f.(type) {
	case *cli.IntFlag:
		return "N"
	case *cli.DurationFlag:
		return "TIME"
	}
	return "VALUE"
}

func usageOf(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	return strings.ReplaceAll(d.GetUsage(), "`", "")
}

// withDefault says what a flag means, and what holds without it.
func withDefault(f cli.Flag) string {
	text := usageOf(f)
	if d, ok := f.(cli.DocGenerationFlag); ok && d.GetDefaultText() != "" && d.TakesValue() {
		text += " (default: " + strings.Trim(d.GetDefaultText(), `"`) + ")"
	}
	return text
}

// sentence makes a sentence of what a command or key is said to be.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
}

// writeItem writes a name and, from a column on, what it means.
func writeItem(w io.Writer, width int, name, text string) {
	indent := 2 + cmp.Or(width, len(name)+2)
	fmt.Fprintf(w, "  %-*s", indent-2, name)
	writeWrapped(w, text, indent)
}

// writeWrapped writes words in lines that fit; the first is indented already.
func writeWrapped(w io.Writer, text string, indent int) {
	used := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case used+1+len(word) > columns:
			fmt.Fprintf(w, "\n%*s", indent, "")
			used = indent
		default:
			fmt.Fprint(w, " ")
			used++
		}
		fmt.Fprint(w, word)
		used += len(word)
	}
	fmt.Fprintln(w)
}
