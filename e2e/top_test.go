package e2e

import (
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// perSecond is a rate as the screen shows it.
func perSecond(t *testing.T, number, unit string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(strings.ReplaceAll(number, ",", ""), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v * map[string]float64{"": 1, "k": 1e3, "M": 1e6}[unit]
}

// TestTop watches one of two services being flooded, on the screen as a person sees it.
func TestTop(t *testing.T) {
	s, topo := newCLI(t)
	forward4.serve(t, topo, 443, lab.ServerConfig{Mode: lab.ClientFirst})
	s.good(applying(server+":80", server+":443")...)
	scr := s.show(80, 24, nil, "top", "--interval", "500ms")
	scr.until(`^active by .*  2 services`)
	scr.until(`^SYNs answered +0/s`)

	const flooded = 5000
	type outcome struct {
		res lab.FloodResult
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		res, err := topo.Attacker.Flood(t.Context(), lab.FloodConfig{
			Destination: netip.AddrPortFrom(lab.ServerV4, 443), Packets: 4 * flooded, Rate: flooded,
		})
		done <- outcome{res, err}
	}()
	scr.until(`^SYNs answered +[\d.,]+ k/s|^SYNs answered +[1-9],\d+/s`)
	load(t, topo.Client, netip.AddrPortFrom(lab.ServerV4, 443), lab.LoadConfig{Connections: 40, Rate: 40})
	during := scr.text()
	t.Logf("under the flood:\n%s", during)
	o := <-done
	if o.err != nil {
		t.Fatal(o.err)
	}
	rate, of := `([\d.,]+) ?(k?)`, o.res.Rate()
	for what, pattern := range map[string]string{
		"all SYNs": `(?m)^SYNs answered +` + rate + `/s`, "the service": `(?m)^` + server + `:443 +` + rate + ` `,
	} {
		got := regexp.MustCompile(pattern).FindStringSubmatch(during)
		if got == nil {
			t.Errorf("no rate of %s", what)
			continue
		}
		if v := perSecond(t, got[1], got[2]); math.Abs(v-of) > of/4 {
			t.Errorf("%s: %.0f/s are shown of %.0f/s", what, v, of)
		}
	}
	if !regexp.MustCompile(`(?m)^SERVICE .*\n` + server + `:443 .*\n` + server + `:80 +0 `).MatchString(during) {
		t.Error("the service under attack is not the first, or the other has a rate")
	}
	if !regexp.MustCompile(`(?m)^good connections +[1-9]\d*(\.\d)?/s +.*[▁▂▃▄▅▆▇█]`).MatchString(during) {
		t.Error("good connections are not counted")
	}
	scr.until(`^SYNs answered +0/s(.*\n)+good connections +0/s(.*\n)+.*cookies: 40 valid, 0 invalid`)

	scr.press("s")
	scr.until(`sort: total`)
	scr.press("/:80\r")
	scr.until(`^filter: :80 `)
	if strings.Contains(scr.text(), server+":443") {
		t.Errorf("the filter leaves too much:\n%s", scr.text())
	}
	scr.press("\x1b")
	scr.until(server + `:443`)
	scr.press("?")
	scr.until(`Any key closes this help`)
	scr.press("?")
	scr.resize(40, 12)
	scr.until(`^SYNs answered +0/s$`)
	scr.until(`^` + server + `:443`)
	scr.resize(80, 24)
	scr.until(`every 500ms *$`)

	s.good("revert", "--now")
	scr.until(`^absent`)
	scr.until(`^Nothing is protected`)
	s.good(applying(server+":80", "--try", "60s")...)
	scr.until(`^active by .*  1 service  on trial: \d+s left`)
	s.good("confirm")
	scr.until(`^active by .*  1 service *$`)
	scr.press("q")
	scr.over()
}

// TestTopEnds ends the view in every way, without colour and in sizes of all kinds.
func TestTopEnds(t *testing.T) {
	s, _ := newCLI(t)
	s.good(applying(server + ":80")...)
	colour := regexp.MustCompile("\x1b\\[[0-9;]*m")
	for _, tt := range []struct {
		name          string
		width, height int
		env           string
		end           func(*screen)
		colour, ascii bool
	}{
		{"q", 80, 24, "X=1", func(scr *screen) { scr.press("q") }, true, false},
		{"escape", 200, 50, "NO_COLOR=1", func(scr *screen) { scr.press("\x1b") }, false, false},
		{"ctrl-c", 40, 10, "NO_COLOR=1", func(scr *screen) { scr.press("\x03") }, false, false},
		{"SIGINT", 80, 24, "LC_ALL=C", func(scr *screen) { scr.signal(syscall.SIGINT) }, true, true},
		{"SIGTERM", 80, 24, "TERM=vt100", func(scr *screen) { scr.signal(syscall.SIGTERM) }, false, true},
		{"SIGHUP", 20, 5, "NO_COLOR=1", func(scr *screen) { scr.signal(syscall.SIGHUP) }, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			scr := s.show(tt.width, tt.height, []string{tt.env}, "top", "--interval", "200ms")
			scr.until(`^active`)
			text := scr.text()
			if ascii := strings.IndexFunc(text, func(r rune) bool { return r > 0x7e }) < 0; tt.ascii && !ascii {
				t.Errorf("not ASCII:\n%s", text)
			}
			tt.end(scr)
			scr.over()
			if w := scr.written(); colour.MatchString(w) != tt.colour {
				t.Errorf("colour %v, want %v: %q", !tt.colour, tt.colour, w)
			}
		})
	}
	// A dead line takes no more bytes, and what is to be written to it would wait for ever.
	t.Run("stuck", func(t *testing.T) {
		s.t = t
		scr := s.show(80, 24, nil, "top", "--interval", "200ms")
		scr.until(`^active`)
		scr.mu.Lock() // the reader waits for it
		scr.stuff()
		scr.winsize(100, 24) // a new frame
		time.Sleep(300 * time.Millisecond)
		begin := time.Now()
		scr.signal(syscall.SIGTERM)
		_ = scr.cmd.Wait()
		if d, code := time.Since(begin), scr.cmd.ProcessState.ExitCode(); d > 4*time.Second || code != 0 {
			t.Errorf("exit %d after %v", code, d)
		}
		if after := scr.modes(); after != scr.before {
			t.Errorf("the modes of the terminal were %+v and are %+v", scr.before, after)
		}
		scr.mu.Unlock()
	})
}

// TestTopRefused is run where it cannot show anything.
func TestTopRefused(t *testing.T) {
	s, _ := newCLI(t)
	for _, args := range []string{"top", "top --json", "top --interval 10ms", "top --interval 2m", "top x"} {
		stdout, stderr, exit := s.synproxyctl("", line(args)...)
		if exit != badUsage || !strings.Contains(stdout+stderr, "hint") {
			t.Errorf("%s: exit %d: %s%s", args, exit, stdout, stderr)
		}
	}
	for _, tt := range []struct {
		env, says string
		exit      int
		prefix    []string
	}{
		{"TERM=dumb", "cannot move the cursor", badUsage, nil},
		{"TERM=", "cannot move the cursor", badUsage, nil},
		{"X=1", "not permitted", notPermitted, withCapabilities("net_raw")},
	} {
		s.prefix = tt.prefix
		scr := s.show(80, 24, []string{tt.env}, "top")
		_ = scr.cmd.Wait()
		if code := scr.cmd.ProcessState.ExitCode(); code != tt.exit {
			t.Errorf("%s: exit %d, want %d", tt.env, code, tt.exit)
		}
		scr.until(tt.says)
		if strings.Contains(scr.written(), "\x1b[?1049h") {
			t.Errorf("%s: the screen was cleared", tt.env)
		}
	}
}
