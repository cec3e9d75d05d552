package demo

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDumpLines(t *testing.T) {
	const dump = "# Generated at noon\n*filter\n:FORWARD DROP [12:3456]\n-A FORWARD -m comment --comment \"[1:2]\"\n\nCOMMIT\n# Completed\n"
	want := []string{"p: *filter", "p: :FORWARD DROP ", `p: -A FORWARD -m comment --comment "[1:2]"`, "p: COMMIT"}
	if diff := cmp.Diff(want, dumpLines("p", dump)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDifferences(t *testing.T) {
	before := snapshot{rules: []string{"a", "b", "b"}, settings: []string{"k=1"}}
	for _, c := range []struct {
		name  string
		after snapshot
		want  []string
	}{
		{"equal", before, []string{}},
		{"a rule is gone", snapshot{rules: []string{"a", "b"}, settings: []string{"k=1"}}, []string{"- b"}},
		{"a rule is new", snapshot{rules: []string{"a", "b", "b", "c"}, settings: []string{"k=1"}}, []string{"+ c"}},
		{"a rule is doubled", snapshot{rules: []string{"a", "a", "b", "b"}, settings: []string{"k=1"}}, []string{"+ a"}},
		{"a setting differs", snapshot{rules: []string{"a", "b", "b"}, settings: []string{"k=0"}}, []string{"- k=1", "+ k=0"}},
		{"the order differs", snapshot{rules: []string{"b", "a", "b"}, settings: []string{"k=1"}}, []string{"the order of the lines"}},
	} {
		if diff := cmp.Diff(c.want, before.differences(c.after)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", c.name, diff)
		}
	}
}
