package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// line is a command line taken apart. The library does not do it, since it
// takes flags behind the first argument for arguments, silently.
type line struct {
	command       *command // nil if none is named
	group         string   // the first word of a command whose second is not yet there
	flags         []given
	args          []string
	help, version bool
}

// given is a flag and its value.
type given struct{ name, value string }

// parseLine takes a command line apart. Flags may stand anywhere behind their
// command, those that all commands share anywhere at all. With an error it
// returns what it has understood until then.
func parseLine(words []string, known []command) (line, error) {
	var l line
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		switch {
		case word == "--":
			l.args, words = append(l.args, words...), nil
		case len(word) > 1 && word[0] == '-':
			used, err := l.flag(word, words)
			if err != nil {
				return l, err
			}
			words = words[used:]
		case l.command != nil:
			l.args = append(l.args, word)
		case word == "help":
			l.help = true
		case word == "version" && !l.help:
			l.version = true
		default:
			if err := l.take(word, known); err != nil {
				return l, err
			}
		}
	}
	return l, nil
}

// take takes a word that must be, or complete, the name of a command. Some
// commands have names of two words, of which the first is that of their group.
func (l *line) take(word string, known []command) error {
	full := word
	if l.group != "" {
		full = l.group + " " + word
	}
	if i := slices.IndexFunc(known, func(c command) bool { return c.name == full }); i >= 0 {
		l.command, l.group = &known[i], ""
		return nil
	}
	switch {
	case l.group != "":
		members := membersOf(l.group, known)
		return protect.Errorf(protect.Usage, suggest(word, "", members, "give one of "+strings.Join(members, ", ")), "%s: unknown command %s", l.group, quote(word))
	case len(membersOf(word, known)) > 0:
		l.group = word
		return nil
	}
	return protect.Errorf(protect.Usage, suggest(word, "", names(known), "see synproxyctl --help"), "unknown command %s", quote(word))
}

// membersOf returns the second words of the commands of a group.
func membersOf(group string, known []command) []string {
	var members []string
	for _, c := range known {
		if member, ok := strings.CutPrefix(c.name, group+" "); ok {
			members = append(members, member)
		}
	}
	return members
}

// name returns the name of the command for the JSON output; empty if there is none.
func (l line) name() string {
	switch {
	case l.help:
		return "help"
	case l.version:
		return "version"
	case l.command != nil:
		return l.command.name
	}
	return ""
}

// seeHelp is the hint where nothing better can be said.
func (l line) seeHelp() string {
	if l.command == nil {
		return "see synproxyctl --help"
	}
	return "see synproxyctl " + l.command.name + " --help"
}

// known returns the flags that may stand where the line has got to.
func (l line) known() []cli.Flag {
	if l.command == nil {
		return shared()
	}
	return l.command.all()
}

func (l line) find(name string) cli.Flag {
	for _, f := range l.known() {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// flag takes a flag, and its value if that is in the words behind it; used is
// how many of those that are.
func (l *line) flag(word string, behind []string) (used int, err error) {
	name, value, inline := strings.Cut(undash(word), "=")
	switch name {
	case "h", "help":
		l.help = true
		return 0, nil
	case "version":
		l.version = true
		return 0, nil
	}
	f := l.find(name)
	if f == nil {
		return 0, l.unknown(name)
	}
	name = f.Names()[0]
	_, boolean := f.(*cli.BoolFlag)
	switch {
	case inline:
	case boolean:
		value = "true"
	case len(behind) > 0 && !l.isFlag(behind[0]):
		value, used = behind[0], 1
	}
	if value == "" {
		return 0, protect.Errorf(protect.Usage, "--"+name+": "+usageOf(f), "flag --%s needs a value", name)
	}
	if value, err = canonical(f, value); err != nil {
		return 0, protect.Errorf(protect.Usage, "--"+name+": "+usageOf(f), "--%s %s: %w", name, quote(value), err)
	}
	l.flags = append(l.flags, given{name, value})
	return used, nil
}

// isFlag tells a flag from a value that begins with a dash, such as -1.
func (l line) isFlag(word string) bool {
	name, _, _ := strings.Cut(undash(word), "=")
	return strings.HasPrefix(word, "-") && l.find(name) != nil
}

func undash(word string) string {
	return strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-")
}

func (l line) unknown(name string) error {
	var near []string
	for _, f := range l.known() {
		near = append(near, f.Names()...)
	}
	of := ""
	if l.command != nil {
		of = l.command.name + ": "
	}
	return protect.Errorf(protect.Usage, suggest(name, "--", near, l.seeHelp()), "%sunknown flag %s", of, quote("--"+name))
}

// canonical returns a value in the form that the library understands. Numbers
// are decimal: to it, 010 were 8.
func canonical(f cli.Flag, value string) (string, error) {
	switch f.(type) {
	case *cli.BoolFlag:
		if _, err := strconv.ParseBool(value); err != nil {
			return value, errors.New("neither true nor false")
		}
	case *cli.IntFlag:
		n, err := strconv.Atoi(value)
		if errors.Is(err, strconv.ErrRange) {
			return value, errors.New("out of range")
		}
		if err != nil {
			return value, errors.New("not a whole number")
		}
		return strconv.Itoa(n), nil
	case *cli.DurationFlag:
		if _, err := time.ParseDuration(value); err != nil {
			return value, errors.New("not a time with its unit, such as 500ms, 2s or 1m")
		}
	}
	return value, nil
}

// context hands the line to the library, whose typed access to flags the
// commands use.
func (l line) context(parent *cli.Context) (*cli.Context, error) {
	set := flag.NewFlagSet(l.command.name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range l.command.all() {
		if err := f.Apply(set); err != nil {
			return nil, err
		}
	}
	for _, g := range l.flags {
		if err := set.Set(g.name, g.value); err != nil {
			return nil, protect.Errorf(protect.Usage, l.seeHelp(), "--%s %s: %w", g.name, quote(g.value), err)
		}
	}
	if err := set.Parse(append([]string{"--"}, l.args...)); err != nil {
		return nil, err
	}
	return cli.NewContext(cli.NewApp(), set, parent), nil
}

// wantsJSON looks for the flag in the raw words, since it must be heeded even
// if the others make no sense. The last one counts.
func wantsJSON(words []string) bool {
	wanted := false
	for _, word := range words {
		if word == "--" {
			break
		}
		name, value, inline := strings.Cut(undash(word), "=")
		if name != "json" || !strings.HasPrefix(word, "-") {
			continue
		}
		yes, err := strconv.ParseBool(value)
		wanted = !inline || err != nil || yes
	}
	return wanted
}

// names returns the first words of all commands.
func names(all []command) []string {
	var list []string
	for _, c := range all {
		name, _, _ := strings.Cut(c.name, " ")
		if !c.hidden && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// quote makes hostile words harmless and long ones short.
func quote(word string) string {
	const longest = 80
	if len(word) > longest {
		return fmt.Sprintf("%q...", word[:longest])
	}
	return strconv.Quote(word)
}
