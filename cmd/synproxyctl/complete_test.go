package main

import (
	"slices"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"a":                              "apply",
		"co":                             "config confirm completion",
		"config ":                        "check example schema",
		"config s":                       "schema",
		"help re":                        "revert",
		"help config c":                  "check",
		"bogus ":                         "",
		"gu":                             "",
		"--js":                           "--json",
		"apply --ba":                     "--backend",
		"apply -b":                       "",
		"apply --backend ":               "auto iptables iptables-nft iptables-legacy nftables",
		"apply --backend n":              "nftables",
		"apply --backend=i":              "--backend=iptables --backend=iptables-nft --backend=iptables-legacy",
		"apply --backend nftables --bac": "--backend",
		"apply 192.0.2.1:80 --hook ":     "auto input forward",
		"apply --mode t":                 "tracked",
		"doctor --mode no":               "notrack",
		"apply --first s":                "server",
		"apply --dry-run --first":        "--first",
		"probe --expect ":                "direct proxied",
		"apply -c ":                      ":files",
		"apply --config=/e":              ":files--config=",
		"apply --json -c ":               ":files",
		"apply @/etc":                    ":files@",
		"apply 192.0.2.1:443 @":          ":files@",
		"apply -- @":                     ":files@",
		"status @":                       "",
		"config check ":                  ":files",
		"config check a ":                "",
		"completion ":                    "bash zsh fish",
		"completion bash ":               "",
		"apply --mss ":                   "",
		"apply --mss 1460 --tim":         "--timeout --timestamps",
		"apply --interface lo":           "",
	} {
		found := complete(strings.Split(words, " "), commands())
		var got []string
		if found.paths != "" {
			got = append(got, ":"+found.paths+found.prefix)
		}
		for _, one := range found.items {
			got = append(got, one.word)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%q: %q, want %q", words, s, want)
		}
	}
}

// TestCompleteEverything reaches every command and flag.
func TestCompleteEverything(t *testing.T) {
	t.Parallel()
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		words := strings.Fields(c.name)
		has := func(words []string) bool {
			return slices.ContainsFunc(complete(words, commands()).items, func(i item) bool { return i.word == words[len(words)-1] })
		}
		if !has(words) {
			t.Errorf("%s is not offered", c.name)
		}
		for _, f := range c.all() {
			if !has(append(slices.Clone(words), "--"+f.Names()[0])) {
				t.Errorf("%s --%s is not offered", c.name, f.Names()[0])
			}
		}
	}
}

// TestChoices has the command itself take what is offered for its flags, and
// refuse what is not.
func TestChoices(t *testing.T) {
	t.Parallel()
	takes := map[string]func(value string) error{
		"backend": func(value string) error { _, err := backendName(value); return err },
	}
	for _, name := range []string{"hook", "mode", "first"} {
		takes[name] = func(value string) error {
			l, err := parseLine([]string{"apply", "--" + name, value}, commands())
			if err != nil {
				return err
			}
			c, err := l.context(nil)
			if err != nil {
				return err
			}
			_, err = wishLike(c)
			return err
		}
	}
	for name, take := range takes {
		if take("bogus") == nil {
			t.Errorf("--%s bogus is taken", name)
		}
		for _, value := range choices[name] {
			if err := take(value); err != nil {
				t.Errorf("--%s %s: %v", name, value, err)
			}
		}
	}
}
