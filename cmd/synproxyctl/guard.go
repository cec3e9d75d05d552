package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

var confirmCommand = command{
	name: "confirm", usage: "keep what an apply --try has changed",
	help: "Without it, the change is taken back when its time is over. Exits 5 if nothing is pending.",
	examples: `
  synproxyctl apply @services.txt --try 60s && ssh -o ConnectTimeout=10 HOST true \
      && synproxyctl confirm
`,
	do: runConfirm,
}

func runConfirm(_ env, c *cli.Context) (*answer, error) {
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	done, err := h.Confirm(c.Context)
	if err != nil {
		return nil, err
	}
	return &answer{result: done, text: func(w io.Writer, p paint) {
		fmt.Fprintln(w, p.good("confirmed")+": the change stands")
	}}, nil
}

// guardCommand is what takes a change on trial back. apply --try starts it, in a
// session of its own, since the one that it was called from may be the one that
// the change has locked out.
var guardCommand = command{name: "guard", args: "NAME", hidden: true, do: runGuard}

// guardReady is what a guard says when nothing can keep it from its work any more.
const guardReady = "ready"

func runGuard(e env, c *cli.Context) (*answer, error) {
	if c.NArg() != 1 {
		return nil, protect.Errorf(protect.Usage, "apply --try starts it", "guard: not for people")
	}
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE) // SIGTERM is the end of the host, and of its rules
	const patient = 24 * time.Hour
	h := &protect.Host{LockTimeout: patient}
	if _, err := fmt.Fprintln(e.out, guardReady); err != nil {
		return nil, err
	}
	// Whoever started it may be waiting for the end of its output.
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("guard: %s: %w", os.DevNull, err)
	}
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return nil, fmt.Errorf("guard: descriptor %d: %w", fd, err)
		}
	}
	if err := h.Await(c.Context, c.Args().First()); err != nil {
		return nil, err
	}
	return textAnswer(nil, ""), nil
}

// startGuard starts a guard and returns what stops it again.
func startGuard(name string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line := []string{self, "guard", name}
	if run := systemdRun(); run != "" {
		// When a login session ends, systemd kills whatever is in its cgroup, a
		// session of its own or not. A scope is a unit, and runs here and now:
		// in this network namespace.
		scope := append([]string{run, "--scope", "--quiet", "--collect", "--unit=synproxyctl-try-" + name, "--"}, line...)
		if stop, err := startDetached(scope); err == nil {
			return stop, nil
		}
	}
	return startDetached(line)
}

// systemdRun returns the program that starts units, if systemd manages this host.
func systemdRun() string {
	if fi, err := os.Stat("/run/systemd/system"); err != nil || !fi.IsDir() {
		return ""
	}
	for _, dir := range []string{"/usr/bin", "/bin"} {
		path := filepath.Join(dir, "systemd-run")
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// keepToOurselves keeps what our caller has left open in us, such as the lock of
// a script or the pipe of a pipeline, from programs that outlive us.
func keepToOurselves() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // then they are inherited as ever
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// startDetached starts a guard in a session of its own and waits until it is ready.
func startDetached(line []string) (stop func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	runtime.LockOSThread() // see rules.PassOn
	defer runtime.UnlockOSThread()
	keepToOurselves()
	p, err := os.StartProcess(line[0], line, &os.ProcAttr{
		Dir: "/", Files: []*os.File{null, in, null},
		Env: guardEnv(),
		Sys: &syscall.SysProcAttr{Setsid: true, AmbientCaps: rules.PassOn()},
	})
	in.Close()
	if err != nil {
		return nil, err
	}
	const patience = 10 * time.Second
	_ = out.SetReadDeadline(time.Now().Add(patience)) // pipes have deadlines
	said, err := bufio.NewReader(out).ReadString('\n')
	if said != guardReady+"\n" {
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, errors.Join(fmt.Errorf("%s: did not start", line[0]), err)
	}
	return func() {
		_ = p.Kill()
		_, _ = p.Wait()
	}, nil
}

// guardEnv is the environment of a guard. It hands on what the programs of
// iptables-legacy get, and nothing else that the caller may have set.
func guardEnv() []string {
	env := []string{"LC_ALL=C", "PATH=" + searchPath}
	if lock := os.Getenv(rules.EnvLockFile); lock != "" {
		env = append(env, rules.EnvLockFile+"="+lock)
	}
	return env
}
