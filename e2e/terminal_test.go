package e2e

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal that collects what is written to it.
type terminal struct {
	slave *os.File
	seen  chan string
}

func newTerminal(t testing.TB) *terminal {
	t.Helper()
	master, slave := openTerminal(t)
	term := &terminal{slave, make(chan string, 1)}
	go func() {
		text, _ := io.ReadAll(master) // ends with EIO when the last slave is closed
		term.seen <- string(text)
	}()
	return term
}

// openTerminal opens both ends of a new pseudo-terminal.
func openTerminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// text closes the terminal and returns what was written to it.
func (term *terminal) text() string {
	_ = term.slave.Close()
	return <-term.seen
}

// TestTerminal runs commands with standard output, or standard error, on a terminal and in a pipe: colour is only for
// a terminal that wants it, and progress only on a standard error that is a terminal.
func TestTerminal(t *testing.T) {
	s, _ := newCLI(t)
	s.good(applying(server + ":80")...)
	const (
		green = "\x1b[32m"
		wipe  = "\r\x1b[K"
	)
	for _, tt := range []struct {
		args             string
		env              string
		outTerm, errTerm bool
		out, err         []string // parts of the text; none: no escape sequence at all
	}{
		{"status", "TERM=xterm", true, false, []string{green + "active"}, nil},
		{"status", "TERM=xterm", false, true, nil, nil},
		{"status", "NO_COLOR=1", true, true, nil, nil},
		{"status", "TERM=dumb", true, true, nil, nil},
		{"status --json", "TERM=xterm", true, true, nil, nil},
		{"probe " + server + ":80 " + server + ":81 --timeout 200ms", "TERM=xterm", true, true, []string{green + server + ":80"}, []string{"probing 0/2", wipe}},
		{"probe " + server + ":80", "NO_COLOR=1", true, true, nil, []string{"probing 0/1", wipe}},
		{"probe " + server + ":80 --json", "TERM=xterm", true, true, nil, []string{"probing 0/1", wipe}},
		{"probe " + server + ":80", "TERM=xterm", true, false, []string{green + server + ":80"}, nil},
		{"probe --rate 8 --count 1 " + server + ":80,81,82,83,84,85,86,87", "TERM=xterm", true, true, []string{green + server + ":80"}, []string{"probing 0/8 [----", "/s ETA 0:0", "[" + green + "####", wipe}},
		{"probe --rate 8 --count 1 " + server + ":80,81,82,83,84,85,86,87", "NO_COLOR=1", true, true, nil, []string{"probing 0/8 [----", "/s ETA 0:0", "[####", wipe}},
		{"probe " + server + ":80", "TERM=dumb", true, true, nil, nil},
		{"apply --dry-run --timeout 100ms " + server + ":81", "TERM=xterm", true, true, nil, []string{"probing 0/1", wipe + "synproxyctl: " + server + ":81: the connection is refused"}},
	} {
		t.Run(tt.args+" "+tt.env, func(t *testing.T) {
			s.t = t
			var out, errOut strings.Builder
			cmd := s.command(line(tt.args)...)
			cmd.Env = append(cmd.Env, tt.env)
			cmd.Stdout, cmd.Stderr = &out, &errOut
			outText, errText := out.String, errOut.String
			if tt.outTerm {
				term := newTerminal(t)
				cmd.Stdout, outText = term.slave, term.text
			}
			if tt.errTerm {
				term := newTerminal(t)
				cmd.Stderr, errText = term.slave, term.text
			}
			_ = cmd.Run() // some find something
			terminalText(t, "standard output", outText(), tt.out)
			terminalText(t, "standard error", errText(), tt.err)
		})
	}
}

func terminalText(t *testing.T, stream, text string, parts []string) {
	t.Helper()
	text = strings.ReplaceAll(text, "\r\n", "\n")
	if parts == nil && strings.ContainsAny(text, "\x1b\r") {
		t.Errorf("%s is not plain: %q", stream, text)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %q: %q", stream, part, text)
		}
	}
}
