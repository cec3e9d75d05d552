package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// A sequence is what is killed at each of its events.
type sequence struct {
	name string
	from []protect.Service // what is protected before; nil: nothing
	to   []protect.Service // what is protected by it; nil: nothing
	move bool              // to the other backend
	do   deed
	held bool // proxied connections are open while it runs
	lost bool // proxied connections may be given up by it
	// unwatched tells that conntrack is off before. There is then one service, on the firewall itself.
	unwatched bool
	pending   time.Duration // if a change to what is protected after is on trial before: for how long
	guarded   bool          // the guard of the try lives, and takes back what the kill has left
}

// web returns a service on the server, which speaks second.
func webService(addr netip.Addr, port uint16, mode rules.Mode, change func(*protect.Service)) protect.Service {
	s := services(rules.FirstClient, addr)[0]
	s.Port, s.Mode = port, mode
	if change != nil {
		change(&s)
	}
	return s
}

// Both modes are in every sequence. From the first protection to the second one service goes, one comes, of another
// family, and another has new options and another first speaker.
var (
	firstServices = []protect.Service{
		webService(lab.ServerV4, 80, rules.ModeTracked, nil), webService(lab.ServerV4, 81, rules.ModeNotrack, nil),
		webService(lab.ServerV4, 82, rules.ModeTracked, nil),
	}
	secondServices = []protect.Service{
		webService(lab.ServerV4, 80, rules.ModeTracked, func(s *protect.Service) {
			mss := uint16(1400)
			s.Options.MSS, s.First = &mss, rules.FirstServer
		}),
		webService(lab.ServerV4, 81, rules.ModeNotrack, nil),
		webService(lab.ServerV6, 80, rules.ModeNotrack, nil),
	}
)

// trial is how long a try lasts.
const trial = time.Second

func sequences() []sequence {
	lessServices, tryServices := firstServices[:2], secondServices[:2]
	none, warmup := time.Duration(0), 200*time.Millisecond
	own := webService(lab.FirewallV4, 80, rules.ModeTracked, func(s *protect.Service) { s.Hook = rules.Input })
	return []sequence{
		{name: "first apply, warm-up", to: []protect.Service{own}, do: deed{Do: "apply", Warmup: &warmup}, unwatched: true},
		{name: "first apply", to: firstServices, do: deed{Do: "apply"}},
		{name: "change", from: firstServices, to: secondServices, do: deed{Do: "apply"}, held: true},
		{name: "move", from: firstServices, to: firstServices, move: true, do: deed{Do: "apply"}, held: true},
		{name: "revert", from: firstServices, do: deed{Do: "revert"}},
		{name: "revert, connections", from: firstServices, do: deed{Do: "revert", Removal: protect.Removal{Drain: &none}}, held: true},
		{name: "revert --now", from: firstServices, do: deed{Do: "revert", Removal: protect.Removal{Now: true}}, held: true, lost: true},
		{name: "try, guarded", from: lessServices, to: tryServices, do: deed{Do: "apply", Try: trial}, held: true, guarded: true},
		{name: "first try, guarded", to: tryServices, do: deed{Do: "apply", Try: trial}, guarded: true},
		{name: "try", from: lessServices, to: tryServices, do: deed{Do: "apply", Try: trial, Alone: true}, held: true},
		{name: "confirm", from: lessServices, to: tryServices, do: deed{Do: "confirm"}, held: true, pending: time.Minute},
		{name: "expiry", from: lessServices, to: tryServices, do: deed{Do: "await"}, held: true, pending: time.Nanosecond},
		{name: "expiry of a first", to: tryServices, do: deed{Do: "await"}, pending: time.Nanosecond},
	}
}

// TestCrash kills each sequence at each of its events, and while a program changes the rules after it. Whatever is then
// in the kernel, connections that were open live on and new ones work, the host can be looked at, and the next apply
// or revert leads exactly to where it should.
func TestCrash(t *testing.T) {
	table := newMatrix()
	t.Cleanup(func() { table.print(t) })
	var jobs []func()
	for i, seq := range sequences() {
		for b, backend := range backends {
			for _, during := range []bool{false, true} {
				for part := range lanes {
					if !*full && !during && part != (i+b)%lanes {
						continue // another backend is killed there
					}
					if during && (part != b%lanes || seq.do.Try != 0 || seq.pending != 0) {
						continue // the other backend is killed there, or another sequence
					}
					if during && !*full && b == i%2 {
						continue // iptables-restore is the same to both variants
					}
					jobs = append(jobs, func() {
						t.Run(fmt.Sprintf("%s/%s/during=%v/%d", seq.name, backend, during, part), func(t *testing.T) {
							l := newLane(t, seq, backend)
							l.walk(table, during, part, b)
						})
					})
				}
			}
		}
	}
	atOnce(jobs)
}

// lanes is on how many hosts the events of a sequence are spread.
const lanes = 2

// atOnce does jobs, a few at a time: they wait most of the time.
func atOnce(jobs []func()) {
	const most = 8
	var wg sync.WaitGroup
	next := make(chan func())
	for range most {
		wg.Go(func() {
			for job := range next {
				job()
			}
		})
	}
	for _, job := range jobs {
		next <- job
	}
	close(next)
	wg.Wait()
}

// walk kills the sequence at every event of which the number leaves the rest part.
func (l *lane) walk(table *matrix, during bool, part, turn int) {
	seq := l.seq
	d := seq.do
	d.Services, d.Backend, d.During, d.Signal = seq.to, l.target, during, syscall.SIGKILL
	for n := 1 + part; ; n += lanes {
		l.reset()
		d.At, d.Name = n, l.try
		got := perform(l.t, l.fw, d)
		if got.result != nil && len(got.events) < n {
			return // it came to its end
		}
		if got.result != nil && !during {
			l.t.Fatalf("it outlived event %d: %s", n, got.output)
		}
		if got.result != nil { // nothing changes the rules after this event
			continue
		}
		event := got.last()
		if during {
			event = got.events[n] // which the process may have survived for a moment
		}
		l.t.Run(fmt.Sprintf("%d %s", n, event), func(t *testing.T) {
			outer := l.t
			defer func() { l.t = outer }()
			l.t = t
			ending := []string{"apply", "revert"}[(n/lanes+turn)%2]
			if seq.guarded {
				ending = "guard"
				l.takenBack(got)
			} else {
				l.aftermath(ending, got)
			}
			table.set(seq.name, fmt.Sprintf("%02d %s", n, event), l.backend, ending, !t.Failed())
		})
	}
}

// takenBack waits for the guard to take back what the kill has left.
func (l *lane) takenBack(got done) {
	l.t.Helper()
	l.works("after the kill", true)
	l.looks("after the kill")
	const patience = trial + 8*time.Second
	for end := time.Now().Add(patience); got.guard != 0 && runs(got.guard) && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if got.guard != 0 && runs(got.guard) {
		l.t.Errorf("the guard runs on")
		_ = syscall.Kill(got.guard, syscall.SIGKILL)
	}
	l.works("after the guard", true)
	sameDump(l.t, l.begun, l.state())
}

// aftermath looks at what a kill has left, and leads it to one end or the other.
func (l *lane) aftermath(ending string, got done) {
	l.t.Helper()
	l.works("after the kill", !l.seq.lost)
	l.looks("after the kill")
	if l.seq.do.Try != 0 && slices.Contains(got.events, "record") {
		l.tells(got)
	}
	if ending == "apply" && l.seq.to != nil {
		l.apply(l.seq.to, l.target)
		l.works("after apply", !l.seq.lost)
		l.quiet()
		mustDo(l.t, l.fw, 0, "verify")
		sameDump(l.t, l.wanted, l.state())
		return
	}
	if ending == "apply" { // what was there before the revert
		l.apply(l.seq.from, l.backend)
		l.works("after apply", !l.seq.lost)
		mustDo(l.t, l.fw, 0, "verify")
	}
	end := make(chan error, 1)
	go func() {
		end <- l.fw.Do(func() error {
			_, err := (&protect.Host{LockTimeout: time.Minute}).Revert(l.t.Context(), protect.Removal{})
			return err
		})
	}()
	alive := !l.seq.lost && len(l.proxied) > 0
	if alive {
		time.Sleep(1700 * time.Millisecond) // until it drains
		l.works("while reverting", true)
		select {
		case err := <-end:
			l.t.Errorf("revert did not wait for the connections: %v", err)
			end <- err
		default:
		}
	}
	for _, c := range l.proxied {
		c.conn.Close()
	}
	if err := <-end; err != nil {
		l.t.Errorf("revert: %v", err)
	}
	l.works("after revert", false)
	l.quiet()
	sameDump(l.t, l.absent, l.state())
}

// tells checks that nobody can take a try without its guard for something permanent.
func (l *lane) tells(got done) {
	l.t.Helper()
	if status := mustDo(l.t, l.fw, 0, "status"); status["pending"] == nil {
		l.t.Errorf("status does not tell that something is pending: %v", status)
	}
	code := "cut-short"
	if got.last() == "end" {
		code = "try-expired"
		time.Sleep(trial)
	}
	if found := codes(mustDo(l.t, l.fw, 3, "verify")); !slices.Contains(found, code) {
		l.t.Errorf("verify found %v, not %s", found, code)
	}
	mustDo(l.t, l.fw, 5, "confirm")
}

// A matrix collects what became of each kill.
type matrix struct {
	mu    sync.Mutex
	rows  []string
	cells map[string]map[string]bool
}

func newMatrix() *matrix { return &matrix{cells: map[string]map[string]bool{}} }

func (m *matrix) set(seq, event, backend, ending string, good bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := seq + ": " + event
	if m.cells[row] == nil {
		m.cells[row] = map[string]bool{}
		m.rows = append(m.rows, row)
	}
	m.cells[row][strings.TrimPrefix(backend, "iptables-")+", then "+ending] = good
}

// print shows the matrix.
func (m *matrix) print(t *testing.T) {
	t.Helper()
	var columns []string
	for _, backend := range backends {
		short := strings.TrimPrefix(backend, "iptables-")
		columns = append(columns, short+", then apply", short+", then revert", short+", then guard")
	}
	slices.Sort(m.rows)
	var b strings.Builder
	fmt.Fprintf(&b, "%-56s", "killed at")
	for _, c := range columns {
		fmt.Fprintf(&b, "  %s", c)
	}
	n, bad := 0, 0
	for _, row := range m.rows {
		fmt.Fprintf(&b, "\n%-56s", row)
		for _, c := range columns {
			mark := "."
			if good, there := m.cells[row][c]; there && good {
				mark = "ok"
				n++
			} else if there {
				mark = "BAD"
				bad++
			}
			fmt.Fprintf(&b, "  %-*s", len(c), mark)
		}
	}
	t.Logf("%d kills, %d of them bad\n%s", n+bad, bad, b.String())
}
