package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parts are what can be measured, in the order in which it is done.
var parts = []string{"syn", "good", "apply", "probe", "throughput"}

// options are what the command line says.
type options struct {
	only       []string
	contenders []string // nil: all
	sizes      []int
	probeSizes []int
	reps       int
	short      bool
	render     bool
	program    string // "": build it
	results    string // directory
	docs       string // directory

	storm    time.Duration // of one flood
	good     time.Duration // of one load
	transfer int64         // bytes
}

func parseOptions(args []string, w io.Writer) (options, error) {
	o := options{storm: 500 * time.Millisecond, good: 2 * time.Second, transfer: 64 << 20}
	var only, contenders, sizes, probeSizes string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(w)
	f.StringVar(&only, "only", strings.Join(parts, ","), "what to measure")
	f.StringVar(&contenders, "contenders", "", "whom to measure, by beginnings of names (default all)")
	f.StringVar(&sizes, "sizes", "1,10,100,1000,10000,100000", "how many services")
	f.StringVar(&probeSizes, "probe-sizes", "1,1000,10000", "how many targets to probe")
	f.DurationVar(&o.storm, "storm", o.storm, "how long one flood is, 50ms to 1m")
	f.IntVar(&o.reps, "reps", 5, "how often each figure is measured")
	f.StringVar(&o.program, "program", "", "measure this synproxyctl instead of building it")
	f.BoolVar(&o.short, "short", false, "a smoke test of less than a minute: does every contender work? The figures are worth little, and docs is left alone")
	f.BoolVar(&o.render, "render", false, "measure nothing, only write docs from the results that are there")
	f.StringVar(&o.results, "results", "bench/results", "directory of the JSON results")
	f.StringVar(&o.docs, "docs", "docs", "directory of benchmarks.md and its plots")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("argument %q: there are only flags", f.Arg(0))
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if o.short {
		o.good, o.transfer = 300*time.Millisecond, 4<<20
		for name, short := range map[string]func(){
			"sizes": func() { sizes = "1,10" }, "probe-sizes": func() { probeSizes = "1,20" }, "reps": func() { o.reps = 1 },
			"storm": func() { o.storm = 200 * time.Millisecond },
		} {
			if !given[name] {
				short()
			}
		}
	}
	o.only, o.contenders = split(only), split(contenders)
	for _, part := range o.only {
		if !slices.Contains(parts, part) {
			return o, fmt.Errorf("-only %s: not one of %s", part, strings.Join(parts, ", "))
		}
	}
	var err error
	if o.sizes, err = numbers("sizes", sizes, maxServices); err != nil {
		return o, err
	}
	if o.probeSizes, err = numbers("probe-sizes", probeSizes, maxServices); err != nil {
		return o, err
	}
	if o.storm < 50*time.Millisecond || o.storm > time.Minute {
		return o, fmt.Errorf("-storm %v: must be from 50ms to 1m", o.storm)
	}
	if o.reps < 1 || o.reps > 100 {
		return o, fmt.Errorf("-reps %d: must be from 1 to 100", o.reps)
	}
	return o, nil
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func numbers(name, list string, most int) ([]int, error) {
	var all []int
	for _, word := range split(list) {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("-%s %s: must be numbers from 1 to %d", name, word, most)
		}
		all = append(all, n)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("-%s: none", name)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// wants tells whether a contender was asked for: "stock" asks for all whose names begin so.
func (o options) wants(name string) bool {
	return len(o.contenders) == 0 || slices.ContainsFunc(o.contenders, func(c string) bool { return strings.HasPrefix(name, c) })
}
