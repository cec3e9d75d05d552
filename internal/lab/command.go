package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Command is a program that runs inside a host. It is an [exec.Cmd] whose methods that start the program do so
// in the host's network namespace.
type Command struct {
	*exec.Cmd
	host *Host

	mu   sync.Mutex // guards Process while it is being started
	once sync.Once
	err  error
}

// Command prepares a program to run inside the host. It is killed when ctx ends, when the host is closed and when
// this process dies.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Command {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 2 * time.Second // a grandchild that holds the pipes must not hold us
	return &Command{Cmd: cmd, host: h}
}

// Start starts the program and does not wait for it.
func (c *Command) Start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.host.own(c)
	if err == nil {
		err = c.host.onThread(c.Cmd.Start)
	}
	if err != nil {
		c.host.disown(c)
		return fmt.Errorf("host %s: %w", c.host.name, err)
	}
	return nil
}

// onThread runs f on the host's own thread, so that a child that f starts inherits the namespace, and gets SIGKILL
// no sooner than the host ends.
func (h *Host) onThread(f func() error) error {
	result := make(chan error, 1)
	select {
	case h.work <- func() { result <- f() }:
		return <-result
	case <-h.quit:
		return errClosed
	}
}

// Wait waits for the program that Start started, as [exec.Cmd.Wait] does. It may be called more than once.
func (c *Command) Wait() error {
	c.once.Do(func() {
		c.err = c.Cmd.Wait()
		c.host.disown(c)
	})
	return c.err
}

// Close kills the program if it still runs and waits for its end.
func (c *Command) Close() error {
	c.mu.Lock()
	started := c.Process != nil
	c.mu.Unlock()
	if !started {
		return nil
	}
	_ = c.Process.Kill() // it may have ended
	_ = c.Wait()         // the kill is its result
	return nil
}

// Run starts the program and waits for it.
func (c *Command) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns its standard output. An [exec.ExitError] carries the standard error if
// Stderr was nil.
func (c *Command) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("command: Stdout already set")
	}
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the program and returns its standard output and standard error together.
func (c *Command) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("command: Stdout or Stderr already set")
	}
	var both bytes.Buffer
	c.Stdout, c.Stderr = &both, &both
	err := c.Run()
	return both.Bytes(), err
}

// Run runs a program inside the host and returns its standard output. The error of a program that fails names it
// and carries its standard error.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := h.Command(ctx, name, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(exit.Stderr))
	}
	return string(out), err
}
