package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/synproxyctl/synproxyctl/bench/report"
)

// What a run leaves in the directory of results.
const (
	fullFile  = "latest.json"
	shortFile = "short.json"
)

// write stores the results, and the documents of a run that measured them all.
func (b *bench) write() error {
	name := shortFile
	if !b.short {
		name = fullFile
	}
	data, err := json.MarshalIndent(b.results, "", " ")
	if err != nil {
		return err
	}
	path := filepath.Join(b.options.results, name)
	if err := put(path, append(data, '\n')); err != nil {
		return err
	}
	b.say("results: %s", path)
	if b.short {
		return nil
	}
	return render(b.options, b.log)
}

// render writes the documents anew from the results that are there.
func render(o options, log io.Writer) error {
	path := filepath.Join(o.results, fullFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w; hint: measure first, by make bench", err)
	}
	var r report.Results
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
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
