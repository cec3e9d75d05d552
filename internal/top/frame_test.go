package top

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)

// flooded is a view of a flood on one of so many services, after so many seconds.
func flooded(services, seconds int) *View {
	v := &View{Host: "router-1, namespace edge", Began: noon, Interval: time.Second}
	s := Sample{State: "active", Backend: "nftables", ConntrackMax: 262144}
	for i := range services {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		s.Services = append(s.Services, Service{netip.PrefixFrom(a, 32), 443, fmt.Sprintf("web-%d (%v:443)", i, a), 0, false})
	}
	for n := range seconds {
		at := s
		at.At = noon.Add(time.Duration(n) * time.Second)
		if n > 0 {
			wave := uint64(40_000 + 10_000*(n%5))
			s.Counters.SYNReceived += wave + 120
			s.Counters.CookieValid += 100 + uint64(n%3)
			s.Counters.CookieInvalid += uint64(n % 2)
			s.Services[1].SYNs += wave
			s.Services[services-1].SYNs += 120
		}
		at.Services = append([]Service(nil), s.Services...)
		at.Counters, at.Conntrack, at.Proxied = s.Counters, 190_000+n*1000, n
		v.Add(at)
	}
	return v
}

func TestGoldenFrames(t *testing.T) {
	long := Finding{"error", "drift-rule", strings.Repeat("a rule is missing in the table of nft; ", 12), "apply again"}
	for _, tt := range []struct {
		name          string
		width, height int
		services      int
		change        func(v *View)
	}{
		{"80x24", 80, 24, 2, func(*View) {}},
		{"80x24-colour", 80, 24, 2, func(v *View) { v.Colour = true }},
		{"80x24-ascii", 80, 24, 2, func(v *View) { v.ASCII = true }},
		{"80x24-many", 80, 24, 200, func(v *View) { v.Key("pgdown") }},
		{"80x24-drifted", 80, 24, 200, func(v *View) {
			v.now.State = "drifted"
			v.now.Findings = []Finding{long, {"warning", "busy", "another instance is changing this network namespace", ""}, long}
		}},
		{"80x24-failed", 80, 24, 2, func(v *View) {
			v.Add(Sample{At: noon.Add(31 * time.Second), Err: errors.New("undo record: \x1b[2Jbroken\u202e")})
		}},
		{"80x24-trial", 80, 24, 2, func(v *View) { v.now.Trial, v.now.Watched = noon.Add(75*time.Second), true }},
		{"80x24-help", 80, 24, 2, func(v *View) { v.Key("?") }},
		{"80x24-filter", 80, 24, 30, func(v *View) {
			for _, k := range []string{"/", "w", "e", "b", "-", "1"} {
				v.Key(k)
			}
		}},
		{"40x12", 40, 12, 2, func(*View) {}},
		{"200x50", 200, 50, 60, func(*View) {}},
		{"20x5", 20, 5, 2, func(*View) {}},
		{"80x24-absent", 80, 24, 1, func(v *View) { v.Add(Sample{At: noon.Add(30 * time.Second), State: "absent"}) }},
		{"80x24-first", 80, 24, 1, func(v *View) { *v = View{Host: "h", Began: noon, Interval: time.Second} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := flooded(max(2, tt.services), 30)
			tt.change(v)
			got := v.Frame(tt.width, tt.height, noon.Add(30*time.Second))
			fits(t, got, tt.width, tt.height)
			path := filepath.Join("testdata", tt.name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got+"\n", "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// fits checks that a frame keeps within the terminal, and is made of nothing that it would act on but colour.
func fits(t *testing.T, frame string, width, height int) {
	t.Helper()
	if frame == "" {
		return // there is no room for a cell
	}
	lines := strings.Split(frame, "\n")
	if len(lines) > height {
		t.Errorf("%d lines on a terminal of %d", len(lines), height)
	}
	for _, l := range lines {
		for _, st := range []style{normal, strong, faint, heading, green, yellow, red, cyan} {
			l = strings.ReplaceAll(l, "\x1b["+string(st)+"m", "")
		}
		if n := utf8.RuneCountInString(l); n > width {
			t.Errorf("%d cells on a terminal of %d: %q", n, width, l)
		}
		if i := strings.IndexFunc(l, func(r rune) bool { return !unicode.IsPrint(r) || unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) }); i >= 0 {
			t.Errorf("%q is not for a terminal: %q", l[i:], l)
		}
	}
}

// FuzzFrame draws whatever samples, keys and sizes there may be.
func FuzzFrame(f *testing.F) {
	f.Add(80, 24, "web\x1b[31m", "jjs/we\x00p?G", uint64(1), true)
	f.Add(1, 1, "\u202e\u4e16\u754c\U0001f468\u200d\U0001f469", "?", uint64(2), false)
	f.Add(40, 10, strings.Repeat("\u0301x", 300), "G", uint64(3), true)
	f.Add(0, -5, "\xff\xfe", "/", uint64(4), true)
	f.Fuzz(func(t *testing.T, width, height int, hostile, keys string, seed uint64, colour bool) {
		const widest = 500
		if width > widest || height > widest {
			return
		}
		r := rand.New(rand.NewPCG(seed, 1))
		v := &View{Host: hostile, Began: noon, Interval: time.Second, Colour: colour, ASCII: seed%2 == 0}
		for n := range 1 + r.IntN(5) {
			s := Sample{At: noon.Add(time.Duration(r.IntN(5)-1) * time.Second), State: []string{"active", "absent", hostile}[r.IntN(3)], Backend: hostile}
			s.Counters = kernel.SynproxyStats{SYNReceived: r.Uint64(), CookieValid: r.Uint64() >> r.IntN(64)}
			s.Conntrack, s.ConntrackMax, s.Proxied = int(r.Uint64()), int(r.Uint64())>>r.IntN(64), r.IntN(100)-1
			for i := range r.IntN(40) {
				s.Services = append(s.Services, Service{Port: uint16(i / 2), Name: hostile, SYNs: r.Uint64() >> r.IntN(64), Unseen: r.IntN(9) == 0})
			}
			for range r.IntN(5) {
				s.Findings = append(s.Findings, Finding{[]string{"error", "warning", hostile}[r.IntN(3)], hostile, hostile, hostile})
			}
			if n > 1 && r.IntN(3) == 0 {
				s.Err = errors.New(hostile)
			}
			v.Add(s)
		}
		for i, k := range keys {
			if i > 100 {
				break
			}
			name := string(k)
			if special := []string{"pgdown", "end", "enter", "esc", "backspace", "space"}; k%7 == 0 {
				name = special[int(k/7)%len(special)]
			}
			v.Key(name)
			fits(t, v.Frame(width, height, noon.Add(time.Duration(i)*time.Hour)), width, height)
		}
		fits(t, v.Frame(width, height, noon), width, height)
	})
}
