package main

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

const procStat = `cpu  100 0 200 300 0 0 50 0 0 0
cpu0 50 0 100 150 0 0 20 0 0 0
cpu1 50 0 100 150 0 0 30 0 0 0
intr 1 2 3
`

func TestSoftirqTime(t *testing.T) {
	if got, err := softirqTime([]byte(procStat)); err != nil || got != 300*time.Millisecond {
		t.Errorf("got %v, %v", got, err)
	}
	for name, text := range map[string]string{"another CPU": procStat[:60], "nothing": "", "no number": "cpu1 1 2 3 4 5 6 x 8\n"} {
		if _, err := softirqTime([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

const softnetStat = `0000aaaa 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
0000bbbb 000000ff 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000007 00000000 00000010 00000001 00000010 00000000
`

func TestSoftnet(t *testing.T) {
	if dropped, backlog, err := softnet([]byte(softnetStat)); err != nil || dropped != 255 || backlog != 16 {
		t.Errorf("got %d dropped, %d waiting, %v", dropped, backlog, err)
	}
	for name, text := range map[string]string{"another CPU": softnetStat[:130], "nothing": "", "an old kernel": "1 2 3\n"} {
		if _, _, err := softnet([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCountersSince(t *testing.T) {
	got := counters{received: 10, answers: 7, dropped: 3, others: 1, softirq: 5}.since(counters{received: 1, answers: 2, dropped: 1, softirq: 2})
	if want := (counters{received: 9, answers: 5, dropped: 2, others: 1, softirq: 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-only", "syn,apply", "-sizes", "1000,1,1000", "-reps", "7", "-contenders", "none,stock nft"}, io.Discard)
	if err != nil || len(o.only) != 2 || len(o.sizes) != 2 || o.sizes[1] != 1000 || o.reps != 7 {
		t.Errorf("got %+v, %v", o, err)
	}
	if !o.wants("none") || !o.wants("stock nft") || o.wants("stock iptables-nft") || o.wants("FireHOL") {
		t.Errorf("contenders %q", o.contenders)
	}
	if o, err := parseOptions([]string{"-short", "-reps", "2"}, io.Discard); err != nil || o.reps != 2 || o.sizes[len(o.sizes)-1] > 100 {
		t.Errorf("short: %+v, %v", o, err)
	}
	for _, args := range []string{
		"-only nothing", "-sizes 0", "-sizes 1,x", "-sizes 100001", "-sizes ,", "-reps 0", "-reps 1000", "argument", "-unknown", "-probe-sizes -1", "-storm 1ms", "-storm 2m",
	} {
		if _, err := parseOptions(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%s: accepted", args)
		}
	}
}

func TestChosen(t *testing.T) {
	o := options{contenders: []string{"none", "FireHOL", "stock"}}
	for size, want := range map[int]int{1: 5, 1_000: 5, 10_000: 4, 100_000: 1} {
		if got := len(o.chosen(size)); got != want {
			t.Errorf("%d services: %d contenders, want %d", size, got, want)
		}
	}
}

func TestServicesAreInTheirPrefix(t *testing.T) {
	if got := service(0); got != servicesPrefix.Addr() {
		t.Errorf("the first is %s", got)
	}
	if last := service(maxServices); !servicesPrefix.Contains(last) || last.String() != "10.81.134.160" {
		t.Errorf("the last is %s", last)
	}
	s := site{size: 3}
	if got := s.oneLess(); len(got) != 2 || got[0] != 0 || got[1] != 1 {
		t.Errorf("one less: %v", got)
	}
}

// TestFireholConfig keeps the configuration in the words of the manual.
func TestFireholConfig(t *testing.T) {
	s := site{port: 80}
	const want = "version 6\nsynproxy4 forward inface any dst 10.80.0.1 dport 80 accept\n" +
		"interface any local\n\tpolicy accept\nrouter routed inface any outface any\n\tpolicy accept\n"
	if got := s.fireholConfig([]int{1}); got != want {
		t.Errorf("got %q", got)
	}
}

// TestTimer runs a command whose cost is known.
func TestTimer(t *testing.T) {
	if os.Getenv("PATH") == "" {
		t.Fatal("no PATH")
	}
	var out strings.Builder
	if err := timer([]string{"sh", "-c", "sleep 0.05; echo said; exit 3"}, &out); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, `"Exit":3`) || !strings.Contains(s, `"Output":"said"`) || strings.Contains(s, `"Memory":0,`) {
		t.Errorf("got %s", s)
	}
	if err := timer([]string{"/nonexistent"}, &out); err == nil {
		t.Error("a program that is not there: accepted")
	}
}
