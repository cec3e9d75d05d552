package top

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
)

// TestRatesOfCounters goes through what counters do: they wrap at 32 bits on each CPU, and begin anew with the module.
func TestRatesOfCounters(t *testing.T) {
	const wrap = 1 << 32
	for _, tt := range []struct {
		name         string
		earlier, now uint64
		elapsed      time.Duration
		want         float64
	}{
		{"no time", 5, 5, 0, unknown},
		{"time that goes backwards", 5, 9, -time.Second, unknown},
		{"quiet", 5, 5, time.Second, 0},
		{"steady", 100, 300, 2 * time.Second, 100},
		{"one CPU wraps", wrap - 10, 40, time.Second, 50},
		{"one of two CPUs wraps", wrap + 100, 150, time.Second, 50},
		{"begun anew", 1000, 3, time.Second, unknown},
		{"begun anew after an hour", 1000, 3, time.Hour, 4294966299 / 3600.0},
	} {
		v := &View{}
		v.Add(Sample{At: noon, State: "active", Counters: kernel.SynproxyStats{SYNReceived: tt.earlier}})
		v.Add(Sample{At: noon.Add(tt.elapsed), State: "active", Counters: kernel.SynproxyStats{SYNReceived: tt.now}})
		if got := v.syns.last(); got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestRatesOfServices goes through what a service's count does between looks.
func TestRatesOfServices(t *testing.T) {
	v := &View{}
	at := noon
	step := func(d time.Duration, syns uint64, unseen bool) float64 {
		at = at.Add(d)
		v.Add(Sample{At: at, State: "active", Services: []Service{{netip.MustParsePrefix("192.0.2.1/32"), 80, "x", syns, unseen}}})
		return v.rows[0].rate
	}
	for i, tt := range []struct {
		d      time.Duration
		syns   uint64
		unseen bool
		want   float64
	}{
		{0, 1_000_000, false, unknown}, // nothing to compare with
		{time.Second, 1_000_100, false, 100},
		{time.Second, 0, true, unknown}, // another instance is at work
		{time.Second, 1_000_300, false, 100},
		{time.Second, 50, false, 50}, // its rule was made anew
		{2 * time.Second, 50, false, 0},
	} {
		if got := step(tt.d, tt.syns, tt.unseen); got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
			t.Errorf("step %d: %v, want %v", i, got, tt.want)
		}
	}
	v.Add(Sample{At: at.Add(time.Second), State: "absent"})
	if len(v.tracks) > 0 || len(v.rows) > 0 {
		t.Error("a service that is gone is remembered")
	}
}

// TestPause goes on after a pause without a rate of what came in the meantime.
func TestPause(t *testing.T) {
	v := flooded(2, 10)
	before := len(v.syns)
	v.Key("p")
	if !v.Paused() {
		t.Fatal("not paused")
	}
	v.Key("space")
	v.Add(Sample{At: noon.Add(time.Hour), State: "active", Counters: kernel.SynproxyStats{SYNReceived: 1 << 30}})
	if len(v.syns) != before {
		t.Errorf("a rate of %v", v.syns.last())
	}
}

func TestKeys(t *testing.T) {
	v := flooded(100, 3)
	frame := func() { v.Frame(80, 24, noon) }
	for _, tt := range []struct {
		key    string
		offset int
		quit   bool
	}{
		{"up", 0, false},
		{"j", 1, false},
		{"end", 100 - 12, false},
		{"pgdown", 100 - 12, false},
		{"pgup", 100 - 24, false},
		{"home", 0, false},
		{"?", 0, false},
		{"q", 0, true}, // also from the help
		{"esc", 0, true},
		{"ctrl+c", 0, true},
	} {
		frame()
		quit := v.Key(tt.key)
		frame()
		if quit != tt.quit || v.offset != tt.offset {
			t.Errorf("%s: quit %v, want %v; offset %d, want %d", tt.key, quit, tt.quit, v.offset, tt.offset)
		}
	}
	v.Key("/")
	if v.Key("q") || v.filter != "q" {
		t.Error("a letter of the filter is a command")
	}
	if !v.Key("ctrl+c") {
		t.Error("ctrl+c does not end it")
	}
	if v.Key("esc"); v.filter != "" || v.typing {
		t.Error("Esc leaves a filter")
	}
}

func TestRateIsForPeople(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0/s", 0.01: "0.1/s", 0.5: "0.5/s", 3: "3/s", 9.96: "10/s", 100: "100/s", 999.6: "1,000/s", 1234: "1,234/s", 9999.7: "10.0 k/s",
		12345: "12.3 k/s", 99960: "100 k/s", 325100: "325 k/s", 1.5e6: "1.5 M/s", 9e7: "90.0 M/s", -1: "-/s",
	} {
		if got := rate(v); got != want || len(got) > 10 {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	if rate(unknown) != "-" {
		t.Error(rate(unknown))
	}
}

func TestSparkNeverHidesWhatCame(t *testing.T) {
	if got := spark(history{0, 1, 1000, unknown, 500}, 8, 1000, false); got != "    ▁█ ▄" {
		t.Errorf("%q", got)
	}
	if got := spark(history{0, 1, 1000}, 2, 1000, true); got != ".@" {
		t.Errorf("%q", got)
	}
}

// BenchmarkManyServices takes a sample of a hundred thousand services and draws a frame.
func BenchmarkManyServices(b *testing.B) {
	v := &View{Interval: time.Second}
	s := Sample{State: "active", Services: make([]Service, 100_000)}
	for i := range s.Services {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		s.Services[i] = Service{netip.PrefixFrom(a, 32), 443, a.String(), 0, false}
	}
	for i := 0; b.Loop(); i++ {
		at := s
		s.Services[i%100_000].SYNs += 100
		at.At = noon.Add(time.Duration(i) * time.Second)
		v.Add(at)
		v.Frame(80, 24, at.At)
	}
}
