package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

//go:embed shell/completion.bash
var bashCompletion string

//go:embed shell/completion.zsh
var zshCompletion string

//go:embed shell/completion.fish
var fishCompletion string

var shells = map[string]*string{"bash": &bashCompletion, "zsh": &zshCompletion, "fish": &fishCompletion}

// shellNames are the keys of shells, in the order of people's habits.
var shellNames = []string{"bash", "zsh", "fish"}

var completionCommand = command{
	name: "completion", usage: "print the completion of bash, zsh or fish", args: "SHELL", words: shellNames,
	help: `The packages have it already. It asks the program itself what may come next, so that it knows what the program knows.`,
	examples: `
  source <(synproxyctl completion bash)
  synproxyctl completion zsh >"${fpath[1]}/_synproxyctl"
  synproxyctl completion fish >~/.config/fish/completions/synproxyctl.fish
`,
	do: runCompletion,
}

func runCompletion(_ env, c *cli.Context) (*answer, error) {
	name := c.Args().First()
	script := shells[name]
	if c.NArg() != 1 || script == nil {
		return nil, protect.Errorf(protect.Usage, "give one of "+strings.Join(shellNames, ", "), "completion: which shell?")
	}
	return textAnswer(struct {
		Text string `json:"text"`
	}{*script}, *script), nil
}

// completeCommand is what the scripts of the shells ask. Its arguments are the
// words behind the program's name, up to the one that is being written. It
// prints a candidate in each line and, behind a tab, what it means; a line that
// begins with a colon has the shell add files, or directories, whose names
// stand behind the prefix that the line names.
var completeCommand = command{name: "complete", args: "-- WORD...", hidden: true, do: func(e env, c *cli.Context) (*answer, error) {
	found := complete(c.Args().Slice(), e.known)
	return &answer{result: struct{}{}, text: func(w io.Writer, _ paint) {
		if found.paths != "" {
			fmt.Fprintf(w, ":%s\t%s\n", found.paths, found.prefix)
		}
		for _, one := range found.items {
			fmt.Fprintf(w, "%s\t%s\n", one.word, one.about)
		}
	}}, nil
}}

// candidates are what may stand where a command line ends.
type candidates struct {
	items  []item
	paths  string // files or dirs may stand there too; empty: they may not
	prefix string // what of the word stands before the path
}

// item is a word and, for people, what it means.
type item struct{ word, about string }

// complete tells what the last of the words may become.
func complete(words []string, known []command) candidates {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	var l line
	var pending cli.Flag // its value comes next
	verbatim := false
	for _, word := range words[:len(words)-1] {
		name, _, inline := strings.Cut(undash(word), "=")
		switch {
		case pending != nil:
			pending = nil
		case verbatim:
		case word == "--":
			verbatim = true
		case len(word) > 1 && word[0] == '-':
			f := l.find(name)
			if _, boolean := f.(*cli.BoolFlag); f != nil && !boolean && !inline {
				pending = f
			}
		case l.command == nil && word == "help":
			l.help = true
		case l.command == nil:
			if l.take(word, known) != nil {
				return candidates{} // nothing sensible can follow
			}
		default:
			l.args = append(l.args, word)
		}
	}
	name, _, inline := strings.Cut(last, "=")
	switch {
	case pending != nil:
		return valuesOf(pending).matching("", last)
	case verbatim:
		return l.places(last, known)
	case strings.HasPrefix(last, "-") && inline:
		if f := l.find(undash(name)); f != nil {
			return valuesOf(f).matching(name+"=", last)
		}
		return candidates{}
	case strings.HasPrefix(last, "-"):
		return l.flagNames().matching("", last)
	}
	return l.places(last, known)
}

// matching returns the candidates that begin as the word does, with a prefix
// put before them.
func (c candidates) matching(prefix, word string) candidates {
	got := candidates{paths: c.paths, prefix: prefix}
	for _, one := range c.items {
		if one.word = prefix + one.word; strings.HasPrefix(one.word, word) {
			got.items = append(got.items, one)
		}
	}
	return got
}

// places are what may stand where no flag does.
func (l line) places(last string, known []command) candidates {
	switch {
	case l.command == nil:
		return l.commandNames(known).matching("", last)
	case l.help:
		return candidates{}
	case len(l.command.words) > 0:
		var c candidates
		if len(l.args) == 0 {
			for _, word := range l.command.words {
				c.items = append(c.items, item{word: word})
			}
		}
		return c.matching("", last)
	case l.command.args == "FILE" && len(l.args) == 0:
		return candidates{paths: "files"}
	case strings.HasPrefix(last, "@") && strings.Contains(l.command.args, "TARGET"):
		return candidates{paths: "files", prefix: "@"}
	}
	return candidates{}
}

// commandNames are the words that may name a command where the line has got to.
func (l line) commandNames(known []command) candidates {
	var c candidates
	for _, one := range known {
		name, about := one.name, one.usage
		if l.group != "" {
			member, ok := strings.CutPrefix(name, l.group+" ")
			if !ok {
				continue
			}
			name = member
		} else if group, _, ok := strings.Cut(name, " "); ok {
			name, about = group, strings.Join(membersOf(group, known), ", ")
		}
		if !one.hidden && !slices.ContainsFunc(c.items, func(i item) bool { return i.word == name }) {
			c.items = append(c.items, item{name, about})
		}
	}
	if l.group == "" && !l.help {
		c.items = append(c.items, item{"help", "explain a command"})
	}
	return c
}

// flagNames are the flags that may stand where the line has got to.
func (l line) flagNames() candidates {
	var c candidates
	for _, f := range l.known() {
		name := f.Names()[0]
		var given []string
		for _, g := range l.flags {
			given = append(given, g.name)
		}
		if !slices.Contains(given, name) {
			about, _, _ := strings.Cut(usageOf(f), ";")
			c.items = append(c.items, item{"--" + name, about})
		}
	}
	c.items = append(c.items, item{"--help", "show help"})
	if l.command == nil {
		c.items = append(c.items, item{"--version", "show the version"})
	}
	return c
}

// choices are the values of the flags that take only these, by their names.
var choices = map[string][]string{
	"backend": {"auto", protect.AnyIPTables, rules.NFT, rules.Legacy, rules.NFTables},
	"hook":    {"auto", string(rules.Input), string(rules.Forward)},
	"mode":    {"auto", string(rules.ModeTracked), string(rules.ModeNotrack)},
	"first":   {"auto", string(rules.FirstClient), string(rules.FirstServer)},
	"expect":  {"direct", "proxied"},
	"check":   {"report", "apply", "off"},
	// Of watch.
	"rules":      {"mend", "report"},
	"options":    {"follow", "report"},
	"log-format": {"auto", "text", "journal", "json"},
}

// valuesOf are the values that a flag takes, as far as they are known.
func valuesOf(f cli.Flag) candidates {
	var c candidates
	for _, value := range choices[f.Names()[0]] {
		c.items = append(c.items, item{word: value})
	}
	switch valueOf(f) {
	case "FILE":
		c.paths = "files"
	case "DIR":
		c.paths = "dirs"
	case "IF":
		all, _ := net.Interfaces() // without them there is nothing to offer
		for _, one := range all {
			if one.Flags&net.FlagLoopback == 0 {
				c.items = append(c.items, item{word: one.Name})
			}
		}
		slices.SortFunc(c.items, func(a, b item) int { return cmp.Compare(a.word, b.word) })
	}
	return c
}
