package rules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// programDirs are searched for programs, rather than PATH: what runs here runs
// with all rights over the network.
var programDirs = []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"}

// lookProgram finds a program; the error wraps [ErrUnsupported].
func lookProgram(name string) (string, error) {
	for _, dir := range programDirs {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: no program %s in %s", ErrUnsupported, name, strings.Join(programDirs, ", "))
}

// ProgramError is the failure of a program that was run.
type ProgramError struct {
	Program string // absolute path
	Status  int    // exit status; -1 if it did not exit by itself
	Message string // the first line that it wrote to standard error, printable
}

// Error returns one line.
func (e *ProgramError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%s: failed with status %d", e.Program, e.Status)
	}
	return fmt.Sprintf("%s: %s", e.Program, e.Message)
}

// programTimeout bounds one run; the wait for the xtables lock is part of it.
const programTimeout = 60 * time.Second

// run executes a program and returns its standard output. The end of ctx keeps
// it from starting, but does not stop it: half a transaction's knowledge is
// worse than a short wait.
func run(ctx context.Context, path string, stdin []byte, args ...string) ([]byte, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + strings.Join(programDirs, ":")}
	lock, err := openLockFile()
	if err != nil {
		return nil, err
	}
	if lock != nil {
		defer lock.Close()
		cmd.ExtraFiles = []*os.File{lock} // becomes descriptor 3
		cmd.Env = append(cmd.Env, EnvLockFile+"=/proc/self/fd/3")
	}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(stdin)
	// A group of its own: Ctrl-C on the terminal is for us, not for it. But it must
	// not outlive us: while it waits for the xtables lock, another instance could
	// find our lock free, and change what it has been told to change. The signal
	// is sent at the end of the thread, not only of the process.
	runtime.LockOSThread() // see PassOn, too
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, AmbientCaps: PassOn()}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	failed := &ProgramError{Program: path, Status: -1, Message: firstLine(stderr.String())}
	if cmd.ProcessState == nil {
		failed.Message = err.Error()
	} else {
		failed.Status = cmd.ProcessState.ExitCode()
		if failed.Status < 0 && failed.Message == "" {
			failed.Message = cmd.ProcessState.String() // which signal ended it
		}
	}
	return nil, failed
}

// firstLine returns the first line that says something, and the next too if it
// ends in a colon; cleaned of what a terminal would act on and of excess length.
func firstLine(s string) string {
	const limit = 300
	said := ""
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		said = strings.TrimSpace(said + " " + line)
		if !strings.HasSuffix(line, ":") {
			break
		}
	}
	return said[:min(len(said), limit)]
}

// printable drops control characters and what is not UTF-8.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f || r == utf8.RuneError {
		return -1
	}
	return r
}
