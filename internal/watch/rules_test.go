package watch

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

func finding(code, message string) protect.Finding {
	return protect.Finding{Severity: protect.Bad, Code: code, Message: message}
}

var (
	fine     = Look{State: protect.Active}
	missing  = Look{State: protect.Active, Findings: []protect.Finding{finding("rule-missing", "one"), finding("rule-missing", "two")}}
	blocked  = Look{State: protect.Active, Findings: []protect.Finding{finding("invalid-drop", "theirs")}}
	onTrial  = Look{State: protect.Active, OnTrial: true, Findings: missing.Findings}
	draining = Look{State: protect.Draining, Findings: []protect.Finding{finding("draining", "it drains"), finding("rule-missing", "one")}}
	absent   = Look{State: protect.Absent, Findings: []protect.Finding{finding("not-applied", "nothing is applied")}}
	busy     = Look{State: protect.Active, Busy: true, Findings: []protect.Finding{finding("busy", "at work")}}
	failing  = Look{Err: errors.New("no such file")}
)

func TestLooks(t *testing.T) {
	changing := func(n int) Look {
		return Look{State: protect.Active, Findings: []protect.Finding{finding("member-missing", fmt.Sprint(n))}}
	}
	for _, c := range []struct {
		name  string
		looks []Look
		mends string // by look: . nothing, ? look again, ! mend
		codes string
	}{
		{"fine", []Look{fine, fine}, "..", ""},
		{"seen once", []Look{fine, missing, fine, missing, fine}, ".?.?.", ""},
		{"seen twice", []Look{fine, missing, missing, fine}, ".?!.", "rule-missing mended"},
		{"at the start", []Look{missing, missing, fine}, "?!.", "rule-missing mended"},
		{"in other words each time", []Look{changing(1), changing(2), changing(3)}, "?!?", "member-missing mended"},
		{"not ours to mend", []Look{blocked, blocked, blocked, fine}, "?...", "invalid-drop invalid-drop"},
		{"on trial", []Look{onTrial, onTrial, onTrial}, "?..", "on-trial rule-missing"},
		{"draining", []Look{fine, draining, draining, draining}, ".?..", "draining rule-missing"},
		{"reverted", []Look{fine, absent, absent, fine}, "....", "not-applied applied"},
		{"busy", []Look{fine, missing, busy, missing, fine}, ".?.!.", "rule-missing mended"},
		{"cannot look", []Look{fine, failing, failing, fine}, "....", "look-failed look-works"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Rules{Mend: true}
			now := time.Unix(1e9, 0)
			var did strings.Builder
			var events []Event
			for _, l := range c.looks {
				now = now.Add(time.Minute)
				v := r.Seen(now, l)
				events = append(events, v.Events...)
				switch {
				case v.Mend:
					did.WriteByte('!')
					events = append(events, r.Mended(now, 2, "nftables", nil)...)
				case v.Again:
					did.WriteByte('?')
				default:
					did.WriteByte('.')
				}
			}
			var codes []string
			for _, e := range events {
				codes = append(codes, e.Code)
			}
			if did.String() != c.mends || strings.Join(codes, " ") != c.codes {
				t.Errorf("did %s, told %v; want %s, %s", &did, codes, c.mends, c.codes)
			}
		})
	}
}

// TestFight undoes for a day what was mended, or lets each mend fail.
func TestFight(t *testing.T) {
	for _, failure := range []error{nil, errors.New("the kernel says no")} {
		r := Rules{Mend: true}
		mends, lines := 0, 0
		begin := time.Unix(1e9, 0)
		now := begin
		for ; now.Sub(begin) < 24*time.Hour; now = now.Add(30 * time.Second) {
			v := r.Seen(now, missing)
			lines += len(v.Events)
			if v.Mend {
				mends++
				lines += len(r.Mended(now, 2, "nftables", failure))
			}
		}
		if mends < 24 || mends > 35 {
			t.Errorf("%v: %d mends in a day", failure, mends)
		}
		if lines > 4*mends {
			t.Errorf("%v: %d lines", failure, lines)
		}
		// It ends, and all is as it was a while later.
		for range 3 * 60 {
			r.Seen(now, fine)
			now = now.Add(time.Minute)
		}
		if len(r.Open()) != 0 {
			t.Errorf("open: %v", r.Open())
		}
		r.Seen(now, missing)
		if v := r.Seen(now, missing); !v.Mend || r.Temper.Made(now) != 0 {
			t.Error("not calm again")
		}
	}
}

// A person who was faster makes no line, and no attempt.
func TestMendedByNobody(t *testing.T) {
	r := Rules{Mend: true}
	now := time.Unix(1e9, 0)
	for range 10 {
		for _, err := range []error{protect.Errorf(protect.NotApplied, "", "on trial"), protect.Errorf(protect.Conflict, "", "%w", protect.ErrBusy)} {
			if e := r.Mended(now, 0, "", err); e != nil {
				t.Errorf("told %v", e)
			}
		}
	}
	if !r.Temper.May(now) {
		t.Error("it waits")
	}
}
