package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// logger writes what a daemon tells, in the named format.
func logger(w io.Writer, format string, debug bool) (*slog.Logger, error) {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	if format == "auto" {
		format = "text"
		if isJournal(w, os.Getenv("JOURNAL_STREAM")) {
			format = "journal"
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case "journal":
		return slog.New(newJournal(w, level)), nil
	}
	return nil, protect.Errorf(protect.Usage, "give auto, text, journal or json", "--log-format %s: not a format", quote(format))
}

// isJournal reports whether a stream is the one that systemd has connected to
// its journal, by JOURNAL_STREAM of systemd.exec(5).
func isJournal(w io.Writer, stream string) bool {
	f, ok := w.(*os.File)
	if !ok || stream == "" {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && fmt.Sprintf("%d:%d", st.Dev, st.Ino) == stream
}

// journal writes lines for systemd's journal: the priority of sd-daemon(3) ahead,
// and neither time nor level, which the journal has itself.
type journal struct {
	levels []slog.Handler // of errors, warnings, informations, the rest
}

// priorities are those of syslog(3).
var priorities = [...]int{3, 4, 6, 7}

func newJournal(w io.Writer, level slog.Leveler) journal {
	var j journal
	one := &sync.Mutex{}
	drop := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	for _, p := range priorities {
		j.levels = append(j.levels, slog.NewTextHandler(prioritised{w, fmt.Appendf(nil, "<%d>", p), one}, &slog.HandlerOptions{Level: level, ReplaceAttr: drop}))
	}
	return j
}

func (j journal) of(l slog.Level) slog.Handler {
	switch {
	case l >= slog.LevelError:
		return j.levels[0]
	case l >= slog.LevelWarn:
		return j.levels[1]
	case l >= slog.LevelInfo:
		return j.levels[2]
	}
	return j.levels[3]
}

// Enabled reports whether lines of the level are written.
func (j journal) Enabled(ctx context.Context, l slog.Level) bool { return j.of(l).Enabled(ctx, l) }

// Handle writes a line.
func (j journal) Handle(ctx context.Context, r slog.Record) error {
	return j.of(r.Level).Handle(ctx, r)
}

// WithAttrs returns one that adds attributes to each line.
func (j journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	return j.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup returns one that puts what comes into a group.
func (j journal) WithGroup(name string) slog.Handler {
	return j.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (j journal) each(f func(slog.Handler) slog.Handler) journal {
	var next journal
	for _, h := range j.levels {
		next.levels = append(next.levels, f(h))
	}
	return next
}

// prioritised puts a priority ahead of each line. A handler writes a line at once.
type prioritised struct {
	w        io.Writer
	priority []byte
	one      *sync.Mutex // shared by all priorities
}

func (p prioritised) Write(line []byte) (int, error) {
	p.one.Lock()
	defer p.one.Unlock()
	if _, err := p.w.Write(append(p.priority[:len(p.priority):len(p.priority)], line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}
