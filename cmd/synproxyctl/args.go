package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// permute puts arguments into the order that urfave/cli v2 understands: the
// command, its flags, "--", the rest. As it is, that library takes flags behind
// the first positional argument for more of the same, silently.
func permute(args []string, app *cli.App) ([]string, error) {
	var command *cli.Command
	var flags, rest []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case len(arg) > 1 && arg[0] == '-':
			name, _, inline := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			takes, err := takesValue(app, command, name, arg)
			if err != nil {
				return nil, err
			}
			flags = append(flags, arg)
			if takes && !inline {
				if i++; i == len(args) {
					return nil, protect.Errorf(protect.Usage, seeHelp(command), "flag %s needs a value", arg)
				}
				flags = append(flags, args[i])
			}
		case command == nil:
			if command = app.Command(arg); command == nil {
				return nil, protect.Errorf(protect.Usage, suggest(arg, commandNames(app), "see synproxyctl --help"), "unknown command %q", arg)
			}
		default:
			rest = append(rest, arg)
		}
	}
	out := []string{app.Name}
	if command != nil {
		out = append(out, command.Name)
	}
	out = append(out, flags...)
	if len(rest) > 0 {
		out = append(append(out, "--"), rest...)
	}
	return out, nil
}

// takesValue reports whether a flag is followed by a value. Before the command
// is known, the flags that all commands share are.
func takesValue(app *cli.App, command *cli.Command, name, arg string) (bool, error) {
	known := app.Flags
	if command != nil {
		known = command.Flags
	}
	if slices.Contains([]string{"h", "help", "version"}, name) {
		return false, nil
	}
	var names []string
	for _, f := range known {
		if slices.Contains(f.Names(), name) {
			_, boolean := f.(*cli.BoolFlag)
			return !boolean, nil
		}
		names = append(names, f.Names()...)
	}
	what := "unknown flag"
	if command != nil {
		what = command.Name + ": unknown flag"
	}
	return false, protect.Errorf(protect.Usage, suggest(name, names, seeHelp(command)), "%s %s", what, arg)
}

func seeHelp(command *cli.Command) string {
	if command == nil {
		return "see synproxyctl --help"
	}
	return "see synproxyctl " + command.Name + " --help"
}

func commandNames(app *cli.App) []string {
	var names []string
	for _, c := range app.Commands {
		names = append(names, c.Name)
	}
	return names
}

// suggest names what was probably meant, if one name is near; else the fallback.
func suggest(word string, names []string, fallback string) string {
	best, near := "", 3
	for _, name := range names {
		if d := distance(word, name); d < near {
			best, near = name, d
		}
	}
	if best == "" {
		return fallback
	}
	if len(best) > 1 && !slices.Contains(names, "apply") {
		best = "--" + best
	}
	return "did you mean " + best + "?"
}

// distance is the Levenshtein distance of two words, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
