package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// relayBatch is how many frames a relay takes from one port before it looks at the clock again.
	relayBatch = 64
	// relayRetry is how long a relay waits when the kernel does not take a frame.
	relayRetry = 200 * time.Microsecond
)

// lane is one direction of a relay.
type lane struct {
	relay    *Relay
	in, out  int
	outgoing bool
	line     delayLine
	busy     time.Time // when to try again, if the kernel did not take the first frame
	cfg      *RelayConfig
	random   *rand.Rand // of cfg
}

// run forwards until Close. One thread does it all: it sleeps until a frame comes or one is due, whichever is
// first, and the kernel wakes it more exactly than the runtime wakes a goroutine.
func (r *Relay) run(lanes [2]*lane) error {
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20) // to be in time; a user may not, and does without
	fds := []unix.PollFd{{Fd: int32(r.wake), Events: unix.POLLIN}}
	for _, l := range lanes {
		fds = append(fds, unix.PollFd{Fd: int32(l.in), Events: unix.POLLIN})
	}
	for {
		var timeout *unix.Timespec
		now := time.Now()
		for _, l := range lanes {
			if wake, ok := l.send(now); ok {
				ts := unix.NsecToTimespec(max(0, time.Until(wake).Nanoseconds()))
				if timeout == nil || ts.Nano() < timeout.Nano() {
					timeout = &ts
				}
			}
		}
		if _, err := unix.Ppoll(fds, timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("relay: poll: %w", err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		for i, l := range lanes {
			if fds[i+1].Revents != 0 {
				l.take()
			}
		}
	}
}

// send puts what is due on the link, and returns when the next frame will be.
func (l *lane) send(now time.Time) (wake time.Time, ok bool) {
	if now.Before(l.busy) {
		return l.busy, true
	}
	for {
		frame, due, ok := l.line.first()
		if !ok || due.After(now) {
			return due, ok
		}
		_, err := unix.Write(l.out, frame)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS): // the other end is full: let it work
			l.busy = now.Add(relayRetry)
			return l.busy, true
		case err != nil:
			l.relay.overflowed.Add(1)
		default:
			l.relay.forwarded.Add(1)
		}
		if late := int64(now.Sub(due)); late > l.relay.latest.Load() {
			l.relay.latest.Store(late)
		}
		l.line.pop()
	}
}

// take reads what has come.
func (l *lane) take() {
	if cfg := l.relay.cfg.Load(); cfg != l.cfg {
		l.cfg = cfg
		stream := uint64(1)
		if l.outgoing {
			stream = 0
		}
		l.random = rand.New(rand.NewPCG(cfg.Seed, stream))
	}
	for range relayBatch {
		room := l.line.room(relayFrame)
		full := room == nil
		if full {
			room = make([]byte, relayFrame)
		}
		n, err := unix.Read(l.in, room)
		if err != nil {
			// Nothing there; or an interface that went down, or offloading of a kind that the header cannot
			// express, which cost a frame.
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				l.relay.overflowed.Add(1)
			}
			return
		}
		now := time.Now()
		switch {
		case full || n <= vnetHeader+etherHeader:
			l.relay.overflowed.Add(1)
		case l.cfg.Drop != nil && l.cfg.Drop(l.packet(room[vnetHeader:n], now)):
			l.relay.dropped.Add(1)
		case l.cfg.Loss > 0 && l.random.Float64() < l.cfg.Loss:
			l.relay.lost.Add(1)
		default:
			l.line.push(n, now.Add(l.cfg.Delay))
		}
	}
}

// packet presents a frame to a Drop function.
func (l *lane) packet(data []byte, now time.Time) Packet {
	p := Packet{Time: now, Outgoing: l.outgoing, Data: data}
	if s, err := ParseSegment(data[etherHeader:]); err == nil {
		p.Segment = &s
	}
	return p
}
