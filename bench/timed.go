package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// cost is what a command took.
type cost struct {
	Wall   time.Duration
	CPU    time.Duration // user and system time, of its children too
	Memory int64         // peak of the largest of its processes, in bytes
	Exit   int
	Output string // the end of what it said
}

// timerWord as the first argument makes this program a timer: it runs the rest of its command line and prints what that
// took, as JSON.
const timerWord = "time-a-command"

// timer runs a command for [timed]. It is a process of its own, because the kernel counts the memory of the one that
// forks as the child's: this one is small.
func timer(args []string, out io.Writer) error {
	cmd := exec.Command(args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	start := time.Now()
	err := cmd.Run()
	c := cost{Wall: time.Since(start), Output: string(tail(said.Bytes()))}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	c.Exit = cmd.ProcessState.ExitCode()
	c.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.Memory = usage.Maxrss << 10
	}
	return json.NewEncoder(out).Encode(c)
}

// timed runs a command on a host and tells what it took. A command that fails is an error.
func timed(ctx context.Context, host *lab.Host, args ...string) (cost, error) {
	var c cost
	out, err := host.Command(ctx, "/proc/self/exe", append([]string{timerWord}, args...)...).Output()
	if err == nil {
		err = json.Unmarshal(out, &c)
	}
	if err == nil && c.Exit != 0 {
		err = fmt.Errorf("exit status %d: %s", c.Exit, c.Output)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", args[0], err)
	}
	return c, err
}

// isTimer tells whether the command line asks for a timer.
func isTimer() bool { return len(os.Args) > 2 && os.Args[1] == timerWord }
