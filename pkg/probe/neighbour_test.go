package probe

import (
	"net/netip"
	"testing"
)

func TestTableFulls(t *testing.T) {
	const head = "entries  allocs   forced_gc_runs unresolved_discards table_fulls\n"
	for text, want := range map[string]int{
		"":   0,
		head: 0,
		head + "00000058 0000856e 00000000 00000000 0000000a\n00000058 00008123 00000000 00000000 00000005\n": 15,
		head + "00000058 0000856e 00000000 00000000\n":                                                        0,
		head + "00000058 0000856e 00000000 00000000 xyz\n":                                                    0,
		"entries allocs\n00000001 00000002\n":                                                                 0,
		head + "00000058 0000856e 00000000 00000000 00000001\n\n0 0 0 0 1\n":                                  1,
	} {
		if got := tableFulls(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestOverflowIsTold(t *testing.T) {
	r := asking(netip.AddrPortFrom(server4, 80))
	r.settle(0, nil)
	r.results = make([]Result, 1)
	r.overflowed = true
	r.conclude()
	if notes := r.results[0].Notes; r.results[0].Verdict != NoReply || len(notes) != 1 {
		t.Errorf("%s with the notes %q", r.results[0].Verdict, notes)
	}
}
