package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/synproxyctl/synproxyctl/bench/report"
)

// What a run leaves in the directory of results.
const (
	fullFile  = "latest.json"
	shortFile = "short.json"
)

// write stores the results, and the documents of a run that was no smoke test. What a run of single parts has not measured
// is kept from the run before.
func (b *bench) write() error {
	r := b.results
	r.Series, r.Notes = slices.Clone(r.Series), slices.Clone(r.Notes)
	path := filepath.Join(b.options.results, shortFile)
	if !b.short {
		path = filepath.Join(b.options.results, fullFile)
		older, err := load(path)
		if err == nil && len(b.only) < len(parts) {
			r.Keep(older)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := put(path, append(data, '\n')); err != nil {
		return err
	}
	b.say("results: %s", path)
	if b.short {
		return nil
	}
	return render(b.options, b.log)
}

// load reads the results of a run.
func load(path string) (report.Results, error) {
	var r report.Results
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// render writes the documents anew from the results that are there.
func render(o options, log io.Writer) error {
	path := filepath.Join(o.results, fullFile)
	r, err := load(path)
	if err != nil {
		return fmt.Errorf("%w; hint: measure first, by make bench", err)
	}
	const plots = "benchmarks"
	for name, plot := range r.Plots() {
		if err := put(filepath.Join(o.docs, plots, name), plot.SVG()); err != nil {
			return err
		}
	}
	path = filepath.Join(o.docs, "benchmarks.md")
	if err := put(path, r.Markdown(plots)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(log, "wrote %s and its plots\n", path)
	return err
}

// put writes a file, and its directory if there is none.
func put(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
