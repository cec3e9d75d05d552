package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/watch"
)

var watchCommand = command{
	name: "watch", usage: "keep what is applied as it should be", args: "",
	help: `Compares rules and settings with what was applied, asks the backends again, and mends, follows or tells by policy.
It believes in a change only when it has seen it --confirm times, never takes the protection away, and never brings back what a person
has reverted. A change on trial is left alone.

It tells of changes on standard error, for the journal with their priority. SIGTERM ends it and leaves everything as it is. SIGHUP reads
the file of -c anew and applies it; without -c it looks at everything at once. With --once it makes a single round, for a timer:
exit 0 if all is well or mended, 3 if something is wrong still.`,
	examples: `
  synproxyctl watch                             what apply has made, stays
  synproxyctl watch -c /etc/synproxyctl/config.yaml
  synproxyctl watch --rules report --options report   only tell
  synproxyctl watch --once --json | jq .findings      one round
`,
	flags: append(probeFlags(),
		&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "also tell when what is applied is not what `FILE` says; SIGHUP applies it"},
		&cli.DurationFlag{Name: "interval", Value: time.Minute, Usage: "how often to compare rules and settings, 100ms to 24h, give or take a tenth"},
		&cli.DurationFlag{Name: "probe-interval", Value: 5 * time.Minute, Usage: "how often to ask the backends, 100ms to 168h, give or take a tenth; 0: never"},
		&cli.StringFlag{Name: "rules", Value: "mend", Usage: "what to do about drift of rules and settings, `POLICY`: mend, or report"},
		&cli.StringFlag{Name: "options", Value: "follow", Usage: "what to do about backends with other options, `POLICY`: follow, or report. Options that were given are never changed"},
		&cli.IntFlag{Name: "confirm", Value: 3, Usage: "how many answers make a change of a backend believable, 2 to 20"},
		&cli.DurationFlag{Name: "spacing", Value: 5 * time.Second, Usage: "how long to wait before an odd answer is confirmed, 10ms to 10m; twice as long each time"},
		&cli.BoolFlag{Name: "once", DisableDefaultText: true, Usage: "make one round, and exit"},
		&cli.BoolFlag{Name: "force", DisableDefaultText: true, Usage: "mend although the host's own rules or settings stand in the way"},
		&cli.DurationFlag{Name: "warmup", DefaultText: "as apply", Usage: "if connections are not tracked any more: how long to watch before the protection begins again"},
		&cli.StringFlag{Name: "log-format", Value: "auto", Usage: "`FORMAT` of what it tells: text, journal (for systemd), json, or auto"},
		&cli.BoolFlag{Name: "debug", DisableDefaultText: true, Usage: "tell of each round"}),
	do: runWatch,
}

func runWatch(e env, c *cli.Context) (*answer, error) {
	d, err := watchLike(c)
	if err != nil {
		return nil, err
	}
	if d.Log, err = logger(e.err, c.String("log-format"), c.Bool("debug")); err != nil {
		return nil, err
	}
	cfg, err := probeConfig(c, "", &bar{})
	if err != nil {
		return nil, err
	}
	cfg.Stage = nil
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	d.Probe = cfg
	d.Host = func() *protect.Host { return &protect.Host{LockTimeout: h.LockTimeout} }
	d.Memory = func() (*protect.Memory, error) { return protect.Remember(protect.StateDir) }
	if c.IsSet("config") {
		if err := watchFile(e, c, d); err != nil {
			return nil, err
		}
	}
	w, err := h.Watch(c.Context)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	d.Seen = w.Seen
	if !d.Once {
		asDaemon(e, d)
	}
	sum, err := d.Run(c.Context)
	return &answer{result: sum, no: d.Once && !sum.OK, text: func(w io.Writer, p paint) { writeWatched(w, p, sum, d.Once) }}, err
}

// watchLike reads the flags.
func watchLike(c *cli.Context) (*watch.Daemon, error) {
	const day = 24 * time.Hour
	d := &watch.Daemon{
		Interval: c.Duration("interval"), ProbeInterval: c.Duration("probe-interval"), Once: c.Bool("once"), Force: c.Bool("force"),
		Rules:    watch.Rules{Mend: c.String("rules") == "mend"},
		Backends: watch.Backends{Follow: c.String("options") == "follow", Confirm: c.Int("confirm"), Spacing: c.Duration("spacing")},
	}
	for _, f := range []struct{ name, other string }{{"rules", "mend"}, {"options", "follow"}} {
		if v := c.String(f.name); v != f.other && v != "report" {
			return nil, protect.Errorf(protect.Usage, "give "+f.other+" or report", "--%s %s: not a policy", f.name, quote(v))
		}
	}
	const short = 100 * time.Millisecond
	order, err := orderLike(c)
	switch {
	case err != nil:
		return nil, err
	case d.Interval < short || d.Interval > day:
		return nil, outOfRange("interval", d.Interval, "100ms to 24h")
	case d.ProbeInterval != 0 && (d.ProbeInterval < short || d.ProbeInterval > 7*day):
		return nil, outOfRange("probe-interval", d.ProbeInterval, "100ms to 168h, or 0, which means never")
	case d.Backends.Confirm < 2 || d.Backends.Confirm > 20:
		return nil, outOfRange("confirm", d.Backends.Confirm, "2 to 20")
	case d.Backends.Spacing < 10*time.Millisecond || d.Backends.Spacing > 10*time.Minute:
		return nil, outOfRange("spacing", d.Backends.Spacing, "10ms to 10m")
	}
	d.Warmup = order.Warmup
	return d, nil
}

// watchFile lets the daemon compare what is applied with a file, and apply that
// when it is asked to reload.
func watchFile(e env, c *cli.Context, d *watch.Daemon) error {
	path := c.String("config")
	if path == "-" {
		return protect.Errorf(protect.Usage, "give a file", "-c -: standard input cannot be read again")
	}
	file, err := readWatched(e, c, path)
	if err != nil {
		return err
	}
	if file.rate > 0 {
		d.Probe.Rate = file.rate
	}
	if d.Warmup == nil {
		d.Warmup = file.warmup
	}
	changed := false
	d.Intent = func(services []protect.Service) []protect.Finding {
		found := protect.Intended(path, file.wishes, services)
		if now, err := os.Stat(path); err == nil {
			changed = !os.SameFile(now, file.info) || !now.ModTime().Equal(file.info.ModTime()) || now.Size() != file.info.Size()
		}
		if changed {
			found = append(found, protect.Finding{
				Severity: protect.Warn, Code: "config-changed", Message: path + " has changed since it was read",
				Hint: "reload the watcher, which reads and applies it: systemctl reload, or SIGHUP",
			})
		}
		return found
	}
	d.Reload = func(ctx context.Context) (*protect.Applied, error) {
		anew, err := readWatched(e, c, path)
		if err != nil {
			return nil, err
		}
		memory, err := protect.Remember(protect.StateDir)
		if err != nil {
			return nil, err
		}
		memory.MaxAge = anyAge // the watcher asks again anyway, and one that is down must not stop the others
		done, err := anew.apply(ctx, d.Host(), applying{"", d.Probe, protect.Order{Force: d.Force, Warmup: d.Warmup, Anew: true}, memory})
		if err == nil || protect.CodeOf(err) == protect.NotApplied {
			file = anew
		}
		return done, err
	}
	return nil
}

// anyAge is older than any answer.
const anyAge = 100 * 365 * 24 * time.Hour

// watched is a file that was read, and which one that was.
type watched struct {
	asked
	info os.FileInfo
}

func readWatched(e env, c *cli.Context, path string) (*watched, error) {
	info, err := os.Stat(path) // before it is read: what comes later is a change
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	a, err := readWishes(e, c, protect.Wish{})
	if err != nil {
		return nil, err
	}
	return &watched{a, info}, nil
}

// asDaemon connects the daemon with the service manager and with SIGHUP.
func asDaemon(e env, d *watch.Daemon) {
	d.Notify = func(line string) {
		if line == daemon.SdNotifyReloading {
			line += "\n" + daemon.SdNotifyMonotonicUsec()
		}
		if _, err := daemon.SdNotify(false, line); err != nil {
			d.Log.Debug("the service manager was not told", "error", err)
		}
	}
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		d.Alive = every / 2
	}
	if isTerminal(e.err) {
		return // which hangs up when its user leaves: that ends it
	}
	// Not to be missed between the one and the other.
	signal.Ignore(unix.SIGHUP)
	hup, reloads := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hup, unix.SIGHUP)
	go func() {
		for range hup {
			reloads <- struct{}{}
		}
	}()
	d.Reloads = reloads
}

func writeWatched(w io.Writer, p paint, sum *watch.Summary, once bool) {
	writeFindings(w, p, sum.Findings)
	switch {
	case sum.Mended > 0:
		fmt.Fprintf(w, "%s: %s made, %s followed\n", p.good("mended"), plural(sum.Mended, "change"), plural(sum.Followed, "backend"))
	case once && sum.OK:
		fmt.Fprintln(w, p.good("ok")+": rules, settings and backends are as they should be")
	}
	if !once {
		fmt.Fprintf(w, "ended: %s at the rules, %s to backends; the protection is as it was\n", plural(sum.Looks, "look"), plural(sum.Asked, "question"))
	}
}
