package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ToolError is what a command of synproxyctl complained about on the firewall.
type ToolError struct {
	// Command is the command line without the program.
	Command string
	// Code and Message are the "error" of its JSON output; both are never empty.
	Code, Message string
	// Next is what it says to do next; it may be empty.
	Next string
}

// Error returns one line.
func (e *ToolError) Error() string { return fmt.Sprintf("synproxyctl %s: %s", e.Command, e.Message) }

// Hint returns what to do next.
func (e *ToolError) Hint() string { return e.Next }

// tool runs this very program on the firewall, with --json, and decodes what it says. That verify found a difference
// is an answer, not an error.
func (s *stage) tool(ctx context.Context, to any, args ...string) error {
	cmd := s.topo.Firewall.Command(ctx, "/proc/self/exe", append(args, "--json")...)
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		return err // it did not even start
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return decode(strings.Join(args, " "), out, to)
}

// decode reads the one object of a command.
func decode(command string, out []byte, to any) error {
	var head struct {
		Error *struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Hint    string `json:"hint"`
		} `json:"error"`
	}
	if err := json.Unmarshal(out, &head); err != nil {
		return fmt.Errorf("synproxyctl %s: output: %w", command, err)
	}
	if e := head.Error; e != nil {
		return &ToolError{Command: command, Code: e.Code, Message: e.Message, Next: e.Hint}
	}
	if err := json.Unmarshal(out, to); err != nil {
		return fmt.Errorf("synproxyctl %s: output: %w", command, err)
	}
	return nil
}

// programDirs are searched for programs, since users often lack the administrator's directories in PATH.
var programDirs = []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"}

// findProgram returns the path of the first of these programs that is there, or else the first name.
func findProgram(names ...string) string {
	for _, name := range names {
		for _, dir := range programDirs {
			path := filepath.Join(dir, name)
			if fi, err := os.Stat(path); err == nil && !fi.IsDir() {
				return path
			}
		}
	}
	return names[0]
}
