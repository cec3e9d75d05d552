// Command pictures draws the pictures of docs/how-it-works.md into the current
// directory: go generate ./docs/pictures. A test compares the committed files
// with what it draws.
package main

import (
	"fmt"
	"io"
	"os"
)

//go:generate go run .

func main() {
	os.Exit(run(os.Stderr)) //nolint:forbidigo // main.go ends the process
}

func run(errs io.Writer) int {
	for name, p := range pictures() {
		if err := os.WriteFile(name, p.svg(), 0o644); err != nil {
			fmt.Fprintln(errs, err)
			return 1
		}
	}
	return 0
}

// pictures returns all of them by the name of their file.
func pictures() map[string]*picture {
	return map[string]*picture{
		"handshake.svg":   handshake(),
		"path-routed.svg": routed(),
		"path-local.svg":  local(),
		"states.svg":      states(),
	}
}
