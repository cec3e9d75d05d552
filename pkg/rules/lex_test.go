package rules

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// What iptables-restore 1.8.9 makes of these was tried with the program itself;
// e2e asks it again.
func TestSplit(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []string
	}{
		{"", nil},
		{" \t ", nil},
		{"-j ACCEPT", []string{"-j", "ACCEPT"}},
		{"  -j \t ACCEPT  ", []string{"-j", "ACCEPT"}},
		{`--comment "two words" -j DROP`, []string{"--comment", "two words", "-j", "DROP"}},
		{`--comment ""`, []string{"--comment", ""}},
		{`"" ""`, []string{"", ""}},
		{`"a \"b\" \\ it\'s #1"`, []string{`a "b" \ it's #1`}},
		{`a\b \`, []string{`a\b`, `\`}}, // outside of quotes it is a character like others
		{`it's #x`, []string{"it's", "#x"}},
		{`a"b c"`, []string{"ab c"}},
		{`a"b c"d`, []string{"ab c", "d"}}, // a closing quote ends the word
		{`"a""b"`, []string{"a", "b"}},
		{"a\rb", []string{"a\rb"}},
		{"\"a\nb\"", []string{"a\nb"}},
		{"\"\xff\x00\"", []string{"\xff\x00"}},
	} {
		got, err := split(tt.line)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("split(%q) = %q, %v; want %q", tt.line, got, err, tt.want)
		}
	}
}

func TestSplitBroken(t *testing.T) {
	for line, want := range map[string]error{
		`"`:          errQuote,
		`a "b c`:     errQuote,
		`"a\"`:       errQuote,
		`"a\`:        errQuote,
		`"a" "`:      errQuote,
		"a\nb":       errBreak,
		"\"a\" \n":   errBreak,
		"\"a\nb\"\n": errBreak,
	} {
		if got, err := split(line); !errors.Is(err, want) {
			t.Errorf("split(%q) = %q, %v; want the error %v", line, got, err, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for word, want := range map[string]string{
		"tcp":           "tcp",
		"!":             "!",
		"32&0xffff=0x0": "32&0xffff=0x0",
		"":              `""`,
		"two words":     `"two words"`,
		"tab\there":     "\"tab\there\"",
		`say "hi"`:      `"say \"hi\""`,
		`back\slash`:    `"back\\slash"`,
		"it's":          `"it's"`,
		"#1":            `"#1"`,
		"\xff":          "\xff",
		"a\rb":          "\"a\rb\"",
	} {
		if got := quote(word); got != want {
			t.Errorf("quote(%q) = %s, want %s", word, got, want)
		}
	}
}

// FuzzSplit checks that quoting loses nothing, and that what was split once
// stays as it is.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{
		"", `""`, `-m comment --comment "a \"b\" \\ #c" -j DROP`, `a"b"c`, `a\b`, "a\rb", "\"a\nb\"", "a\nb", "\xff\x00",
		`it's`, `"unclosed`, `"a\`, strings.Repeat(`"`, 9),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if words, err := split(quote(s)); err != nil || len(words) != 1 || words[0] != s {
			t.Fatalf("split(%s) = %q, %v; want %q alone", quote(s), words, err, s)
		}
		words, err := split(s)
		if err != nil {
			return
		}
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = quote(w)
		}
		again, err := split(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(again, words) {
			t.Fatalf("%q was split into %q, and after quoting into %q, %v", s, words, again, err)
		}
	})
}
