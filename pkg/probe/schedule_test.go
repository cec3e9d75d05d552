package probe

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPacer(t *testing.T) {
	const ms = time.Millisecond
	p := pacer{interval: ms, next: 1}
	for _, tt := range []struct {
		now       time.Duration
		due, sent int
	}{
		{1, 1, 1},
		{1, 0, 0},
		{10*ms + 1, 10, 4},
		{10*ms + 1, 6, 6},
		{time.Second + 1, 101, 101}, // not the 990 that were missed
		{time.Second + 1, 0, 0},
	} {
		if got := p.due(tt.now); got != tt.due {
			t.Errorf("at %v: %d due, want %d", tt.now, got, tt.due)
		}
		p.sent(tt.sent)
	}
	slow := pacer{interval: time.Second, next: 1}
	slow.due(1)
	slow.sent(1)
	if got := slow.due(time.Second - ms); got != 0 {
		t.Errorf("one a second: %d due too early", got)
	}
	if got := slow.due(time.Second + 700*ms); got != 1 {
		t.Errorf("one a second: %d due after 1.7 s, want 1", got)
	}
}

func TestDefaultRate(t *testing.T) {
	for segments, want := range map[int]int{0: 500, 4: 500, 1500: 500, 4000: 1333, 40_000: 13_333, 400_000: 15_000} {
		if got := defaultRate(segments); got != want {
			t.Errorf("%d segments: %d a second, want %d", segments, got, want)
		}
	}
}

func TestFifo(t *testing.T) {
	var q fifo
	next := 0
	for i := range 10_000 {
		q.push(i, time.Duration(i))
		if i%10 == 9 {
			continue
		}
		if w := q.pop(); w.flight != next || w.since != time.Duration(next) {
			t.Fatalf("got %+v, want %d", w, next)
		}
		next++
	}
	for ; !q.empty(); next++ {
		if w := q.first(); w.flight != next || q.pop() != w {
			t.Fatalf("got %+v, want %d", w, next)
		}
	}
	if next != 10_000 || len(q.items) > 5_000 {
		t.Errorf("%d items came out, and memory for %d is held", next, len(q.items))
	}
}

// TestSchedule drives the queues without sockets: a lost sample is asked again after half of the timeout, before new ones, and
// given up after the whole.
func TestSchedule(t *testing.T) {
	const ms = time.Millisecond
	r := asking(netip.AddrPortFrom(server4, 80))
	r.cfg.Count, r.rounds = 2, 3
	r.all[0].open = 2
	r.flights = make([]flight, 3)
	send := func(now time.Duration) (sent []int) {
		for {
			index, queue, ok := r.pick(now)
			if !ok {
				return sent
			}
			queue.push(index, now)
			sent = append(sent, index)
		}
	}
	var verdicts []string
	for _, now := range []time.Duration{1, 499 * ms, 501 * ms, 900 * ms, 1002 * ms} {
		if now == 900*ms {
			r.settle(1, r.shared(answer{verdict: Refused}))
		}
		r.expire(now)
		sent := send(now)
		if diff := cmp.Diff(map[time.Duration][]int{1: {0, 1}, 501 * ms: {0, 1}}[now], sent); diff != "" {
			t.Errorf("after %v (-want +sent):\n%s", now, diff)
		}
		verdicts = append(verdicts, string(r.flights[0].verdict()+" "+r.flights[1].verdict()))
	}
	if diff := cmp.Diff([]string{" ", " ", " ", " refused", "no-reply refused"}, verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if !r.idle() {
		t.Error("something is still waited for")
	}
}

func TestSleep(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name    string
		prepare func(r *run)
		want    time.Duration
	}{
		{"more to send", func(r *run) { r.round = 0 }, 10 * ms},
		{"all on their way", func(r *run) { r.once.push(0, 100*ms) }, 500 * ms},
		{"due to be sent again, but not at this rate", func(r *run) { r.once.push(0, -500*ms) }, 10 * ms},
		{"sent twice", func(r *run) { r.twice.push(0, 50*ms) }, 450 * ms},
		{"a repetition", func(r *run) { r.repeats.push(1, 130*ms) }, 30 * ms},
		{"expiry comes first", func(r *run) { r.round = 0; r.twice.push(0, -400*ms) }, 0},
	} {
		r := asking(netip.AddrPortFrom(server4, 80))
		r.round, r.pacer.next = 1, 110*ms
		tt.prepare(r)
		if got := r.sleep(100 * ms); got != tt.want {
			t.Errorf("%s: sleeps %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestEqualAnswersAreShared(t *testing.T) {
	r := run{answers: map[shape]*answer{}}
	value := func(n uint16) answer {
		return answer{verdict: Direct, options: Options{MSS: &n}, window: 9, problems: []string{"x"}}
	}
	if first := r.shared(value(1460)); r.shared(value(1460)) != first {
		t.Error("equal answers are kept twice")
	}
	if got := r.shared(value(1400)); *got.options.MSS != 1400 || r.shared(answer{verdict: Direct}) == got {
		t.Error("different answers are taken for one")
	}
}

// TestNothingIsGivenUpUnread has an answer waiting in the channel while its sample expires, as after a pause of the program.
func TestNothingIsGivenUpUnread(t *testing.T) {
	const ms = time.Millisecond
	r := asking(netip.AddrPortFrom(server4, 80))
	r.round = 1
	arrivals := make(chan []arrival, 1)
	r.arrivals = arrivals
	r.twice.push(0, 500*ms)
	arrivals <- nil
	if r.expire(1100 * ms); r.flights[0].done {
		t.Error("given up before the answers were looked at")
	}
	if got := r.sleep(1100 * ms); got != relief {
		t.Errorf("sleeps %v, want %v", got, relief)
	}
	if r.expire(1500 * ms); r.flights[0].verdict() != NoReply {
		t.Error("never given up, as long as something comes")
	}
}
