package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrRefused is wrapped by the error of [Isolate] when the kernel or a security module does not grant new
// namespaces to this user. The error's text says what to do.
var ErrRefused = errors.New("isolation refused")

const (
	// envInside marks the inner process; its value is what [outerNamespaces] gave outside.
	envInside = "SYNPROXYCTL_LAB"
	// killDelay is how long the inner process may clean up after its context or a signal asked it to end.
	killDelay = 10 * time.Second

	refusedHint = "run as root, or allow unprivileged user namespaces (user.max_user_namespaces above 0, " +
		"kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, where they exist)"
)

// World is the proof that the process runs isolated, and so the only way to a [Lab].
type World struct {
	labs     atomic.Int64
	outerNet uint64 // inode of the network namespace that the program was started in
}

// Isolate runs the program again (/proc/self/exe, same arguments, environment, directory and standard streams) in
// fresh network, mount and process namespaces, and in a fresh user namespace too unless the caller is a root that
// can do without.
//
// Inside, it returns a World, at once. Outside, it returns a nil World when the inner process has ended, with its
// exit code (128 plus the number of the signal that killed it); the caller's only duty is then to exit with that
// code. So the first lines of main, or of TestMain, are:
//
//	world, code, err := lab.Isolate(ctx)
//	if err != nil { ... }
//	if world == nil { os.Exit(code) }
//
// SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on. When ctx ends, the inner process gets SIGINT, and ten seconds
// later SIGKILL. It never outlives the outer process, and its children never outlive it. It runs in a process
// group of its own, so it must not read from a terminal.
//
// The inner process sees a private mount tree, an empty tmpfs on /run, a /var/lib whose changes stay in memory, its own /proc, and a network with nothing
// but lo. Its environment is the outer one, so it may isolate itself again.
func Isolate(ctx context.Context) (*World, int, error) {
	if mark, ok := os.LookupEnv(envInside); ok {
		w, err := enter(mark)
		return w, 0, err
	}
	mark, err := outerNamespaces()
	if err != nil {
		return nil, 1, err
	}
	// Pdeathsig is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var refused error
	for _, attr := range namespaceChoices() {
		code, err := runInside(ctx, mark, attr)
		if !errors.Is(err, ErrRefused) {
			return nil, code, err
		}
		refused = err
	}
	return nil, 1, fmt.Errorf("%w; hint: %s", refused, refusedHint)
}

// namespaceChoices lists what to ask the kernel for, best first. A root that may do it stays in its own user
// namespace, which is closer to a real machine. A process namespace makes sure that nothing survives, but needs a
// new /proc, which some containers forbid; then the lab does without.
func namespaceChoices() []*syscall.SysProcAttr {
	const base = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	user := func(flags uintptr) *syscall.SysProcAttr {
		return &syscall.SysProcAttr{
			Cloneflags:  flags | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}
	var all []*syscall.SysProcAttr
	for _, flags := range []uintptr{base | syscall.CLONE_NEWPID, base} {
		if os.Geteuid() == 0 {
			all = append(all, &syscall.SysProcAttr{Cloneflags: flags})
		}
		all = append(all, user(flags))
	}
	for _, attr := range all {
		attr.Pdeathsig = syscall.SIGKILL
		attr.Setpgid = true // or a terminal's Ctrl-C would arrive twice
	}
	return all
}

// runInside starts the inner process and waits for it. An error that wraps ErrRefused means that the program
// proper has not begun.
func runInside(ctx context.Context, mark string, attr *syscall.SysProcAttr) (int, error) {
	report, inner, err := os.Pipe()
	if err != nil {
		return 1, fmt.Errorf("isolate: pipe: %w", err)
	}
	defer report.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), envInside+"="+mark)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{inner} // becomes reportFD
	cmd.SysProcAttr = attr
	cmd.WaitDelay = killDelay
	// A Ctrl-C often ends ctx and arrives as a signal too. The inner process must get it once: a second one would
	// cut short the clean-up that the first began.
	var told atomic.Bool
	// As process 1 of its namespace it gets no signal that it has no handler for, so none before it says that it
	// is set up: by then the program has begun to listen.
	ready := make(chan struct{})
	cmd.Cancel = func() error {
		<-ready
		if told.Swap(true) {
			return nil
		}
		return cmd.Process.Signal(os.Interrupt)
	}

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	err = cmd.Start()
	inner.Close()
	if err != nil {
		return 1, startError(err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		<-ready
		forward(signals, cmd.Process, &told, done)
	}()
	problem, _ := io.ReadAll(report)
	close(ready)
	err = cmd.Wait()
	if len(problem) > 0 {
		return 1, fmt.Errorf("%w: %s", ErrRefused, bytes.TrimSpace(problem))
	}
	if cmd.ProcessState == nil {
		return 1, fmt.Errorf("isolate: %w", err)
	}
	return exitCode(cmd.ProcessState), nil
}

// forward passes signals on until done, except for the first if the process was told already.
func forward(signals <-chan os.Signal, p *os.Process, told *atomic.Bool, done <-chan struct{}) {
	for first := true; ; first = false {
		select {
		case s := <-signals:
			if !told.Swap(true) || !first {
				_ = p.Signal(s) // it may have ended
			}
		case <-done:
			return
		}
	}
}

// startError tells a refusal from a plain failure to start.
func startError(err error) error {
	for _, errno := range []error{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL, unix.ENOSYS} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: new namespaces: %w", ErrRefused, err)
		}
	}
	return fmt.Errorf("isolate: %w", err)
}

// exitCode gives the exit code as a shell would.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
