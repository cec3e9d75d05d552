package e2e

import (
	"regexp"
	"strings"
	"testing"
)

// docBlock is one fenced block of a document.
type docBlock struct {
	lang   string // the first word after the fence
	line   int    // of the opening fence, from 1
	excuse string // of the comment "not run: REASON" just above, empty lines aside
	file   string // of the comment "file: PATH" just above: the block is the content of that file
	hidden bool   // not a block at all, but a command in a comment "run: COMMAND"
	body   []string
}

// docStep is one command of a console session, and the output that is expected.
type docStep struct {
	command string
	root    bool   // the prompt was #
	host    string // what the prompt begins with, as in "client# "; empty for the host that the document is about
	want    []string
}

// parseDoc finds the fenced blocks of a Markdown document, and the name in its first comment "lab: NAME".
func parseDoc(text string) (lab string, blocks []docBlock) {
	var open *docBlock
	excuse, file := "", ""
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		info, fence := strings.CutPrefix(trimmed, "```")
		switch {
		case open != nil && trimmed == "```":
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.body = append(open.body, line)
		case fence:
			lang, _, _ := strings.Cut(info, " ")
			open = &docBlock{lang: lang, line: i + 1, excuse: excuse, file: file}
			excuse, file = "", ""
		case strings.HasPrefix(trimmed, "<!--"):
			comment := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(trimmed, "<!--"), "-->"))
			if name, ok := strings.CutPrefix(comment, "lab: "); ok && lab == "" {
				lab = name
			}
			if reason, ok := strings.CutPrefix(comment, "not run: "); ok {
				excuse = reason
			}
			if path, ok := strings.CutPrefix(comment, "file: "); ok {
				file = path
			}
			if command, ok := strings.CutPrefix(comment, "run: "); ok {
				blocks = append(blocks, docBlock{lang: "console", line: i + 1, hidden: true, body: []string{"# " + command}})
			}
		case trimmed != "":
			excuse, file = "", ""
		}
	}
	if open != nil { // a fence that never closes runs to the end, as on GitHub
		blocks = append(blocks, *open)
	}
	return lab, blocks
}

// docPrompt is a prompt, of this host or of another.
var docPrompt = regexp.MustCompile(`^([a-z]*)([#$]) `)

// steps splits a console session at its prompts.
func (b docBlock) steps() (steps []docStep) {
	for _, line := range b.body {
		if at := docPrompt.FindStringSubmatch(line); at != nil {
			steps = append(steps, docStep{command: line[len(at[0]):], root: at[2] == "#", host: at[1]})
		} else if n := len(steps); n > 0 && (line != "" || len(steps[n-1].want) > 0) {
			steps[n-1].want = append(steps[n-1].want, line)
		}
	}
	return steps
}

// docMatch compares output with what a document shows, word by word; "..." stands for any number of words.
func docMatch(want, have []string) bool {
	if len(want) == 0 {
		return len(have) == 0
	}
	if want[0] == "..." {
		for i := range len(have) + 1 {
			if docMatch(want[1:], have[i:]) {
				return true
			}
		}
		return false
	}
	return len(have) > 0 && want[0] == have[0] && docMatch(want[1:], have[1:])
}

func TestParseDoc(t *testing.T) {
	lab, blocks := parseDoc("<!-- lab: router -->\n\n```console\n# a\nx\n...\nz\n$ b\n```\n\n<!-- not run: needs systemd -->\n\n```sh\nc\n```\ntext\n```\nd\n")
	if lab != "router" || len(blocks) != 3 {
		t.Fatalf("lab %q, blocks %+v", lab, blocks)
	}
	if b := blocks[1]; b.lang != "sh" || b.excuse != "needs systemd" || b.line != 13 {
		t.Errorf("excused: %+v", b)
	}
	if blocks[0].excuse+blocks[2].excuse != "" {
		t.Errorf("an excuse reaches another block: %+v", blocks)
	}
	steps := blocks[0].steps()
	if len(steps) != 2 || steps[0].command != "a" || !steps[0].root || steps[1].command != "b" || steps[1].root {
		t.Fatalf("steps %+v", steps)
	}
	_, blocks = parseDoc("<!-- run: e f -->\n<!-- file: /etc/g -->\n```yaml\nh\n```\n```console\nclient# i\n```\n")
	if len(blocks) != 3 || !blocks[0].hidden || blocks[0].steps()[0].command != "e f" || blocks[1].file != "/etc/g" || blocks[2].file != "" {
		t.Fatalf("blocks %+v", blocks)
	}
	if s := blocks[2].steps()[0]; s.host != "client" || !s.root || s.command != "i" {
		t.Errorf("a step elsewhere: %+v", s)
	}
	for have, want := range map[string]bool{"x z": true, "x y y z": true, "x y": false, "z": false, "x z z": true, "x z y": false} {
		if got := docMatch(steps[0].want, strings.Fields(have)); got != want {
			t.Errorf("%q matches: %v", have, got)
		}
	}
}
