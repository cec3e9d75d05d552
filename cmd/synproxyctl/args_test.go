package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// known are commands for the tests, with a flag of each type.
var known = []command{
	{name: "probe", args: "TARGET...", flags: []cli.Flag{
		&cli.IntFlag{Name: "count", Value: 3, Usage: "samples"},
		&cli.DurationFlag{Name: "timeout", Value: time.Second},
		&cli.StringFlag{Name: "source", Aliases: []string{"s"}},
		&cli.StringSliceFlag{Name: "interface"},
		&cli.BoolFlag{Name: "connect"},
	}},
	{name: "status"},
}

func TestParseLine(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"":                                   "",
		"status":                             "status",
		"probe a b":                          "probe | a b",
		"probe a --count 5 b":                "probe count=5 | a b",
		"probe --count=5 a b":                "probe count=5 | a b",
		"probe -count 5 a":                   "probe count=5 | a",
		"--json probe a":                     "probe json=true | a",
		"--lock-timeout 3s probe a":          "probe lock-timeout=3s | a",
		"probe --connect a":                  "probe connect=true | a",
		"probe --connect=false a":            "probe connect=false | a",
		"probe --count -1 a":                 "probe count=-1 | a",
		"probe --count 010 a":                "probe count=10 | a",
		"probe --timeout -1s":                "probe timeout=-1s",
		"probe -s 192.0.2.1 a":               "probe source=192.0.2.1 | a",
		"probe --source=a=b":                 "probe source=a=b",
		"probe - a":                          "probe | - a",
		"probe a -- --json -x":               "probe | a --json -x",
		"probe -- --":                        "probe | --",
		"probe probe status":                 "probe | probe status",
		"probe --interface a,b":              "probe interface=a,b",
		"probe --interface a b":              "probe interface=a | b",
		"probe help":                         "probe | help",
		"help":                               "help",
		"help probe":                         "help probe",
		"probe -h":                           "help probe",
		"probe --count 3 --help a":           "help probe count=3 | a",
		"version":                            "version",
		"--version":                          "version",
		"bogus":                              `error: unknown command "bogus"`,
		"help bogus":                         `error: unknown command "bogus"`,
		"--count 3 probe":                    `error: unknown flag "--count"`,
		"probe --bogus":                      `error: probe: unknown flag "--bogus"`,
		"probe ---count 3":                   `error: probe: unknown flag "---count"`,
		"probe -1":                           `error: probe: unknown flag "--1"`,
		"probe --count":                      "error: flag --count needs a value",
		"probe --count=":                     "error: flag --count needs a value",
		"probe --count --connect":            "error: flag --count needs a value",
		"probe --connect=":                   "error: flag --connect needs a value",
		"probe --source --timeout=1s":        "error: flag --source needs a value",
		"probe --connect=perhaps":            `error: --connect "perhaps": neither true nor false`,
		"probe --count three":                `error: --count "three": not a whole number`,
		"probe --count 1e9":                  `error: --count "1e9": not a whole number`,
		"probe --count 0x10":                 `error: --count "0x10": not a whole number`,
		"probe --count 1_000":                `error: --count "1_000": not a whole number`,
		"probe --count 92233720368547758080": `error: --count "92233720368547758080": out of range`,
		"probe --timeout 5":                  `error: --timeout "5": not a time with its unit, such as 500ms, 2s or 1m`,
	} {
		l, err := parseLine(strings.Fields(words), known)
		if got := lineText(l, err); got != want {
			t.Errorf("%q: %s\nwant %s", words, got, want)
		}
		if err != nil && (protect.CodeOf(err) != protect.Usage || protect.HintOf(err) == "") {
			t.Errorf("%q: code %s, hint %q", words, protect.CodeOf(err), protect.HintOf(err))
		}
	}
}

// lineText writes a line as one text.
func lineText(l line, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	var words []string
	if l.help {
		words = append(words, "help")
	}
	if l.version {
		words = append(words, "version")
	}
	if l.command != nil {
		words = append(words, l.command.name)
	}
	for _, g := range l.flags {
		words = append(words, g.name+"="+g.value)
	}
	if len(l.args) > 0 {
		words = append(append(words, "|"), l.args...)
	}
	return strings.Join(words, " ")
}

// TestContext hands lines to the library and reads them back by its means.
func TestContext(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"probe":                                         "count 3 (false), timeout 1s, source , interfaces [], connect false (false), args []",
		"probe a --count 5 --count 6 -- -b":             "count 6 (true), timeout 1s, source , interfaces [], connect false (false), args [a -b]",
		"probe --timeout 2m -s x --connect=0 --":        "count 3 (false), timeout 2m0s, source x, interfaces [], connect false (true), args []",
		"probe --interface a --interface b,c --connect": "count 3 (false), timeout 1s, source , interfaces [a b c], connect true (true), args []",
	} {
		l, err := parseLine(strings.Fields(words), known)
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.context(&cli.Context{Context: t.Context()})
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		source := c.String("source")
		if source == "" {
			source = c.String("s")
		}
		got := fmt.Sprintf("count %d (%v), timeout %v, source %s, interfaces %v, connect %v (%v), args %v", c.Int("count"), c.IsSet("count"), c.Duration("timeout"),
			source, c.StringSlice("interface"), c.Bool("connect"), c.IsSet("connect"), c.Args().Slice())
		if got != want {
			t.Errorf("%q:\n%s\nwant\n%s", words, got, want)
		}
	}
}

func TestWantsJSON(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]bool{
		"": false, "--json": true, "-json": true, "probe a --json": true, "--json=true": true, "--json=1": true, "--json=false": false, "--json=0": false,
		"--json=perhaps": true, "--json --json=false": false, "-- --json": false, "json": false, "--jsonx": false, "---json": false, "--bogus --json": true,
	} {
		if got := wantsJSON(strings.Fields(words)); got != want {
			t.Errorf("%q: %v", words, got)
		}
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	commands := []string{"probe", "apply", "status", "now"}
	for word, want := range map[string]string{
		"prob": "did you mean probe?", "porbe": "did you mean probe?", "statsu": "did you mean status?", "applly": "did you mean apply?", "apple": "did you mean apply?",
		"frobnicate": "see", "": "see", "x": "see", "no": "did you mean now?", "abc": "see", strings.Repeat("probe", 1000): "see",
	} {
		if got := suggest(word, "", commands, "see"); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	if got := suggest("cuont", "--", []string{"count"}, ""); got != "did you mean --count?" {
		t.Error(got)
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{"a": `"a"`, "a\x1b\n\xff\u009b": `"a\x1b\n\xff\u009b"`, strings.Repeat("a", 81): `"` + strings.Repeat("a", 80) + `"...`} {
		if diff := cmp.Diff(want, quote(word)); diff != "" {
			t.Error(diff)
		}
	}
}
