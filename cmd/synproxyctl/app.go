package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/target"
)

// version is set by the linker.
var version = "0.1.0-dev"

// answer is what a command found or did.
type answer struct {
	result any                        // for --json; its fields become those of the object
	text   func(w io.Writer, p paint) // for people
	no     bool                       // the honest no: exit 3
}

// env is what commands work with.
type env struct {
	streams
	resolver target.Resolver
}

// action does the work of one command.
type action func(e env, c *cli.Context) (*answer, error)

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, s streams) int {
	e := env{streams: s, resolver: net.DefaultResolver}
	var got *answer
	app := newApp(e, func(a *answer) { got = a })
	words, err := permute(args, app)
	if err == nil {
		err = usageFault(app.RunContext(ctx, words))
	}
	asJSON := wantsJSON(args)
	if asJSON && (got != nil || err != nil) {
		var result any
		if got != nil {
			result = got.result
		}
		if werr := writeJSON(s.out, commandOf(args, app), result, err); werr != nil {
			fmt.Fprintf(s.err, "synproxyctl: standard output: %v\n", werr)
			return 1
		}
	} else if got != nil {
		got.text(s.out, painter(s.out))
	}
	switch {
	case err != nil:
		if !asJSON {
			writeError(s.err, err)
		}
		return exitStatus[protect.CodeOf(err)]
	case got != nil && got.no:
		return exitStatus[protect.No]
	}
	return 0
}

// wantsJSON looks for the flag in the raw words, since it must be heeded even
// if the others make no sense.
func wantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "--json" || a == "-json" || a == "--json=true" || a == "-json=true"
	})
}

// commandOf returns the command's name for the JSON output; empty if there is none.
func commandOf(args []string, app *cli.App) string {
	for _, a := range args {
		if c := app.Command(a); c != nil {
			return c.Name
		}
	}
	return ""
}

// usageError marks what urfave/cli finds wrong with the flags.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usageFault gives the library's own errors the contract's code.
func usageFault(err error) error {
	var u usageError
	if errors.As(err, &u) {
		return protect.Errorf(protect.Usage, "see synproxyctl --help", "%w", u.error)
	}
	return err
}

func newApp(e env, deliver func(*answer)) *cli.App {
	app := &cli.App{
		Name:            "synproxyctl",
		Usage:           "SYN-flood protection with the kernel's SYNPROXY, done right",
		Version:         version,
		HideHelpCommand: true,
		Writer:          e.out,
		ErrWriter:       e.err,
		Flags:           shared(),
		ExitErrHandler:  func(*cli.Context, error) {}, // run decides about exits
		Action: func(c *cli.Context) error {
			if c.NumFlags() == 0 {
				return cli.ShowAppHelp(c)
			}
			return protect.Errorf(protect.Usage, "see synproxyctl --help", "no command")
		},
	}
	for _, c := range commands() {
		app.Commands = append(app.Commands, c.cli(e, deliver))
	}
	return app
}

// command is one command of the tool.
type command struct {
	name, usage, args, help string
	flags                   []cli.Flag
	do                      action
}

func (c command) cli(e env, deliver func(*answer)) *cli.Command {
	return &cli.Command{
		Name: c.name, Usage: c.usage, ArgsUsage: c.args, Description: strings.TrimSpace(c.help),
		Flags:           append(c.flags, shared()...),
		HideHelpCommand: true,
		OnUsageError:    func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		Action: func(ctx *cli.Context) error {
			if c.args == "" && ctx.Args().Present() {
				return protect.Errorf(protect.Usage, "see synproxyctl "+c.name+" --help", "%s takes no arguments, but got %q", c.name, ctx.Args().First())
			}
			a, err := c.do(e, ctx)
			if a != nil {
				deliver(a)
			}
			return err
		},
	}
}

// shared are the flags that every command takes.
func shared() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "json", DisableDefaultText: true, Usage: "print exactly one JSON object to standard output"},
		&cli.DurationFlag{Name: "lock-timeout", Value: 10 * time.Second, Usage: "how long to wait for another instance"},
	}
}

// host returns the host as the shared flags want it.
func host(c *cli.Context) (*protect.Host, error) {
	d := c.Duration("lock-timeout")
	if d < 0 {
		return nil, protect.Errorf(protect.Usage, "0 means not to wait", "--lock-timeout %v: negative", d)
	}
	return &protect.Host{LockTimeout: d}, nil
}
