package protect

import (
	"math"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/firewall"
	"github.com/synproxyctl/synproxyctl/internal/kernel"
)

// scaled is a part of the work that is done for each of many services. Made for
// a number of them, it returns what to measure.
type scaled struct {
	name  string
	bytes int // that it may allocate for each service
	make  func(t *testing.T, n int) func()
}

var scaling = []scaled{
	{"validation", 50, func(t *testing.T, n int) func() {
		services := many(n)
		return func() {
			if err := checkOrder(Order{Services: services}); err != nil {
				t.Error(err)
			}
		}
	}},
	{"record", 900, func(t *testing.T, n int) func() { // with the 250 of the service itself
		s := store{dir: t.TempDir(), id: "cookie-1"}
		rec := example()
		rec.Namespace, rec.Services = s.id, many(n)
		return func() {
			if err := s.save(rec); err != nil {
				t.Error(err)
			}
			back, err := s.load()
			if err != nil || !slices.EqualFunc(back.Services, rec.Services, Service.equal) {
				t.Errorf("not as it was: %v", err)
			}
		}
	}},
	{"difference", 10, func(t *testing.T, n int) func() {
		p := &plan{old: &record{Services: many(n)}, new: &record{Services: many(n + 1)}}
		return func() {
			begins := p.begins()
			for i := range p.new.Services {
				if begins(p.new.Services[i].itself()) != (i == n) {
					t.Fatalf("service %d of %d", i, n)
				}
			}
			if len(p.new.closing(p.old.Services)) != 1 {
				t.Error("one closes")
			}
		}
	}},
	{"many networks", 10, func(t *testing.T, n int) func() {
		services := many(n)
		for i := range services {
			services[i].Destination, _ = services[i].Destination.Addr().Prefix(32 - i%2)
		}
		sortServices(services)
		return func() {
			match := serves(services)
			for i := range services {
				if !match(services[i].ProbeAt) {
					t.Fatal(services[i])
				}
			}
		}
	}},
	{"outlook", 50, func(t *testing.T, n int) func() {
		gone := []string{"gone0", "gone1"}
		services := many(n)
		for i := range services {
			services[i].Mode, services[i].Options.Timestamps, services[i].Interfaces = "", false, gone
		}
		fw := firewall.New()
		out := outlook{fw, "", fw.Classes(), map[question]any{}, known(services), map[string][]string{}}
		r := router{to: out.routes, policy: []kernel.PolicyRule{{Mark: 1, Mask: 1, Text: "x"}}, main: []kernel.TableRoute{{Interfaces: gone[:1]}}}
		return func() {
			out.modes(services)
			found := slices.Concat(out.findings(services), adviseOptions(services), places(services, out.routes))
			var t1 tally
			r.asymmetric(&t1, services)
			r.byMark(&t1, r.policy[0], services, out)
			// no-timestamps, two interfaces that are gone, asymmetric
			if n := len(found) + len(t1.findings()); n != 4 {
				t.Errorf("%d findings: %v %v", n, found, t1.list)
			}
		}
	}},
}

// translations is the outlook for services each of which is led to a server of its own.
var translations = scaled{"translations", 350, func(t *testing.T, n int) func() {
	services := many(n)
	for i := range services {
		s := &services[i]
		s.To, s.Interfaces = netip.AddrPortFrom(s.ProbeAt.Addr(), 8443), nil
		s.Destination = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 32)
		s.Port = uint16(i + 1)
	}
	fw := firewall.New()
	out := outlook{fw, "", fw.Classes(), map[question]any{}, known(services), map[string][]string{}}
	return func() {
		out.modes(services)
		if found := out.findings(services); len(found) != 0 || len(out.seen) > 2+n {
			t.Errorf("%v; %d questions", found, len(out.seen))
		}
	}
}}

// known are routes that need no kernel.
func known(services []Service) *routes {
	r := &routes{}
	for i := range services {
		r.dsts = append(r.dsts, services[i].ProbeAt.Addr())
		r.answers = append(r.answers, kernel.RouteAnswer{RouteInfo: kernel.RouteInfo{Interface: "gone0", MTU: 1500}})
	}
	return r
}

// busy is the processor time of this thread, which other work on the machine does not make longer.
func busy(t *testing.T) time.Duration {
	t.Helper()
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Nano())
}

// TestScale fails if anything takes much more than ten times as long for ten times as many services, or much memory
// for each.
func TestScale(t *testing.T) {
	const few, manyMore, slack = 2000, 20000, 5
	for _, part := range append(scaling, translations) {
		t.Run(part.name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			measure := func(n int) (best time.Duration, bytes uint64) {
				work := part.make(t, n)
				best = math.MaxInt64
				for range 5 {
					var before, after runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&before)
					began := busy(t)
					work()
					best = min(best, busy(t)-began)
					runtime.ReadMemStats(&after)
					bytes = (after.TotalAlloc - before.TotalAlloc) / uint64(n)
				}
				return best, bytes
			}
			short, _ := measure(few)
			long, bytes := measure(manyMore)
			t.Logf("%v for %d services, %v for %d, with %d bytes each", short, few, long, manyMore, bytes)
			if short = max(short, time.Millisecond); long > slack*manyMore/few*short {
				t.Errorf("%v for %d services, but %v for %d", short, few, long, manyMore)
			}
			if bytes > uint64(part.bytes) {
				t.Errorf("%d bytes for each service, want %d at most", bytes, part.bytes)
			}
		})
	}
}
