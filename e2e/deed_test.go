package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// A deed is what a process of its own does to the host that it runs on, and what becomes of that process. Whatever it
// does is counted in events: the begin, each checkpoint of a sequence, the first look at each wait, and the end.
type deed struct {
	Do       string // apply, revert, confirm, or await for the guard of a try
	Services []protect.Service
	Backend  string
	Try      time.Duration
	Warmup   *time.Duration
	Removal  protect.Removal
	Name     string        // of the try that await is for
	Patience time.Duration // for the lock
	Settings string        // the directory of settings; empty: the kernel's

	At     int            // the event that something happens at; 0: nothing happens
	During bool           // while a program changes the rules after that event, not at the event itself
	Signal syscall.Signal // sent to itself
	Alone  bool           // and before that, SIGKILL to the guard
	Shell  string         // run by sh
}

// A result is what a deed says at its end.
type result struct {
	Code  protect.Code
	Error string
	Hint  string
	State protect.State
}

// deedPrefix is what the name of a child begins with that does a deed.
const deedPrefix = "deed "

// doer counts the events of a deed.
type doer struct {
	deed
	ctx    context.Context
	count  int
	phases map[string]bool
	guard  int
}

// deedChild does a deed.
func deedChild(text string) int {
	var d deed
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	e := &doer{deed: d, ctx: ctx, phases: map[string]bool{}}
	h := &protect.Host{Checkpoint: e.event, Wrap: e.wrap, Progress: e.progress, LockTimeout: d.Patience, Sysctl: sysctl.FS(d.Settings)}
	e.event("begin")
	var res result
	var err error
	switch d.Do {
	case "apply":
		_, err = h.Apply(ctx, protect.Order{Services: d.Services, Backend: d.Backend, Try: d.Try, Warmup: d.Warmup, Guard: e.startGuard})
	case "revert":
		var r *protect.Reverted
		if r, err = h.Revert(ctx, d.Removal); r != nil {
			res.State = r.State
		}
	case "confirm":
		_, err = h.Confirm(ctx)
	case "await":
		err = h.Await(ctx, d.Name)
	default:
		return fail(fmt.Errorf("deed %q", d.Do))
	}
	if err != nil {
		res.Code, res.Error, res.Hint = protect.CodeOf(err), err.Error(), protect.HintOf(err)
	}
	e.event("end")
	text2, _ := json.Marshal(res)
	fmt.Fprintf(os.Stdout, "result %s\n", text2)
	return 0
}

// event tells what has happened, and lets something happen if its turn has come.
func (e *doer) event(name string) {
	e.count++
	fmt.Fprintf(os.Stdout, "event %s\n", name)
	if e.count == e.At && !e.During {
		e.happen()
	}
}

func (e *doer) progress(phase string, _, _ int) {
	if !e.phases[phase] {
		e.phases[phase] = true
		e.event("wait: " + phase)
	}
}

func (e *doer) happen() {
	if e.Shell != "" {
		if out, err := exec.Command("sh", "-euc", e.Shell).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stdout, "shell %v %s\n", err, out)
		}
	}
	if e.Alone && e.guard != 0 {
		_ = syscall.Kill(e.guard, syscall.SIGKILL)
	}
	if e.Signal != 0 {
		_ = syscall.Kill(os.Getpid(), e.Signal)
		<-e.ctx.Done() // which a SIGKILL does not live to see
	}
}

// dying is a real backend that is at work when the signal comes.
type dying struct {
	rules.Backend
	e *doer
}

func (e *doer) wrap(b rules.Backend) rules.Backend { return dying{b, e} }

func (d dying) Apply(ctx context.Context, s rules.Step) error {
	if d.e.During && d.e.count == d.e.At {
		fmt.Fprintf(os.Stdout, "event during %s %s\n", s.Family, s.Table)
		go func() {
			time.Sleep(time.Duration(os.Getpid()%5) * time.Millisecond) // before, while, or after the kernel takes it
			d.e.happen()
		}()
	}
	return d.Backend.Apply(ctx, s)
}

// startGuard starts the program as a guard, as the program itself does, and says which process that is.
func (e *doer) startGuard(name string) (func(), error) {
	cmd := exec.Command(filepath.Join(os.Getenv(envBuild), "synproxyctl"), "guard", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	if said, err := bufio.NewReader(out).ReadString('\n'); said != "ready\n" {
		return nil, fmt.Errorf("guard said %q: %w", said, err)
	}
	e.guard = cmd.Process.Pid
	fmt.Fprintf(os.Stdout, "guard %d\n", e.guard)
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

// A done is what was seen of a deed.
type done struct {
	events []string
	result *result // nil if it did not live to say it
	guard  int     // the process that guards a try; 0: none
	output string
}

// last is the event that the deed saw last.
func (d done) last() string {
	if len(d.events) == 0 {
		return "nothing"
	}
	return d.events[len(d.events)-1]
}

// deedCommand prepares a process that does a deed.
func deedCommand(t testing.TB, host *lab.Host, d deed, wrapper ...string) *lab.Command {
	t.Helper()
	if _, err := program(); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const longest = 40 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	t.Cleanup(cancel)
	words := append(wrapper, self)
	cmd := host.Command(ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), envChild+"="+deedPrefix+string(text), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// perform lets a process of its own do a deed, and waits for its end.
func perform(t testing.TB, host *lab.Host, d deed, wrapper ...string) done {
	t.Helper()
	cmd := deedCommand(t, host, d, wrapper...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var exited *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	return parseDone(t, out.String())
}

func parseDone(t testing.TB, output string) done {
	t.Helper()
	d := done{output: output}
	for line := range strings.Lines(output) {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "event":
			d.events = append(d.events, rest)
		case "guard":
			if _, err := fmt.Sscan(rest, &d.guard); err != nil {
				t.Fatal(err)
			}
		case "result":
			d.result = &result{}
			if err := json.Unmarshal([]byte(rest), d.result); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(d.events) == 0 {
		t.Fatalf("the process did nothing: %s", output)
	}
	return d
}

// runs tells whether a process runs; one that has ended and waits for its parent does not.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}

// hostRecord returns the undo record of a host, without what differs each time; empty if there is none.
func hostRecord(t testing.TB, host *lab.Host) string {
	t.Helper()
	text, err := os.ReadFile(hostRecordPath(t, host))
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, `"written"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func hostRecordPath(t testing.TB, host *lab.Host) string {
	t.Helper()
	var id string
	if err := host.Do(func() (err error) {
		id, err = kernel.NetNSID()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(protect.RunDir, id+".json")
}
