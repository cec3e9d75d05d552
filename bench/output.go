package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
)

// write stores the results.
func (b *bench) write() error {
	if err := os.MkdirAll(b.options.results, 0o755); err != nil {
		return err
	}
	name := "latest.json"
	if b.short {
		name = "short.json"
	}
	data, err := json.MarshalIndent(b.results, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.options.results, name), append(data, '\n'), 0o644)
}

func render(options, io.Writer) error { return nil }
