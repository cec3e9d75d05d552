package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// many returns n services that are all alike.
func many(n int) []protect.Service {
	mss := uint16(1460)
	services := make([]protect.Service, n)
	for i := range services {
		at := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		services[i] = protect.Service{Source: protect.Given, Service: rules.Service{
			Destination: netip.PrefixFrom(at, 32), Port: 443, Hook: rules.Forward, Mode: rules.ModeTracked, Options: rules.Options{MSS: &mss},
		}}
	}
	return services
}

// Thousands of services fit on a screen, unless they are asked for.
func TestWriteServices(t *testing.T) {
	t.Parallel()
	services := many(10000)
	services[7].Hook = rules.Input
	services[9].To = netip.MustParseAddrPort("192.0.2.1:80")
	text := func(services []protect.Service, all bool) string {
		var b strings.Builder
		writeServices(&b, services, all)
		return b.String()
	}
	want := `SERVICE                     HOOK     MODE                     INTERFACES  FIRST    MSS   WSCALE  SACK  TS  SOURCE
10.0.0.0:443 and 9997 more  forward  tracked                  all but lo  unknown  1460  -       no    no  given
10.0.0.7:443                input    tracked                  all but lo  unknown  1460  -       no    no  given
10.0.0.9:443                forward  tracked to 192.0.2.1:80  all but lo  unknown  1460  -       no    no  given
10000 services; --all lists them
`
	if diff := cmp.Diff(want, text(services, false)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if n := strings.Count(text(services, true), "\n"); n != len(services)+1 {
		t.Errorf("%d lines of all %d services", n, len(services))
	}
	few := services[:manyServices]
	if text(few, false) != text(few, true) {
		t.Error("a few services are not all shown")
	}
	for i := range services {
		mss := uint16(500 + i)
		services[i].Options.MSS = &mss
	}
	got := text(services, false)
	if n := strings.Count(got, "\n"); n != manyServices+3 || !strings.Contains(got, "and 9960 services more, unlike these\n") {
		t.Errorf("%d lines:\n%s", n, got)
	}
}

func TestManyChanges(t *testing.T) {
	t.Parallel()
	a := &protect.Applied{DryRun: true, Changed: true, Changes: make([]protect.Change, 1000)}
	for diff, want := range map[bool]int{false: manyChanges + 3, true: 1002} {
		var b strings.Builder
		writeApplied(&b, false, a, diff, false)
		if n := strings.Count(b.String(), "\n"); n != want {
			t.Errorf("--diff=%t: %d lines, want %d", diff, n, want)
		}
	}
}

// What is written piece by piece is what the package json would write at once.
func TestStream(t *testing.T) {
	t.Parallel()
	findings := []protect.Finding{{Severity: protect.Bad, Code: "x", Message: "a & b"}, {}}
	for i, value := range []any{
		&protect.Applied{},
		&protect.Applied{Changed: true, Services: many(3), Changes: make([]protect.Change, 2), Findings: findings, Pending: &protect.Pending{}},
		&protect.Status{Services: many(2), Findings: findings},
		protect.Status{},
		&protect.Diagnosis{Services: many(1)},
		&protect.Verified{Findings: findings, Proofs: []protect.Proof{{}}},
		&protect.Reverted{}, &protect.Confirmed{Services: many(1)},
		struct {
			protect.Reverted
			More []protect.Finding `json:"more"`
		}{More: findings},
		struct {
			A []struct{ B int } `json:"a,omitempty"`
			C string            `json:"-"`
			D []byte
			E map[string]int `json:",omitempty"`
			f []protect.Finding
		}{C: "hidden", D: []byte("x"), f: findings},
		struct{}{},
		json.RawMessage(`{"x":[1]}`),
	} {
		var got, want strings.Builder
		if err := writeJSON(&got, "x", value, nil); err != nil {
			t.Fatal(err)
		}
		text, err := inside(value)
		if err != nil {
			t.Fatal(err)
		}
		if want.WriteString(`{"schema":1,"command":"x"`); len(text) > 0 {
			fmt.Fprintf(&want, ",%s", text)
		}
		want.WriteString("}\n")
		if diff := cmp.Diff(want.String(), got.String()); diff != "" {
			t.Errorf("%d (-want +got):\n%s", i, diff)
		}
	}
	full := errors.New("full")
	for n := range 6 {
		w := &limited{left: n, err: full}
		if err := writeJSON(w, "x", &protect.Status{Services: many(2)}, nil); n < 5 && !errors.Is(err, full) {
			t.Errorf("after %d writes: %v", n, err)
		}
	}
}

// limited fails after some writes.
type limited struct {
	left int
	err  error
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left--; l.left < 0 {
		return 0, l.err
	}
	return len(b), nil
}
