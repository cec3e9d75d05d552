package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/config"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

var configCheckCommand = command{
	name: "config check", usage: "tell what is wrong in a configuration file", args: "FILE",
	help: `Reads FILE, or standard input (-), and the lists of targets that it names, and tells all that is wrong with line and
column. Touches nothing, needs no rights, and asks nobody: names are not resolved. Exits 2 if anything is wrong.`,
	examples: `
  synproxyctl config check /etc/synproxyctl/config.yaml
  synproxyctl config check config.yaml --json | jq .findings
`,
	do: runConfigCheck,
}

// checked is the answer of config check.
type checked struct {
	OK       bool          `json:"ok"`
	File     string        `json:"file"`
	Services int           `json:"services"` // entries of the file, and lists that it includes
	Targets  int           `json:"targets"`  // addresses and prefixes with a port each, without those of names
	Names    int           `json:"names"`    // hosts that are to be resolved
	Findings []faultInFile `json:"findings"`
	More     int           `json:"more"` // faults that are not among them
}

// faultInFile is a finding that has a place in a file; line 0 means all of it,
// column 0 the whole line.
type faultInFile struct {
	protect.Finding
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

func runConfigCheck(e env, c *cli.Context) (*answer, error) {
	if c.NArg() != 1 {
		return nil, protect.Errorf(protect.Usage, "for example: synproxyctl config check /etc/synproxyctl/config.yaml", "give one FILE, not %d", c.NArg())
	}
	path := c.Args().First()
	done := &checked{File: config.NameOf(path), Findings: []faultInFile{}}
	file, err := config.Load(path, e.in)
	if err == nil {
		done.Services = len(file.Services)
		done.Targets, done.Names, err = file.Check()
	}
	var faults *config.Faults
	if errors.As(err, &faults) {
		for _, f := range faults.List {
			done.Findings = append(done.Findings, faultInFile{
				protect.Finding{Severity: protect.Bad, Code: f.Code, Message: f.Problem, Hint: f.Advice}, f.File, f.Line, f.Column,
			})
		}
		done.More = faults.More
	}
	if err != nil {
		return &answer{result: done, text: func(io.Writer, paint) {}}, usage(err)
	}
	done.OK = true
	return &answer{result: done, text: func(w io.Writer, p paint) {
		fmt.Fprintf(w, "%s: %s, %s", p.good("ok"), plural(done.Services, "service"), plural(done.Targets, "target"))
		if done.Names > 0 {
			fmt.Fprintf(w, ", and those of %s", plural(done.Names, "name"))
		}
		fmt.Fprintln(w)
	}}, nil
}

// plural says how many there are of something.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

var configExampleCommand = command{
	name: "config example", usage: "print a complete configuration file, with comments",
	help: "It has every key that there is, and config check finds nothing wrong in it.",
	examples: `
  synproxyctl config example >config.yaml
`,
	do: func(env, *cli.Context) (*answer, error) {
		return textAnswer(struct {
			Text string `json:"text"`
		}{config.Example}, config.Example), nil
	},
}

var configSchemaCommand = command{
	name: "config schema", usage: "print the JSON Schema of configuration files, for editors",
	help: `With it, an editor completes keys and marks what is wrong while it is written. Editors with the YAML language server
find it by a first line such as: # yaml-language-server: $schema=schema.json`,
	examples: `
  synproxyctl config schema >schema.json
`,
	do: func(env, *cli.Context) (*answer, error) {
		return textAnswer(struct {
			Text json.RawMessage `json:"json_schema"`
		}{json.RawMessage(config.Schema)}, config.Schema), nil
	},
}
