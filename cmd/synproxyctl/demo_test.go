package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/synproxyctl/synproxyctl/internal/demo"
	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// wideReport has figures as wide as they get on a big, slow machine.
func wideReport(cookiesLost int) *demo.Report {
	run := func(served int) *demo.Measurement {
		return &demo.Measurement{
			Connections: 100, Served: served, Lost: 100 - served, SYNs: 325_000, SYNRate: 50_000, SYNQueue: 1023,
			Latency:   demo.Latency{P50: 1_234_567, P99: 2_999_999, Max: 2_999_999},
			Conntrack: demo.Conntrack{Peak: 325_100, Max: 325_100},
			Server:    demo.ServerCounters{ListenDrops: 325_000},
			SYNPROXY:  &kernel.SynproxyStats{SYNReceived: 325_100, CookieValid: 100},
		}
	}
	direct := run(100)
	direct.Conntrack.Peak = 100
	return &demo.Report{
		Holds: true, Direct: direct, Cookies: run(100 - cookiesLost), Unprotected: run(1), Protected: run(100),
		Flood: demo.Flood{Target: "10.77.2.2:80", Packets: 325_000, Rate: 50_000}, Load: demo.Load{TimeoutMillis: 3000, Backlog: 511},
		Tool: demo.Tool{
			Probe:  demo.Probe{IPTables: "--sack-perm --timestamp --mss 1460 --wscale 14"},
			Apply:  demo.Apply{Backend: "iptables-legacy", Rules: 11, Sysctls: 1, Verified: true},
			Revert: demo.Revert{State: "absent"},
		},
		Left: demo.Left{Rules: 10, Settings: 1234},
	}
}

func TestDemoFitsATerminal(t *testing.T) {
	const columns = 79 // in the last one, some terminals begin a new line
	for lost := range 2 {
		r := wideReport(lost)
		var b bytes.Buffer
		writeScene(&b, r)
		s := show{w: &b}
		for i, step := range []demo.Step{
			demo.Direct, demo.Cookies, demo.Unprotected, demo.Probing, demo.Applying, demo.Protected, demo.Reverting, demo.Proving,
		} {
			s.event(demo.Event{Step: step, Number: i + 1, Total: 8, Done: true, Report: r})
		}
		writeDemo(&b, false, r)
		for line := range strings.Lines(b.String()) {
			if line = strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(line) > columns {
				t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
			}
			if strings.TrimRight(line, " ") != line {
				t.Errorf("blanks at the end of %q", line)
			}
		}
	}
}

func TestDemoSaysWhatWasMeasured(t *testing.T) {
	for lost, want := range map[int][]string{
		0: {"100 of 100", "1 of 100", "325,100 (full)", "withstands this flood", "nothing left", "3000.0 ms"},
		1: {"loses connections too", "99 of 100 served"},
	} {
		var b bytes.Buffer
		writeDemo(&b, false, wideReport(lost))
		for _, w := range want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("no %q in\n%s", w, b.String())
			}
		}
	}
	bad := wideReport(0)
	bad.Holds, bad.Direct.Served, bad.Direct.SYNs, bad.Direct.SYNPROXY = false, 0, 0, nil
	var b bytes.Buffer
	writeDemo(&b, true, bad)
	if strings.Contains(b.String(), "done") {
		t.Errorf("a story that does not hold is done:\n%s", b.String())
	}
	if !strings.Contains(b.String(), "\x1b[31m             1 of 100\x1b[0m") {
		t.Errorf("lost connections are not red:\n%q", b.String())
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 262144: "262,144", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestRelayed(t *testing.T) {
	for _, status := range []int{0, 1, 5, 130} {
		a, err := relayed(status)
		if err != nil || a.relayed == nil || *a.relayed != status {
			t.Errorf("status %d: got %v, %v", status, a, err)
		}
	}
	if a, err := relayed(137); a != nil || err == nil || exitStatus[protect.CodeOf(err)] != 1 || !strings.Contains(err.Error(), "signal 9") {
		t.Errorf("killed: got %v, %v", a, err)
	}
}

func TestDemoFault(t *testing.T) {
	for want, err := range map[protect.Code]error{
		protect.Unsupported: &demo.ToolError{Command: "apply", Code: "unsupported", Message: "no program", Next: "install it"},
		protect.Failed:      errors.New("unknown"),
	} {
		got := demoFault(err)
		if protect.CodeOf(got) != want || protect.HintOf(got) == "" || !strings.HasPrefix(got.Error(), "demo: ") {
			t.Errorf("%v: got %v (%s), hint %q", err, got, protect.CodeOf(got), protect.HintOf(got))
		}
	}
}
