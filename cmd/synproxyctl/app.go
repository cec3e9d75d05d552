package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/target"
)

// answer is what a command found or did.
type answer struct {
	result any                        // for --json; its fields become those of the object
	text   func(w io.Writer, p paint) // for people
	no     bool                       // the honest no: exit 3
	// relayed, if set, is the exit status of a process of ours that has printed
	// the answer already.
	relayed *int
}

// env is what commands work with.
type env struct {
	streams
	resolver target.Resolver
	known    []command
}

// commands are all that there are.
func commands() []command {
	return []command{probeCommand, applyCommand, statusCommand, topCommand, verifyCommand, doctorCommand, configCheckCommand, configExampleCommand, configSchemaCommand, watchCommand, exporterCommand, confirmCommand, revertCommand, demoCommand, serviceInstallCommand, serviceRemoveCommand, versionCommand, completionCommand, completeCommand, manCommand, guardCommand}
}

// action does the work of one command.
type action func(e env, c *cli.Context) (*answer, error)

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, s streams) int {
	l, err := parseLine(args, commands())
	var got *answer
	if err == nil {
		got, err = l.do(ctx, env{streams: s, resolver: net.DefaultResolver, known: commands()})
	}
	if got != nil && got.relayed != nil {
		return *got.relayed
	}
	asJSON := wantsJSON(args)
	if err != nil && !asJSON {
		writeError(s.err, err)
	}
	if werr := deliver(s.out, l.name(), asJSON, got, err); werr != nil {
		if err != nil && asJSON {
			writeError(s.err, err)
		}
		writeError(s.err, protect.Errorf(protect.Failed, "give it somewhere to write; what the command itself did stands, see: synproxyctl status",
			"standard output: %w", werr))
		err = errors.Join(err, werr)
	}
	switch {
	case err != nil:
		return exitStatus[protect.CodeOf(err)]
	case got != nil && got.no:
		return exitStatus[protect.No]
	}
	return 0
}

// deliver writes what a command found to standard output, in one piece if it
// is short: one JSON object with the failure in it, or text for people.
func deliver(out io.Writer, command string, asJSON bool, got *answer, failure error) error {
	w := bufio.NewWriter(out)
	switch {
	case asJSON:
		var result any
		if got != nil {
			result = got.result
		}
		if err := writeJSON(w, command, result, failure); err != nil {
			return err
		}
	case got != nil:
		got.text(w, painter(out))
	}
	return w.Flush()
}

// command is one command of the tool.
type command struct {
	name, usage, args, help string
	examples                string // command lines and what they are for; lines of at most 80 columns
	flags                   []cli.Flag
	words                   []string // what the argument may be, if it is one of few
	hidden                  bool     // not for people
	do                      action
}

// all returns the flags of the command and those that every command takes.
func (c command) all() []cli.Flag { return append(c.flags[:len(c.flags):len(c.flags)], shared()...) }

// do does what a line asks for.
func (l line) do(ctx context.Context, e env) (*answer, error) {
	switch {
	case l.help:
		return helpAnswer(l.command, l.group), nil
	case l.version:
		return versionAnswer(), nil
	case l.command == nil && l.group != "":
		members := membersOf(l.group, commands())
		return nil, protect.Errorf(protect.Usage, "give one of "+strings.Join(members, ", ")+"; or see synproxyctl "+l.group+" "+members[0]+" --help", "%s: which?", l.group)
	case l.command == nil:
		return nil, protect.Errorf(protect.Usage, "give one of "+strings.Join(names(commands()), ", ")+"; or see synproxyctl --help", "no command")
	case l.command.args == "" && len(l.args) > 0:
		return nil, protect.Errorf(protect.Usage, l.seeHelp(), "%s takes no arguments, but got %s", l.command.name, quote(l.args[0]))
	}
	c, err := l.context(&cli.Context{Context: ctx})
	if err != nil {
		return nil, err
	}
	return l.command.do(e, c)
}

// shared are the flags that every command takes.
func shared() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "json", DisableDefaultText: true, Usage: "print exactly one JSON object to standard output"},
		&cli.DurationFlag{Name: "lock-timeout", Value: 10 * time.Second, Usage: "how long to wait for another instance; 0: not at all"},
	}
}

// host returns the host as the shared flags want it.
func host(c *cli.Context) (*protect.Host, error) {
	const longest = 24 * time.Hour
	d := c.Duration("lock-timeout")
	if d < 0 || d > longest {
		return nil, outOfRange("lock-timeout", d, "0s, which means not to wait, to 24h")
	}
	return &protect.Host{LockTimeout: d}, nil
}
