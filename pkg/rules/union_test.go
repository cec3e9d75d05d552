package rules

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMerge(t *testing.T) {
	rules := func(specs ...string) []Rule {
		var all []Rule
		for _, s := range specs {
			if s != "-j ACCEPT" && s != "-j LOG" && s != "-p tcp" && s != "! -s 192.0.2.1/32 -p tcp -m tcp --dport 80" {
				s = "-d 192.0.2.1/32 -p tcp -m tcp --dport " + s
			}
			r, err := ParseRule(IPv4, Filter, chainIn, s)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, r)
		}
		return all
	}
	for _, tt := range []struct {
		name             string
		have, want, both []Rule
	}{
		{"nothing", nil, nil, nil},
		{"all new", nil, rules("1", "2"), rules("1", "2")},
		{"all old", rules("1", "2"), nil, rules("1", "2")},
		{"in its place", rules("1", "2", "3"), rules("1", "3"), rules("1", "2", "3")},
		{"new before old", rules("1", "2", "3"), rules("1", "9", "3"), rules("1", "9", "2", "3")},
		{"moved, and old", rules("1", "2", "3"), rules("3", "1"), rules("2", "3", "1")},
		{"twice", rules("1", "1", "2"), rules("1", "2"), rules("1", "1", "2")},
		// These would take what is for the rules behind them.
		{"of everybody", rules("-j ACCEPT", "1", "-j LOG", "2"), rules("1", "2"), rules("1", "2", "-j ACCEPT", "-j LOG")},
		{"of all ports", rules("-p tcp", "1"), rules("1"), rules("1", "-p tcp")},
		{"of all but one", rules("! -s 192.0.2.1/32 -p tcp -m tcp --dport 80", "1"), rules("1"), rules("1", "! -s 192.0.2.1/32 -p tcp -m tcp --dport 80")},
	} {
		if got := merge(tt.have, tt.want); !slices.Equal(texts(got), texts(tt.both)) {
			t.Errorf("%s: -want +got:\n%s", tt.name, cmp.Diff(texts(tt.both), texts(got)))
		}
	}
}
