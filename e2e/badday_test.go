package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// A badDay is something that befalls a host while it is being changed.
type badDay struct {
	name    string
	happens string   // a shell command in the mounts of the process that changes
	over    string   // another, in the mounts of the test, by which it ends
	names   []string // one of which the error must name
}

var badDays = []badDay{
	{"the disk is full", `head -c 1000000 /dev/zero >/run/fill 2>&- || :`, `rm -f "$STAGE/fill"`, []string{"no space left"}},
	{"run is read-only", `mount -o remount,bind,ro /run`, `:`, []string{"read-only"}},
	{"settings are read-only", `mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys`, `:`, []string{"nf_conntrack_tcp_loose"}},
	{"somebody sets a setting", `echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose`, `:`, []string{"nf_conntrack_tcp_loose"}},
	{"the interface vanishes", `ip link delete gone0 2>&- || :`, `:`, nil},
}

// TestBadDays lets each befall a host at each event of each sequence. Either the sequence succeeds all the same, or it
// rolls back to the last rule, or it says exactly what is left: which then can only be what it could not write. In the
// end a revert leads back to the beginning.
func TestBadDays(t *testing.T) {
	var jobs []func()
	for i, day := range badDays {
		turn := i
		for _, seq := range sequences() {
			switch seq.name {
			case "first apply", "change", "revert, connections", "revert --now":
			default:
				continue
			}
			backend := turnOf(turn) // each with one of them
			turn++
			jobs = append(jobs, func() {
				t.Run(day.name+"/"+seq.name+"/"+backend, func(t *testing.T) { newUnlucky(t, day, seq, backend).walk() })
			})
		}
	}
	atOnce(jobs)
}

// unlucky is a lane whose process has a small /run of its own.
type unlucky struct {
	*lane
	day badDay
	s   *stage
}

func newUnlucky(t *testing.T, day badDay, seq sequence, backend string) *unlucky {
	t.Helper()
	u := &unlucky{day: day}
	l := newLane(t, seq, backend)
	u.lane, u.s = l, newStage(t, l.fw)
	if err := unix.Mount("tmpfs", u.s.run, "tmpfs", 0, "size=64k,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(u.s.run, unix.MNT_DETACH) })
	l.reset()
	on(t, l.fw, func() error { // nothing is protected by the record of the whole test's /run
		_, err := (&protect.Host{}).Revert(t.Context(), protect.Removal{Now: true})
		return err
	})
	return u
}

// do does something with the /run of the stage.
func (u *unlucky) do(d deed) done {
	u.t.Helper()
	d.Patience = 10 * time.Second
	script := `mount --bind ` + u.s.run + ` /run; exec "$@"`
	return perform(u.t, u.fw, d, "unshare", "-m", "sh", "-euc", script, "sh")
}

func (u *unlucky) must(d deed) {
	u.t.Helper()
	if got := u.do(d); got.result == nil || got.result.Code != "" {
		u.t.Fatalf("%s: %s", d.Do, got.output)
	}
}

func (u *unlucky) walk() {
	u.t.Helper()
	absent := u.kernel()
	succeeded := 0
	for n := 1; succeeded < 2; n += 1 + n/3 { // what an event finds is much the same later on
		run(u.t, u.fw, "sh", "-c", "ip link delete gone0 2>&-; ip link add gone0 type veth peer name gone1")
		from, to := u.seq.from, u.seq.to
		if u.day.name == "the interface vanishes" {
			from, to = within(from), within(to)
		}
		if from != nil {
			u.must(deed{Do: "apply", Services: from, Backend: u.backend})
		}
		u.s.dump = u.kernel()
		u.s.files = stable(u.s.listing())
		d := u.seq.do
		d.Services, d.Backend, d.At, d.Shell = to, u.target, n, u.day.happens
		got := u.do(d)
		what := fmt.Sprintf("at %d %s", n, got.events[min(n, len(got.events))-1])
		run(u.t, u.fw, "env", "STAGE="+u.s.run, "sh", "-euc", u.day.over)
		if got.result == nil {
			u.t.Fatalf("%s: %s", what, got.output)
		}
		u.judge(what, *got.result)
		if n == 1 && got.result.Code == protect.Stuck { // nothing was begun
			u.t.Errorf("%s: %+v", what, *got.result)
		}
		if got.result.Code == "" {
			succeeded++
		}
		if u.day.name != "somebody sets a setting" {
			u.works(what, false)
		}
		if len(got.events) < n {
			succeeded = 2
		}
		u.must(deed{Do: "revert", Removal: protect.Removal{Now: true}})
		if now := u.kernel(); now != absent || u.s.listing() != "" {
			u.t.Errorf("%s: after revert: %s\n%s", what, firstDifference(absent, now), u.s.listing())
		}
		if u.t.Failed() {
			u.t.FailNow()
		}
	}
}

// judge looks at what was said and what is left.
func (u *unlucky) judge(what string, r result) {
	u.t.Helper()
	if r.Code == "" {
		return
	}
	named := false
	for _, name := range u.day.names {
		named = named || strings.Contains(r.Error, name)
	}
	if !named || r.Hint == "" {
		u.t.Errorf("%s: %+v", what, r)
	}
	kernel, files := u.kernel(), stable(u.s.listing())
	if r.Code != protect.Stuck {
		if kernel != u.s.dump && u.day.name != "somebody sets a setting" {
			u.t.Errorf("%s: not rolled back: %s", what, firstDifference(u.s.dump, kernel))
		}
		if files != u.s.files {
			u.t.Errorf("%s: the record was\n%s\nand is\n%s", what, u.s.files, files)
		}
		return
	}
	_, left, _ := strings.Cut(r.Error, "left are: ")
	if files != u.s.files && !strings.Contains(left, "undo record") {
		u.t.Errorf("%s: the record is another, and nobody says so", what)
	}
	if kernel != u.s.dump && !strings.Contains(left, "kernel settings") {
		u.t.Errorf("%s: not rolled back, and nobody says so: %s", what, firstDifference(u.s.dump, kernel))
	}
}

func (u *unlucky) kernel() string {
	u.t.Helper()
	text := inAnyOrder(dump(u.t, u.fw))
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "/gone") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// within binds services to the interface that vanishes.
func within(list []protect.Service) []protect.Service {
	var bound []protect.Service
	for _, s := range list {
		s.Interfaces = []string{"eth0", "gone0"}
		bound = append(bound, s)
	}
	return bound
}

// stable takes from a record what differs each time.
func stable(record string) string {
	var b strings.Builder
	for line := range strings.Lines(record) {
		if !strings.Contains(line, `"written"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}
