package lab

import "time"

// delayLine is a queue of frames that wait for their time, first in, first out, in one block of memory. The block
// bounds it, and is touched no further than it was ever filled.
type delayLine struct {
	block   []byte
	frames  []delayed // from head on
	head    int
	written int // where the next frame goes
}

// delayed is one frame of a delay line.
type delayed struct {
	start, size int
	due         time.Time
}

// room returns where to put the next frame, of at most size bytes, or nil when the line is full. What is put there
// counts after push only.
func (d *delayLine) room(size int) []byte {
	if d.head == len(d.frames) { // empty
		d.frames, d.head, d.written = d.frames[:0], 0, 0
	}
	end := len(d.block)
	if d.head < len(d.frames) {
		if oldest := d.frames[d.head].start; oldest >= d.written { // the frames wrap around the block's end
			end = oldest
		} else if end-d.written < size && oldest >= size {
			d.written, end = 0, oldest
		}
	}
	if end-d.written < size {
		return nil
	}
	return d.block[d.written : d.written+size]
}

// push adds the frame of size bytes that was put where room said. A frame never overtakes another: when the delay
// has become shorter, it leaves together with the one before it.
func (d *delayLine) push(size int, due time.Time) {
	if n := len(d.frames); n > d.head && due.Before(d.frames[n-1].due) {
		due = d.frames[n-1].due
	}
	if d.head > 1024 && d.head > len(d.frames)/2 {
		d.frames, d.head = d.frames[:copy(d.frames, d.frames[d.head:])], 0
	}
	d.frames = append(d.frames, delayed{start: d.written, size: size, due: due})
	d.written += size
}

// first returns the oldest frame and when it is due; ok is false when there is none.
func (d *delayLine) first() (frame []byte, due time.Time, ok bool) {
	if d.head == len(d.frames) {
		return nil, time.Time{}, false
	}
	f := d.frames[d.head]
	return d.block[f.start : f.start+f.size], f.due, true
}

// pop removes the oldest frame.
func (d *delayLine) pop() { d.head++ }
