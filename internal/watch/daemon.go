package watch

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

const (
	settle      = time.Second      // between two looks, if the first shows something new
	longestWork = 10 * time.Minute // of one activity
)

// Daemon watches one network namespace. Its fields are set before [Daemon.Run].
type Daemon struct {
	Rules    Rules
	Backends Backends

	Interval      time.Duration // between looks at the rules
	ProbeInterval time.Duration // between questions to the backends; 0: none are asked
	Once          bool          // one round, with what confirms it

	Host   func() *protect.Host // a new one each time, since it remembers routes
	Probe  probe.Config
	Force  bool           // as in [protect.Order]
	Warmup *time.Duration // as in [protect.Order]
	Memory func() (*protect.Memory, error)

	// Intent returns findings about what should be applied and is not; nil: what
	// is applied is what should be.
	Intent func([]protect.Service) []protect.Finding
	// Reload reads anew what should be applied, and applies it if something is
	// applied; nil: there is nothing to read.
	Reload  func(context.Context) (*protect.Applied, error)
	Reloads <-chan struct{} // asks for a reload

	Log    *slog.Logger
	Notify func(string)    // tells the service manager; may be nil
	Alive  time.Duration   // how often to tell it that the loop runs; 0: never
	Seen   func(time.Time) // is told of each look; may be nil

	services   []protect.Service // of the latest look
	total      int               // of those, how many can be asked
	asked      time.Time         // when all were asked last; zero: never
	deaf       string            // why they could not be, as told last
	line       string            // of the status, as told last
	pending    Conclusion
	activities []*activity
	done       chan func(now time.Time)
	over       func() bool // whether Run is to end
	busy       bool        // something runs that must be alone
	sum        Summary
	fault      error
}

// Summary is what a run has come to.
type Summary struct {
	OK       bool              `json:"ok"`
	Changed  bool              `json:"changed"`
	State    protect.State     `json:"state"`
	Looks    int               `json:"looks"`    // at the rules
	Asked    int               `json:"asked"`    // questions to backends
	Mended   int               `json:"mended"`   // changes to rules and settings, those for backends included
	Followed int               `json:"followed"` // backends
	Findings []protect.Finding `json:"findings"` // what is wrong still
}

// Run watches until ctx ends, which is no error, or, with Once, until the round
// is over.
func (d *Daemon) Run(ctx context.Context) (*Summary, error) {
	d.done = make(chan func(time.Time))
	d.plan()
	alive := newTicker(d.Alive)
	defer alive.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	d.over = func() bool { return ctx.Err() != nil }
	for {
		now := time.Now()
		d.start(ctx, now)
		if d.Once && d.idle() {
			break
		}
		timer.Reset(d.next(now))
		select {
		case <-ctx.Done():
		case conclude := <-d.done:
			conclude(time.Now())
		case <-d.Reloads:
			d.reload(time.Now())
		case <-alive.C:
			if !d.stuck(time.Now()) {
				d.notify("WATCHDOG=1")
			}
		case <-timer.C:
		}
		if d.over() {
			break
		}
	}
	if !d.Once {
		d.notify("STOPPING=1")
	}
	d.rest()
	d.conclude()
	if d.Once && d.over() {
		return &d.sum, context.Cause(ctx)
	}
	return &d.sum, d.fault
}

// rest waits until what runs has heeded the end of its context, so that a change
// that was begun is rolled back.
func (d *Daemon) rest() {
	for _, a := range d.activities {
		if !a.began.IsZero() {
			(<-d.done)(time.Now())
		}
	}
}

// conclude adds up.
func (d *Daemon) conclude() {
	d.sum.Findings = append([]protect.Finding{}, d.Rules.Open()...)
	differ, silent := d.Backends.Open()
	if differ > 0 {
		d.sum.Findings = append(d.sum.Findings, protect.Finding{Severity: protect.Bad, Code: "options-drift", Message: fmt.Sprintf("backends whose options are not as the rules announce: %d", differ), Hint: "run synproxyctl verify --probe"})
	}
	if silent > 0 {
		d.sum.Findings = append(d.sum.Findings, protect.Finding{Severity: protect.Bad, Code: "backends-silent", Message: fmt.Sprintf("backends that give no usable answer: %d", silent), Hint: "run synproxyctl verify --probe"})
	}
	d.sum.Changed = d.sum.Mended > 0
	d.sum.OK = d.sum.State == protect.Active
	for _, f := range d.sum.Findings {
		d.sum.OK = d.sum.OK && f.Severity != protect.Bad
	}
}

func (d *Daemon) notify(line string) {
	if d.Notify != nil {
		d.Notify(line)
	}
}

func (d *Daemon) tell(events ...Event) {
	for _, e := range events {
		attrs := []any{slog.String("code", e.Code)}
		if e.Hint != "" {
			attrs = append(attrs, slog.String("hint", e.Hint))
		}
		d.Log.Log(context.Background(), e.Level, e.Message, attrs...)
	}
}

// jitter spreads what many hosts would do at the same time: by a tenth.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// newTicker is a ticker that never ticks if d is 0.
func newTicker(d time.Duration) *time.Ticker {
	if d > 0 {
		return time.NewTicker(d)
	}
	t := time.NewTicker(time.Hour)
	t.Stop()
	return t
}
