package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// example is a small run with everything in it: two sizes, a contender that stops at the first, one that was left out,
// and values that differ.
func example() *Results {
	r := &Results{
		Schema: 1, Date: "2026-01-02T03:04:05Z", Reps: 3,
		Machine: Machine{Kernel: "6.18", CPU: "Some | CPU", CPUs: 2, Memory: "24 GB", Commit: "0123456", Tools: map[string]string{"nft": "v1", "go": "go1"}},
	}
	add := func(figure, contender string, size int, values ...float64) {
		for _, v := range values {
			r.Add(figure, contender, size, v)
		}
	}
	add(Rate, None, 1, 200_000, 210_000, 190_000)
	add(Rate, StockPrefix+"nft", 1, 300_000, 310_000, 290_000)
	add(Rate, FireHOL, 1_000, 10_000, 10_500, 9_900)
	add(Rate, Tool+"nftables", 1, 360_000, 341_000, 320_000)
	add(Rate, Tool+"nftables", 1_000, 350_000, 340_000, 330_000)
	for _, speaker := range Speakers {
		add(Good(speaker, Success), Tool+"nftables", 1, 1, 1, 1)
		add(Good(speaker, P99), Tool+"nftables", 1, 4.25, 12, 3)
	}
	add(Operation("apply", Wall), FireHOL, 1_000, 15.6)
	add(Operation("apply", Wall), Tool+"nftables", 1_000, 0.1, 0.11, 0.09)
	add(Operation("apply", Memory), Tool+"nftables", 100_000, 20, 21, 22)
	add(Upload, None, 1, 30, 30, 30)
	add(Upload, Tool+"nftables", 1, 29.5, 30.5, 28)
	add(Download, None, 1, 30, 30, 30)
	add(Download, Tool+"nftables", 1, 30, 30, 30)
	r.Note("synproxyctl %s: left out", "iptables-nft")
	r.Note("synproxyctl iptables-nft: left out")
	return r
}

func TestGolden(t *testing.T) {
	r := example()
	files := map[string][]byte{"example.md": r.Markdown("plots"), "empty.md": new(Results).Markdown("plots")}
	for name, plot := range r.Plots() {
		if name == "syn.svg" || name == "probe.svg" { // one with points, one without
			files[name] = plot.SVG()
		}
	}
	for name, got := range files {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// TestPlotsAreXML gives a drawing names that would break it.
func TestPlotsAreXML(t *testing.T) {
	r := example()
	r.Add(Rate, `<b> & "c"`, 1, 5)
	r.Add(Rate, "zero", 1, 0)
	for name, p := range r.Plots() {
		d := xml.NewDecoder(strings.NewReader(string(p.SVG())))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if s := string(p.SVG()); strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
			t.Errorf("%s has a place that is no number", name)
		}
	}
}

// TestResultsSurviveJSON reads back what a run leaves, and renders the same document from it.
func TestResultsSurviveJSON(t *testing.T) {
	r := example()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again Results
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, &again); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestKeep measures one figure anew and keeps the rest, the figure's contenders of the older run not among it.
func TestKeep(t *testing.T) {
	older := *example()
	r := &Results{Date: "later"}
	r.Add(Rate, None, 1, 5)
	r.Keep(older)
	if got := r.Contenders(Rate); len(got) != 1 || r.Find(Rate, None, 1)[0] != 5 {
		t.Errorf("the figure that was measured anew is of %v", got)
	}
	if diff := cmp.Diff(older.Find(Upload, None, 1), r.Find(Upload, None, 1)); diff != "" || len(r.Notes) != len(older.Notes)+1 {
		t.Errorf("kept: %s, notes %q", diff, r.Notes)
	}
	all := *example()
	before := len(all.Notes)
	if all.Keep(older); len(all.Notes) != before || len(all.Series) != len(older.Series) {
		t.Errorf("a run that has measured everything kept something: %q", all.Notes)
	}
}

func TestSummarise(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Summary
	}{
		{[]float64{3}, Summary{3, 3, 3}},
		{[]float64{3, 1}, Summary{2, 1, 3}},
		{[]float64{5, 1, 9}, Summary{5, 1, 9}},
		{[]float64{4, 1, 2, 100}, Summary{3, 1, 100}},
	} {
		before := append([]float64{}, c.values...)
		if got := Summarise(c.values); got != c.want {
			t.Errorf("%v: got %v, want %v", c.values, got, c.want)
		}
		if diff := cmp.Diff(before, c.values); diff != "" {
			t.Errorf("the values were changed: %s", diff)
		}
	}
	if s := Summarise(nil); !math.IsNaN(s.Median) || s.String() != "–" {
		t.Errorf("none: %v", s)
	}
}

// TestRatio is of pairs: a disturbance that halves both values of a repetition changes nothing.
func TestRatio(t *testing.T) {
	if got, want := Ratio([]float64{20, 10, 40}, []float64{10, 5, 20}), (Summary{2, 2, 2}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := Ratio([]float64{20, 10}, []float64{10}), (Summary{2, 2, 2}); got != want {
		t.Errorf("a missing repetition: got %v, want %v", got, want)
	}
	if got := Ratio(nil, []float64{1}); !math.IsNaN(got.Median) {
		t.Errorf("nothing: got %v", got)
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		v    float64
		want string
	}{
		{0, "0"},
		{0.00123456, "0.00123"},
		{0.5, "0.5"},
		{4.256, "4.26"},
		{42.04, "42"},
		{42.06, "42.1"},
		{99.96, "100"},
		{123.4, "123"},
		{1234.5, "1,235"},
		{1234567, "1,234,567"},
		{-1234, "-1,234"},
		{-0.25, "-0.25"},
		{math.NaN(), "–"},
		{1, "1"},
		{10, "10"},
	} {
		if got := Number(c.v); got != c.want {
			t.Errorf("%v: got %s, want %s", c.v, got, c.want)
		}
	}
}

// TestVerdicts judges the example, and an empty run, which has reached nothing and failed nothing.
func TestVerdicts(t *testing.T) {
	want := map[string]string{
		"SYN/s for 1 service, over the stock recipe by the same program": "1.1 x: **not reached**",
		"SYN/s for 1,000 services, over FireHOL":                         "33.3 x: reached",
		"loss of SYN/s from 1 to 100,000 services":                       "not measured",
		"good connections that succeed under flood, worst case":          "100 %: reached",
		"p99 of good connections under flood, worst case":                "4.25 ms: reached",
		"apply of 1,000 services, over FireHOL":                          "156 x: reached",
		"peak memory, worst operation and size":                          "22 MB: reached",
		"throughput at 40 ms RTT, over direct, worse direction":          "98.3 %: reached",
	}
	for _, v := range example().Verdicts() {
		if cell, ok := want[v.Goal]; ok && v.Cells[2] != cell {
			t.Errorf("%s: got %q, want %q", v.Goal, v.Cells[2], cell)
		}
		delete(want, v.Goal)
		if v.Cells[0] != "not measured" {
			t.Errorf("%s: %q of a backend that was not measured", v.Goal, v.Cells[0])
		}
	}
	if len(want) > 0 {
		t.Errorf("not judged: %v", want)
	}
	for _, v := range new(Results).Verdicts() {
		for _, cell := range v.Cells {
			if cell != "not measured" {
				t.Errorf("%s: %q of nothing", v.Goal, cell)
			}
		}
	}
}
