package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain text, 1 < 2": "plain text, 1 < 2", "größer": "größer", "a\nb": "a;b", "a\tb\rc": "a?b?c",
		"\x1b[31mred\x1b[0m": "?[31mred?[0m", "\x7f\x00": "??", "\u009b31m": "?31m", "\xff": "\ufffd",
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// numbers is a result with a list.
type numbers struct {
	Numbers []number `json:"numbers"`
}

type number struct {
	N float64 `json:"n"`
}

func list(values ...float64) numbers {
	n := numbers{[]number{}}
	for _, v := range values {
		n.Numbers = append(n.Numbers, number{v})
	}
	return n
}

func TestWriteJSON(t *testing.T) {
	t.Parallel()
	type result struct {
		Changed bool     `json:"changed"`
		Rules   []string `json:"rules"`
	}
	fault := protect.Errorf(protect.Conflict, "wait", "held by <%s>", "\x1b")
	for _, tt := range []struct {
		name    string
		command string
		result  any
		failure error
		want    string
	}{
		{"nothing", "", nil, nil, `{"schema":1,"command":""}`},
		{"a result", "apply", result{true, []string{"-m <&>"}}, nil, `{"schema":1,"command":"apply","changed":true,"rules":["-m <&>"]}`},
		{"an empty result", "demo", struct{}{}, nil, `{"schema":1,"command":"demo"}`},
		{"an error", "apply", nil, fault, `{"schema":1,"command":"apply","error":{"code":"conflict","message":"held by <\u001b>","hint":"wait"}}`},
		{"both", "revert", &result{}, fault, `{"schema":1,"command":"revert","changed":false,"rules":null,"error":{"code":"conflict","message":"held by <\u001b>","hint":"wait"}}`},
		{"a list", "probe", list(1, 2), nil, `{"schema":1,"command":"probe","numbers":[{"n":1},{"n":2}]}`},
		{"an empty list", "probe", list(), nil, `{"schema":1,"command":"probe","numbers":[]}`},
		{"a list and an error", "probe", list(math.MaxInt8), fault, `{"schema":1,"command":"probe","numbers":[{"n":127}],"error":{"code":"conflict","message":"held by <\u001b>","hint":"wait"}}`},
		{"any error", "x", nil, errors.New("boom"), `{"schema":1,"command":"x","error":{"code":"failed","message":"boom","hint":"` + protect.HintOf(errors.New("boom")) + `"}}`},
	} {
		var b strings.Builder
		if err := writeJSON(&b, tt.command, tt.result, tt.failure); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want+"\n", b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if err := writeJSON(&strings.Builder{}, "x", struct{ F float64 }{math.Inf(1)}, nil); err == nil {
		t.Error("what JSON cannot say was written")
	}
	if err := writeJSON(&strings.Builder{}, "x", list(1, math.Inf(1)), nil); err == nil {
		t.Error("what JSON cannot say was written in a list")
	}
	if err := writeJSON(fullDisk{}, "x", list(1), nil); err == nil {
		t.Error("nothing could be written, and nobody says so")
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestTable(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	table(&b, []string{"NAME", "A", "LAST"}, []string{"größer", "", "x"}, []string{"n", "long", ""})
	if diff := cmp.Diff("NAME    A     LAST\ngrößer        x\nn       long  \n", b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWriteError(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	writeError(&b, protect.Errorf(protect.Usage, "write it\x1b", "%w", errors.Join(errors.New("one\x1b[2J"), fmt.Errorf("two\nhint: forged"))))
	want := "synproxyctl: one?[2J\n" + "             two\n" + "             hint: forged\n" + "hint: write it?\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEveryCodeHasAnExitStatus(t *testing.T) {
	t.Parallel()
	for _, code := range []protect.Code{
		protect.Failed, protect.Usage, protect.No, protect.Permission, protect.Unsupported, protect.Conflict, protect.Stuck, protect.Interrupted, protect.NotApplied,
	} {
		if exitStatus[code] == 0 {
			t.Errorf("%s: no exit status", code)
		}
	}
}

func TestWriteWrapped(t *testing.T) {
	t.Parallel()
	word := strings.Repeat("x", 20)
	for _, tt := range []struct {
		text   string
		indent int
		want   string
	}{
		{"", 4, "\n"},
		{"a  b\nc", 0, "a b c\n"},
		{strings.Repeat(word+" ", 4), 0, word + " " + word + " " + word + "\n" + word + "\n"},
		{strings.Repeat(word+" ", 3), 17, word + " " + word + " " + word + "\n"}, // just 80 columns wide
		{strings.Repeat(word+" ", 3), 18 + 1, word + " " + word + "\n" + strings.Repeat(" ", 19) + word + "\n"},
		{strings.Repeat("y", 100), 2, strings.Repeat("y", 100) + "\n"},
	} {
		var b strings.Builder
		writeWrapped(&b, tt.text, tt.indent)
		if diff := cmp.Diff(tt.want, b.String()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.text, diff)
		}
	}
}
