// Package report turns what was measured into statistics, a verdict on what was to be reached, Markdown and plots. It is
// pure: it reads and writes nothing.
package report

import (
	"fmt"
	"math"
	"slices"
)

// Results is all that one run has measured.
type Results struct {
	Schema  int      `json:"schema"` // 1
	Date    string   `json:"date"`   // RFC 3339
	Short   bool     `json:"short"`  // a smoke test, whose figures are worth little
	Reps    int      `json:"reps"`
	Machine Machine  `json:"machine"`
	Notes   []string `json:"notes"` // what was left out, and why
	Series  []Series `json:"series"`
}

// Machine tells where it was measured, and with what.
type Machine struct {
	Kernel string            `json:"kernel"`
	CPU    string            `json:"cpu"`
	CPUs   int               `json:"cpus"`
	Memory string            `json:"memory"`
	Tools  map[string]string `json:"tools"`
	Commit string            `json:"commit"`
}

// Series is one figure of one contender at one size: a value for each repetition, in order, so that the values of two
// series with the same index were measured within moments of each other. NaN is not among them: a repetition that
// could not be measured ends the run.
type Series struct {
	Figure    string    `json:"figure"`
	Contender string    `json:"contender"`
	Size      int       `json:"size"`
	Values    []float64 `json:"values"`
}

// Find returns the values of a series, or nil.
func (r *Results) Find(figure, contender string, size int) []float64 {
	if s := r.find(figure, contender, size); s != nil {
		return s.Values
	}
	return nil
}

func (r *Results) find(figure, contender string, size int) *Series {
	for i := range r.Series {
		if s := &r.Series[i]; s.Figure == figure && s.Contender == contender && s.Size == size {
			return s
		}
	}
	return nil
}

// Add appends a value to a series, which begins with its first.
func (r *Results) Add(figure, contender string, size int, value float64) {
	s := r.find(figure, contender, size)
	if s == nil {
		r.Series = append(r.Series, Series{Figure: figure, Contender: contender, Size: size})
		s = &r.Series[len(r.Series)-1]
	}
	s.Values = append(s.Values, value)
}

// Note says once what a reader must know.
func (r *Results) Note(format string, args ...any) {
	if note := fmt.Sprintf(format, args...); !slices.Contains(r.Notes, note) {
		r.Notes = append(r.Notes, note)
	}
}

// Keep adds what an older run has measured and this one has not: its series of other figures, and its notes if there are
// any such.
func (r *Results) Keep(older Results) {
	measured := map[string]bool{}
	for _, s := range r.Series {
		measured[s.Figure] = true
	}
	kept := false
	for _, s := range older.Series {
		if !measured[s.Figure] {
			r.Series, kept = append(r.Series, s), true
		}
	}
	if !kept {
		return
	}
	for _, note := range older.Notes {
		r.Note("%s", note)
	}
	r.Note("measured in an earlier run, of %s: what this one did not measure", older.Date)
}

// Sizes returns the sizes at which a figure was measured, ascending.
func (r *Results) Sizes(figure string) []int {
	var all []int
	for _, s := range r.Series {
		if s.Figure == figure {
			all = append(all, s.Size)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Contenders returns those that a figure was measured for, in the order of measurement.
func (r *Results) Contenders(figure string) []string {
	var all []string
	for _, s := range r.Series {
		if s.Figure == figure && !slices.Contains(all, s.Contender) {
			all = append(all, s.Contender)
		}
	}
	return all
}

// Summary is the median of some values and their spread: the least and the greatest.
type Summary struct{ Median, Min, Max float64 }

// Summarise returns the summary of values, or of none NaN.
func Summarise(values []float64) Summary {
	if len(values) == 0 {
		return Summary{math.NaN(), math.NaN(), math.NaN()}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Summary{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1]}
}

// Ratio summarises a/b, repetition by repetition: what disturbs the machine for a while disturbs both.
func Ratio(a, b []float64) Summary {
	n := min(len(a), len(b))
	ratios := make([]float64, 0, n)
	for i := range n {
		ratios = append(ratios, a[i]/b[i])
	}
	return Summarise(ratios)
}
