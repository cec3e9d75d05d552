package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBarLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		width       int
		phase       string
		first, done int
		total       int
		elapsed     time.Duration
		want        string
	}{
		{"begin", 80, "probing", 0, 0, 10_000, 0, "probing 0/10000 [----------------------------------------]"},
		{"too early for a rate", 80, "probing", 0, 100, 10_000, 400 * time.Millisecond, "probing 100/10000 [----------------------------------------]"},
		{"half", 80, "probing", 0, 5000, 10_000, 2 * time.Second, "probing 5000/10000 [####################--------------------] 2500/s ETA 0:02"},
		{"wide", 500, "probing", 0, 9999, 10_000, 2 * time.Second, "probing 9999/10000 [#######################################-] 5000/s ETA 0:00"},
		{"begun in the middle", 80, "connecting", 4000, 5000, 10_000, time.Second, "connecting 5000/10000 [###################--------------------] 1000/s ETA 0:05"},
		{"slow", 80, "probing", 0, 3, 100_000, 2 * time.Second, "probing 3/100000 [----------------------------------------] 1.5/s ETA 18:31:05"},
		{"narrow", 50, "probing", 0, 5000, 10_000, 2 * time.Second, "probing 5000/10000 [######------] 2500/s ETA 0:02"},
		{"narrower", 40, "probing", 0, 5000, 10_000, 2 * time.Second, "probing 5000/10000 2500/s ETA 0:02"},
		{"without figures", 30, "probing", 0, 5000, 10_000, 2 * time.Second, "probing 5000/10000"},
		{"hardly anything", 10, "probing", 0, 5000, 10_000, 2 * time.Second, "probing 5"},
		{"nothing", 1, "größer", 0, 5000, 10_000, 2 * time.Second, ""},
	} {
		b := bar{width: func() int { return tt.width }, phase: tt.phase, first: tt.first}
		got := b.line(tt.done, tt.total, tt.elapsed)
		if diff := cmp.Diff(tt.want, got); diff != "" || width(got) >= tt.width {
			t.Errorf("%s, %d columns (-want +got):\n%s", tt.name, width(got), diff)
		}
	}
	coloured := bar{width: func() int { return 40 }, phase: "x", p: true}
	if got := coloured.line(1, 2, 0); got != "x 1/2 [\x1b[32m"+strings.Repeat("#", 15)+"\x1b[0m"+strings.Repeat("-", 16)+"]" {
		t.Errorf("coloured: %q", got)
	}
}

func TestBarIsDrawnSparsely(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	now := time.Unix(0, 0)
	b := &bar{w: &out, now: func() time.Time { return now }, width: func() int { return 20 }}
	for i := range 1000 { // a second
		b.show("a", i, 1000)
		now = now.Add(time.Millisecond)
	}
	if n := strings.Count(out.String(), clearLine); n != 10 {
		t.Errorf("drawn %d times in a second, want 10", n)
	}
	out.Reset()
	b.show("a", 1000, 1000)
	b.show("a", 1000, 1000)
	b.show("b", 0, 2)
	b.show("b", 2, 2)
	if diff := cmp.Diff(clearLine+clearLine+"b 0/2 [-----------]"+clearLine, out.String()); diff != "" {
		t.Errorf("at the end (-want +got):\n%s", diff)
	}
	newBar(&out).show("c", 0, 1)
	if strings.Contains(out.String(), "c") {
		t.Error("drawn on what is no terminal")
	}
}
