package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/bench/report"
	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// bench is one run.
type bench struct {
	options
	world   *lab.World
	results report.Results
	log     io.Writer
	start   time.Time
}

// say tells a person how far it is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, "%6.1fs  %s\n", time.Since(b.start).Seconds(), fmt.Sprintf(format, args...))
}

// measure runs what the options want, and writes the results and, unless it was a smoke test, the documents.
func measure(ctx context.Context, world *lab.World, o options, log io.Writer) error {
	if n := runtime.NumCPU(); n <= receiverCPU {
		return fmt.Errorf("%d CPU: one must send and another receive; hint: run on a machine with two", n)
	}
	// Ahead of what else runs on the machine, and so are the threads and programs that come later.
	if err := eachThread(func(tid int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, -20) }); err != nil {
		return fmt.Errorf("priority: %w; hint: run as root", err)
	}
	b := &bench{options: o, world: world, log: log, start: time.Now()}
	b.results = report.Results{Schema: 1, Date: b.start.UTC().Format(time.RFC3339), Short: o.short, Reps: o.reps, Machine: machine(ctx)}
	if load := machineLoad(); load > 1 {
		b.results.Note("the machine was busy with other work when the run of %s began (load average %.1f): spreads are wide", b.results.Date, load)
	}
	for _, part := range parts {
		if !slices.Contains(o.only, part) {
			continue
		}
		err := map[string]func(context.Context) error{
			"syn": b.measureSYN, "good": b.measureGood, "apply": b.measureApply, "probe": b.measureProbe, "throughput": b.measureThroughput,
		}[part](ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
		// After each part, so that one that fails spoils no other.
		if err := b.write(); err != nil {
			return err
		}
	}
	return nil
}

// sites builds the networks of all contenders that are chosen for a size, protected, each known to let a good
// connection pass. The function that it returns takes them down.
func (b *bench) sites(ctx context.Context, size int, port uint16) ([]*site, func(), error) {
	var all []*site
	end := func() {
		for _, s := range all {
			_ = s.Close() // its namespaces go with the process anyway
		}
	}
	for _, c := range b.chosen(size) {
		s, err := newSite(ctx, b.world, c, size, port, nil)
		if err != nil {
			end()
			return nil, nil, err
		}
		begin := time.Now()
		if err := s.install(ctx); err != nil {
			_ = s.Close() // its namespaces go with the process anyway
			if b.mayLeaveOut(err) {
				continue
			}
			end()
			return nil, nil, err
		}
		b.say("%-28s %6d services, port %d: installed in %.2fs, good connections pass", c.name, size, port, time.Since(begin).Seconds())
		all = append(all, s)
	}
	return all, end, nil
}

// mayLeaveOut notes why a contender is left out, and returns false if the error is not such a reason.
func (b *bench) mayLeaveOut(err error) bool {
	if !errors.Is(err, errLeftOut) && (b.short || !errors.Is(err, errBroken)) {
		return false
	}
	b.say("%v", err)
	b.results.Note("%v", err)
	return true
}

// errLeftOut is wrapped by the error of a contender that cannot protect that many services, or not yet.
var errLeftOut = errors.New("left out")

// errBroken is wrapped by the error of a contender that lets no good connections pass. A smoke test fails then; a whole
// run says so and goes on without it.
var errBroken = errors.New("good connections do not pass")
