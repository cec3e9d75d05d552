package lab

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

// TestDelayLine holds the line against a plain list, through wrap-arounds and when it is full.
func TestDelayLine(t *testing.T) {
	const most = 100
	random := rand.New(rand.NewPCG(1, 1))
	line := &delayLine{block: make([]byte, 1000)}
	var want [][]byte
	var full, wrapped int
	begin := time.Now()
	for step := range 100_000 {
		if random.IntN(1000) < 500+step%300-150 { // now it fills, now it drains
			room := line.room(most)
			if room == nil {
				full++
				if held := len(bytes.Join(want, nil)); held < len(line.block)-3*most {
					t.Fatalf("step %d: full with %d bytes", step, held)
				}
				continue
			}
			if line.head < len(line.frames) && line.written < line.frames[line.head].start {
				wrapped++
			}
			frame := make([]byte, 1+random.IntN(most))
			for i := range frame {
				frame[i] = byte(random.Uint32())
			}
			copy(room, frame)
			if random.IntN(10) == 0 {
				continue // lost: never pushed
			}
			line.push(len(frame), begin.Add(time.Duration(step)))
			want = append(want, frame)
			continue
		}
		frame, _, ok := line.first()
		if ok != (len(want) > 0) {
			t.Fatalf("step %d: first is %t with %d frames", step, ok, len(want))
		}
		if !ok {
			continue
		}
		if !bytes.Equal(frame, want[0]) {
			t.Fatalf("step %d: got % x, want % x", step, frame, want[0])
		}
		line.pop()
		want = want[1:]
	}
	if full == 0 || wrapped == 0 {
		t.Errorf("full %d times, wrapped %d times: the test did not get there", full, wrapped)
	}
}

func TestDelayLineKeepsOrder(t *testing.T) {
	line := &delayLine{block: make([]byte, 100)}
	now := time.Now()
	for i, delay := range []time.Duration{3, 1, 5} {
		line.room(10)[0] = byte(i)
		line.push(1, now.Add(delay))
	}
	for i, delay := range []time.Duration{3, 3, 5} {
		frame, due, ok := line.first()
		if !ok || frame[0] != byte(i) || !due.Equal(now.Add(delay)) {
			t.Errorf("frame %d: % x due at %d, %t, want %d", i, frame, due.Sub(now), ok, delay)
		}
		line.pop()
	}
}
