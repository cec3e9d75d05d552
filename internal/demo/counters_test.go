package demo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const netstat = `TcpExt: SyncookiesSent SyncookiesRecv ListenOverflows ListenDrops TCPReqQFullDoCookies TCPReqQFullDrop Another
TcpExt: 1 2 3 18446744073709551615 5 6 7
IpExt: InNoRoutes ListenDrops
IpExt: 8 9
`

func TestParseServerCounters(t *testing.T) {
	got, err := parseServerCounters(netstat)
	if err != nil {
		t.Fatal(err)
	}
	want := ServerCounters{
		CookiesSent: 1, CookiesReceived: 2, ListenOverflows: 3, ListenDrops: 1<<64 - 1, QueueFullCookies: 5, QueueFullDrops: 6,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseServerCountersFaults(t *testing.T) {
	for name, c := range map[string][2]string{
		"empty":             {netstat, ""},
		"a counter is gone": {"ListenDrops TCPReqQFullDoCookies", "Listen TCPReqQFullDoCookies"},
		"too few numbers":   {"6 7\n", "6\n"},
		"not a number":      {": 1 2 ", ": 1 x "},
		"negative":          {": 1 2 ", ": 1 -2 "},
		"no numbers":        {"TcpExt: 1 2 3 18446744073709551615 5 6 7\n", ""},
	} {
		text := strings.Replace(netstat, c[0], c[1], 1)
		if text == netstat {
			t.Fatalf("%s: the text is unchanged", name)
		}
		if got, err := parseServerCounters(text); err == nil {
			t.Errorf("%s: no error, but %+v", name, got)
		}
	}
}

func TestServerCountersSince(t *testing.T) {
	earlier := ServerCounters{1, 2, 3, 4, 5, 6}
	got := ServerCounters{11, 22, 33, 44, 55, 66}.since(earlier)
	if want := (ServerCounters{10, 20, 30, 40, 50, 60}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
