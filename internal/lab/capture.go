package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// captureBuffer is asked for as the socket's buffer, in bytes. An unprivileged user gets less.
	captureBuffer = 32 << 20
	// snapshot is the longest frame that a capture keeps, in bytes: a whole offloaded segment.
	snapshot = 64<<10 + etherHeader + ipv6Header
	// unusedProtocol is an EtherType for local experiments (IEEE 802) that no host of a lab speaks.
	unusedProtocol = 0x88b5
)

// Packet is a copy of one frame that passed an interface.
type Packet struct {
	// Time is when the kernel saw it.
	Time time.Time
	// Outgoing tells that the host sent it.
	Outgoing bool
	// Data begins with the Ethernet header.
	Data []byte
	// Segment is the parsed TCP segment, or nil for anything else. Segments that the kernel left to be cut by the
	// hardware appear whole, larger than the MTU.
	Segment *Segment
}

// Filter says whether a [Capture] keeps a packet.
type Filter func(Packet) bool

// TCPPort keeps TCP segments from or to a port.
func TCPPort(port uint16) Filter {
	return func(p Packet) bool {
		return p.Segment != nil && (p.Segment.Source.Port() == port || p.Segment.Destination.Port() == port)
	}
}

// Capture copies the packets that pass an interface, until it is closed. It is not made for floods: it says so
// when it lost something.
type Capture struct {
	host    *Host
	index   int
	file    *os.File
	raw     syscall.RawConn
	filters []Filter
	done    chan struct{}
	// stopping makes the reader look at its deadline even when packets never cease.
	stopping atomic.Bool

	mu      sync.Mutex
	packets []Packet
	grown   chan struct{} // closed and replaced when packets grows
	closed  bool
	err     error
}

// Capture begins to copy packets in both directions on an interface of a link of the host, if all filters want
// them. It has begun when Capture returns.
func (h *Host) Capture(iface string, filters ...Filter) (*Capture, error) {
	p, err := h.port(iface)
	if err != nil {
		return nil, err
	}
	fd, err := h.openPacket(p.index, unix.ETH_P_ALL, func(fd int) error {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
			// Only the machine's own root may force it; the rest get net.core.rmem_max.
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer); err != nil {
				return err
			}
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: capture on %s: %w", h.name, iface, err)
	}
	c := &Capture{
		host: h, index: p.index, file: os.NewFile(uintptr(fd), "capture"), filters: filters,
		done: make(chan struct{}), grown: make(chan struct{}),
	}
	if c.raw, err = c.file.SyscallConn(); err == nil {
		err = h.own(c)
	}
	if err != nil {
		c.file.Close()
		return nil, fmt.Errorf("host %s: capture on %s: %w", h.name, iface, err)
	}
	go c.read()
	return c, nil
}

// Packets returns what was captured so far, in order.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packets)
}

// Wait returns the first captured packet that match accepts, waiting for it until ctx ends or the capture is
// closed.
func (c *Capture) Wait(ctx context.Context, match Filter) (Packet, error) {
	for seen := 0; ; {
		c.mu.Lock()
		packets, grown, closed := c.packets, c.grown, c.closed
		c.mu.Unlock()
		for ; seen < len(packets); seen++ {
			if match(packets[seen]) {
				return packets[seen], nil
			}
		}
		if closed {
			return Packet{}, fmt.Errorf("capture: %d packets, not the awaited one: %w", seen, errClosed)
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return Packet{}, fmt.Errorf("capture: %d packets, not the awaited one: %w", seen, ctx.Err())
		}
	}
}

// Stop ends the capture and returns all that passed until now. The error tells that packets were lost.
func (c *Capture) Stop() ([]Packet, error) {
	err := c.Close()
	return c.Packets(), err
}

// Close ends the capture. What it holds stays readable. Closing twice is harmless.
func (c *Capture) Close() error {
	c.host.disown(c)
	c.stopping.Store(true)
	_ = c.file.SetReadDeadline(time.Now()) // the reader takes what is there, and ends
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read collects packets until the deadline that Close sets.
func (c *Capture) read() {
	defer close(c.done)
	buf, cmsg := make([]byte, snapshot), make([]byte, 256)
	var err error
	for err == nil {
		var failed error
		err = c.raw.Read(func(fd uintptr) bool {
			failed = c.drain(int(fd), buf, cmsg)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err == nil {
			err = failed
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = control(c.raw, func(fd int) error { return c.finish(fd, buf, cmsg) })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(err, c.file.Close())
	c.closed = true
	close(c.grown)
}

// finish takes the rest out of the socket and asks the kernel whether anything was lost.
func (c *Capture) finish(fd int, buf, cmsg []byte) error {
	// Nothing may come in meanwhile, or a flood would keep us here.
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unusedProtocol), Ifindex: c.index}); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	c.stopping.Store(false)
	if err := c.drain(fd, buf, cmsg); !errors.Is(err, unix.EAGAIN) {
		return err
	}
	stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("capture: %d of %d packets lost", stats.Drops, stats.Packets)
	}
	return nil
}

// drain takes packets until the socket has none or the capture stops, both of which it reports as EAGAIN.
func (c *Capture) drain(fd int, buf, cmsg []byte) error {
	for !c.stopping.Load() {
		n, cn, _, from, err := unix.Recvmsg(fd, buf, cmsg, 0)
		if err != nil {
			return err
		}
		p := Packet{Time: kernelTime(cmsg[:cn]), Data: slices.Clone(buf[:n])}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			p.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
		}
		if n > etherHeader {
			if s, err := ParseSegment(p.Data[etherHeader:]); err == nil {
				p.Segment = &s
			}
		}
		c.keep(p)
	}
	return unix.EAGAIN
}

func (c *Capture) keep(p Packet) {
	for _, want := range c.filters {
		if !want(p) {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.packets = append(c.packets, p)
	close(c.grown)
	c.grown = make(chan struct{})
}

// kernelTime finds the receive time in the control messages.
func kernelTime(cmsg []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(cmsg)
	if err != nil {
		return time.Time{}
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS {
			var ts unix.Timespec
			if _, err := binary.Decode(m.Data, binary.NativeEndian, &ts); err != nil {
				return time.Time{}
			}
			return time.Unix(ts.Unix())
		}
	}
	return time.Time{}
}
