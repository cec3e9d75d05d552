package rules

import (
	"slices"
	"strings"
	"testing"
)

// FuzzParseRule checks that what parses prints, and parses again to the same
// rule: otherwise "is it there?" would have two answers.
func FuzzParseRule(f *testing.F) {
	for _, tt := range printed {
		f.Add(tt.text, tt.rule.Family == IPv6)
	}
	for _, text := range foreignTexts {
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, six bool) {
		family := IPv4
		if six {
			family = IPv6
		}
		r, err := ParseRule(family, Filter, "INPUT", text)
		if err != nil {
			return
		}
		printed := r.String()
		switch {
		case r.Foreign == "":
		case r.Foreign != text || len(r.Matches) > 0 || r.Target != nil:
			t.Fatalf("%q came back foreign as %+v", text, r)
		case printed != text:
			t.Fatalf("foreign %q is printed as %q", text, printed)
		}
		again, err := ParseRule(family, Filter, "INPUT", printed)
		if err != nil || again.String() != printed || (again.Foreign == "") != (r.Foreign == "") {
			t.Fatalf("%q is printed as %q, which comes back as %+v, %v", text, printed, again, err)
		}
		if r.Foreign != "" {
			return
		}
		words, err := split(printed)
		if err != nil || !slices.Equal(words, r.Args()) {
			t.Fatalf("%q: arguments %q, but %q when printed, %v", text, r.Args(), words, err)
		}
	})
}

// FuzzParseSave checks that what parses prints, and parses again to the same.
func FuzzParseSave(f *testing.F) {
	f.Add(saved)
	f.Add(strings.ReplaceAll(saved, "-A ", "[17:1234] -A "))
	f.Add("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment \"a\n\\\"*b\" -j DROP\nCOMMIT\n")
	f.Add("*raw\n:SYNPROXYCTL_PRE - [0:0]\n-A SYNPROXYCTL_PRE ! -i lo -p tcp -m set --match-set synproxyctl_n4_0123456789 dst,dst ! --update-counters -j CT --notrack\nCOMMIT\n")
	f.Add("# Table `filter' is incompatible, use 'nft' tool.\n")
	f.Add("-P INPUT ACCEPT\n-N x\n-A x\n-A INPUT -j DROP")
	f.Add("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DR")
	f.Fuzz(func(t *testing.T, text string) {
		for _, table := range []Table{"", Filter} {
			checkSave(t, table, text)
		}
	})
}

func checkSave(t *testing.T, table Table, text string) {
	t.Helper()
	d, err := ParseSave(IPv4, table, []byte(text))
	if err != nil {
		return
	}
	for _, c := range d.Chains {
		for _, r := range c.Rules {
			if r.Foreign != "" && !strings.Contains(text, r.Foreign) {
				t.Fatalf("foreign rule %q is not in %q word for word", r.Foreign, text)
			}
		}
	}
	printed := d.print()
	again, err := ParseSave(IPv4, "", []byte(printed))
	if err != nil || again.print() != printed {
		t.Fatalf("%q is printed as %q, which comes back as %q, %v", text, printed, again.print(), err)
	}
	// Whatever is there, the way to nothing and back can be planned.
	rs := Extract(d)
	for _, s := range append(Plan(rs, Ruleset{}), Plan(Ruleset{}, rs)...) {
		_ = s.Script()
	}
	_ = Compare(rs, Ruleset{})
	_ = Compare(Ruleset{}, rs)
}
