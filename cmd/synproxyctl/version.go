package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// These are set by the linker: make dist takes them from the commit that it
// builds. Without it, what the go command has noted stands in.
var (
	version = "0.1.0-dev"
	commit  string
	date    string // RFC 3339
)

// versionCommand is also called by the flag of its name.
var versionCommand = command{
	name: "version", usage: "tell which version this is, and what it was built from",
	help: "The same as --version. With --json: version, commit, date (of the commit, in UTC), go (the compiler) and platform.",
	examples: `
  synproxyctl version
  synproxyctl version --json | jq -r .version
`,
	do: func(env, *cli.Context) (*answer, error) { return versionAnswer(), nil },
}

// built is what a program was built from. What is not known is empty.
type built struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Date     string `json:"date"`
	Modified bool   `json:"modified"` // from more than the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// buildOf tells what this program was built from.
func buildOf(info *debug.BuildInfo) built {
	b := built{Version: version, Commit: commit, Date: date, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info == nil {
		return b
	}
	noted := map[string]string{}
	for _, s := range info.Settings {
		noted[s.Key] = s.Value
	}
	if b.Commit == "" {
		b.Commit, b.Modified = noted["vcs.revision"], noted["vcs.modified"] == "true"
		b.Date = cmp.Or(b.Date, noted["vcs.time"])
	}
	return b
}

// day returns the day of the commit for people, or nothing.
func (b built) day() string {
	if at, err := time.Parse(time.RFC3339, b.Date); err == nil {
		return at.UTC().Format(time.DateOnly)
	}
	return ""
}

func versionAnswer() *answer {
	info, _ := debug.ReadBuildInfo()
	b := buildOf(info)
	var details []string
	if b.Commit != "" {
		const short = 12
		from := b.Commit[:min(short, len(b.Commit))]
		if b.Modified {
			from += ", modified"
		}
		details = append(details, "commit "+from)
	}
	if day := b.day(); day != "" {
		details = append(details, "of "+day)
	}
	details = append(details, "built by "+b.Go+" for "+b.Platform)
	return textAnswer(b, fmt.Sprintf("synproxyctl %s\n%s\n", b.Version, strings.Join(details, " ")))
}
