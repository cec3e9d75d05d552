package e2e

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// screen is a pseudo-terminal with an emulator behind it, which shows what a person would see.
type screen struct {
	t             testing.TB
	master, slave *os.File
	before        unix.Termios
	cmd           *lab.Command

	mu  sync.Mutex
	emu *vt.Emulator
	raw strings.Builder // everything that was written to the terminal
}

// show runs the program on a terminal of its own.
func (s *stage) show(width, height int, env []string, args ...string) *screen {
	s.t.Helper()
	master, slave := openTerminal(s.t)
	scr := &screen{t: s.t, master: master, slave: slave, emu: vt.NewEmulator(width, height)}
	scr.resize(width, height)
	scr.before = scr.modes()
	go func() { _, _ = io.Copy(master, scr.emu) }() // a terminal answers questions
	go func() {
		for b := make([]byte, 4096); ; {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			scr.mu.Lock()
			_, _ = scr.emu.Write(b[:n])
			scr.raw.Write(b[:n])
			scr.mu.Unlock()
		}
	}()
	s.t.Cleanup(func() {
		_ = slave.Close()
		_ = scr.emu.InputPipe().(io.Closer).Close() // which ends the first copy; the emulator's Close is no match for its Read (v0.1.0)
	})
	scr.cmd = s.command(args...)
	scr.cmd.Env = append(append(scr.cmd.Env, "TERM=xterm-256color", "LC_ALL=C.UTF-8"), env...)
	scr.cmd.Stdin, scr.cmd.Stdout, scr.cmd.Stderr = slave, slave, slave
	scr.cmd.SysProcAttr.Setsid, scr.cmd.SysProcAttr.Setctty = true, true
	if err := scr.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return scr
}

func (scr *screen) resize(width, height int) {
	scr.t.Helper()
	scr.mu.Lock()
	scr.emu.Resize(width, height)
	scr.mu.Unlock()
	scr.winsize(width, height)
}

// winsize tells the program of another size.
func (scr *screen) winsize(width, height int) {
	scr.t.Helper()
	if err := unix.IoctlSetWinsize(int(scr.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}); err != nil {
		scr.t.Fatal(err)
	}
}

func (scr *screen) modes() unix.Termios {
	scr.t.Helper()
	modes, err := unix.IoctlGetTermios(int(scr.slave.Fd()), unix.TCGETS)
	if err != nil {
		scr.t.Fatal(err)
	}
	return *modes
}

func (scr *screen) press(keys string) {
	scr.t.Helper()
	if _, err := scr.master.WriteString(keys); err != nil {
		scr.t.Fatal(err)
	}
}

// text is what is to be seen.
func (scr *screen) text() string {
	scr.mu.Lock()
	defer scr.mu.Unlock()
	return scr.emu.String()
}

// written is everything that was written to the terminal.
func (scr *screen) written() string {
	scr.mu.Lock()
	defer scr.mu.Unlock()
	return scr.raw.String()
}

// until waits until a pattern is to be seen.
func (scr *screen) until(pattern string) {
	scr.t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text := scr.text()
		if re.MatchString(text) {
			return
		}
		if time.Now().After(end) {
			scr.t.Fatalf("never seen: %s\n%s", pattern, text)
		}
	}
}

// over checks that the program ends by itself, and leaves the terminal as it was.
func (scr *screen) over() {
	scr.t.Helper()
	begin := time.Now()
	_ = scr.cmd.Wait() // the exit status tells
	if code := scr.cmd.ProcessState.ExitCode(); code != 0 {
		scr.t.Errorf("exit %d: %v\n%s", code, scr.cmd.ProcessState, scr.text())
	}
	if d := time.Since(begin); d > 3*time.Second {
		scr.t.Errorf("it took %v to end", d)
	}
	if after := scr.modes(); after != scr.before {
		scr.t.Errorf("the modes of the terminal were %+v and are %+v", scr.before, after)
	}
	const left, shown = "\x1b[?1049l", "\x1b[?25h"
	until(scr.t, "the terminal is as it was", func() bool {
		w := scr.written()
		return strings.LastIndex(w, left) > strings.LastIndex(w, "\x1b[?1049h") && strings.LastIndex(w, shown) > strings.LastIndex(w, "\x1b[?25l")
	})
	if s := strings.TrimSpace(scr.text()); s != "" {
		scr.t.Errorf("it left something on the screen: %q", s)
	}
}

// signal sends one to the program.
func (scr *screen) signal(sig syscall.Signal) {
	scr.t.Helper()
	if err := scr.cmd.Process.Signal(sig); err != nil {
		scr.t.Fatal(err)
	}
}

// stuff writes to the terminal until it takes no more, as a line that is dead.
func (scr *screen) stuff() {
	scr.t.Helper()
	fd, err := unix.Open(scr.slave.Name(), unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		scr.t.Fatal(err)
	}
	defer unix.Close(fd)
	junk := make([]byte, 512)
	for full := 0; full < 5; { // the kernel passes some of it on in the meantime
		switch _, err := unix.Write(fd, junk); {
		case err == nil:
			full = 0
		case errors.Is(err, unix.EAGAIN):
			full++
			time.Sleep(20 * time.Millisecond)
		default:
			scr.t.Fatal(err)
		}
	}
}
