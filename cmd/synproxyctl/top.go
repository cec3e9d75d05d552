package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/top"
)

var topCommand = command{
	name: "top", usage: "watch the protection live in a terminal",
	help: `SYNs, good connections and invalid cookies per second, conntrack use, the rate of each
service with its last 20 intervals, state and findings. It looks as status does and changes
nothing; a look that fails is told and tried again. Keys: q (also Esc, Ctrl-C) quits, arrows,
PgUp, PgDn, Home and End scroll, s sorts, / filters, p pauses, ? helps. Exits 0, also when it
is ended by a signal: there is nothing to roll back. For scripts there is status --json.`,
	examples: `
  synproxyctl top
  synproxyctl top --interval 5s           for a slow line
  NO_COLOR=1 synproxyctl top              without colour
  ssh -t router sudo synproxyctl top      over ssh: -t gives it a terminal
`,
	flags: []cli.Flag{&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "from one look to the next, 200ms to 1m"}},
	do:    runTop,
}

func runTop(e env, c *cli.Context) (*answer, error) {
	const least, most = 200 * time.Millisecond, time.Minute
	every := c.Duration("interval")
	if every < least || every > most {
		return nil, outOfRange("interval", every, "200ms to 1m")
	}
	if c.Bool("json") {
		return nil, protect.Errorf(protect.Usage, "see: synproxyctl status --json", "top: --json has no end to be one object")
	}
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	in, out, err := topTerminal(e.streams)
	if err != nil {
		return nil, err
	}
	if err := protect.CanChange(); err != nil {
		return nil, err
	}
	if err := display(c.Context, h, in, out, every); err != nil {
		return nil, err
	}
	return textAnswer(struct{}{}, ""), nil
}

// topTerminal returns the two ends of the terminal; anything else is an error.
func topTerminal(s streams) (in, out *os.File, err error) {
	const hint = "for a log: watch -n 1 synproxyctl status; for a script: synproxyctl status --json; over ssh, ssh -t gives a terminal"
	for _, end := range []struct {
		name   string
		stream any
		file   **os.File
	}{{"standard output", s.out, &out}, {"standard input", s.in, &in}} {
		f, ok := end.stream.(*os.File)
		if !ok || !term.IsTerminal(int(f.Fd())) {
			return nil, nil, protect.Errorf(protect.Usage, hint, "top: %s is not a terminal", end.name)
		}
		*end.file = f
	}
	if t := os.Getenv("TERM"); t == "" || t == "dumb" {
		return nil, nil, protect.Errorf(protect.Usage, "see: synproxyctl status; or set TERM to what the terminal is, such as vt100", "top: TERM=%s cannot move the cursor", t)
	}
	return in, out, nil
}

// blocky reports whether the terminal shows block characters: it is said to be
// one of UTF-8, and the fonts of consoles and of old terminals lack them.
func blocky(getenv func(string) string) bool {
	locale := ""
	for _, key := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale = getenv(key); locale != "" {
			break
		}
	}
	locale = strings.ToLower(strings.ReplaceAll(locale, "-", ""))
	return strings.Contains(locale, "utf8") && getenv("TERM") != "linux" && !old(getenv)
}

// colourful reports whether the terminal has colours, and they are wanted.
func colourful(getenv func(string) string) bool { return getenv("NO_COLOR") == "" && !old(getenv) }

// old reports whether the terminal is one of the vt100 kind.
func old(getenv func(string) string) bool { return strings.HasPrefix(getenv("TERM"), "vt") }

// whereabouts is the name of this host, and of the network namespace if it has one.
func whereabouts() string {
	name, _ := os.Hostname() // empty if it cannot be told
	mine, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return name
	}
	names, _ := filepath.Glob("/run/netns/*") // the pattern is right
	for _, path := range names {
		if fi, err := os.Stat(path); err == nil && os.SameFile(fi, mine) {
			return name + ", namespace " + filepath.Base(path)
		}
	}
	return name
}

// display shows the view until a key or the context ends it, and leaves the
// terminal as it was, whatever happens.
func display(ctx context.Context, h *protect.Host, in, out *os.File, every time.Duration) error {
	looking, stop := context.WithCancel(ctx)
	defer stop()
	before, err := term.GetState(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("top: the terminal: %w", err)
	}
	defer func() {
		_ = unix.IoctlSetInt(int(in.Fd()), unix.TCFLSH, unix.TCIFLUSH) // a late answer of the terminal is no command for the shell
		_ = term.Restore(int(in.Fd()), before)
	}()
	s := &screen{
		view:  &top.View{Host: whereabouts(), Began: time.Now(), Interval: every, Colour: colourful(os.Getenv), ASCII: !blocky(os.Getenv)},
		every: every, idle: make(chan struct{}, 1),
		look: func() top.Sample { return look(looking, h) },
	}
	s.idle <- struct{}{}
	const frames = 30 // in a second at most, when keys are held down
	p := tea.NewProgram(s, tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler(), tea.WithFPS(frames))
	ended := make(chan error, 1)
	go func() {
		_, err := p.Run()
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = hangUp(p, ended)
	}
	stop()
	select { // a program of a look that was under way ends with its context
	case <-s.idle:
	case <-time.After(time.Second):
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, tea.ErrInterrupted) {
		return protect.Errorf(protect.Failed, "the protection itself is not touched; see: synproxyctl status", "top: %w", err)
	}
	return nil
}

// hangUp ends the program after a signal. A terminal that takes nothing any more, as
// at the end of a dead line, cannot keep it.
func hangUp(p *tea.Program, ended <-chan error) error {
	go p.Quit()
	const patience = time.Second
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		return nil
	}
}

// screen is the view as bubbletea wants it.
type screen struct {
	view          *top.View
	every         time.Duration
	look          func() top.Sample
	idle          chan struct{} // holds one thing while nobody looks
	width, height int
}

type (
	lookMsg struct{} // it is time to look
	tickMsg struct{} // it is time to tell how old the figures are
)

// Init begins to look.
func (s *screen) Init() tea.Cmd { return tea.Batch(s.glance, s.tick()) }

// glance looks once. No look begins before the one before it has ended.
func (s *screen) glance() tea.Msg {
	<-s.idle
	defer func() { s.idle <- struct{}{} }()
	return s.look()
}

func (s *screen) tick() tea.Cmd {
	return tea.Tick(max(s.every, time.Second), func(time.Time) tea.Msg { return tickMsg{} })
}

// Update takes what has happened.
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.width, s.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		key := msg.String()
		if msg.Text != "" && msg.Text != " " {
			key = msg.Text
		}
		if s.view.Key(key) {
			return s, tea.Quit
		}
	case top.Sample:
		if !s.view.Paused() {
			s.view.Add(msg)
		}
		// Looks that take long leave the host at least as much time for its work.
		return s, tea.Tick(max(s.every-msg.Took, min(msg.Took, s.every)), func(time.Time) tea.Msg { return lookMsg{} })
	case lookMsg:
		if s.view.Paused() {
			return s, tea.Tick(s.every, func(time.Time) tea.Msg { return lookMsg{} })
		}
		return s, s.glance
	case tickMsg:
		return s, s.tick()
	}
	return s, nil
}

// View draws the frame.
func (s *screen) View() tea.View {
	v := tea.NewView(s.view.Frame(s.width, s.height, time.Now()))
	v.AltScreen = true
	v.DisableBracketedPasteMode = true
	return v
}

// look takes one sample.
func look(ctx context.Context, h *protect.Host) top.Sample {
	began := time.Now()
	st, err := h.Status(ctx)
	s := top.Sample{At: time.Now(), Took: time.Since(began)}
	if err != nil {
		s.Err = err
		return s
	}
	sampleOf(&s, st)
	return s
}

// sampleOf puts what status tells into a sample.
func sampleOf(s *top.Sample, st *protect.Status) {
	s.State, s.Backend, s.Counters = string(st.State), st.Backend, st.Counters
	s.Conntrack, s.ConntrackMax, s.Proxied = st.Conntrack.Count, st.Conntrack.Max, st.Connections.Proxied
	s.Watched = st.Watch != nil
	if st.Pending != nil {
		s.Trial = st.Pending.Deadline
	}
	unseen := false
	for _, f := range st.Findings {
		switch f.Code {
		case "busy", "backend-unseen": // the rules, which count, were not seen
			unseen = true
		case "connections-unknown":
			s.Proxied = -1
		}
		s.Findings = append(s.Findings, top.Finding{Severity: string(f.Severity), Code: f.Code, Message: f.Message, Hint: f.Hint})
	}
	s.Services = make([]top.Service, len(st.Services))
	for i := range st.Services {
		service := &st.Services[i]
		t := top.Service{Destination: service.Destination, Port: service.Port, Name: title(service), Unseen: unseen || service.Received == nil}
		if service.Received != nil {
			t.SYNs = *service.Received
		}
		s.Services[i] = t
	}
}
