package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// soakChunk is how many bytes of a piece to read or write at a time.
	soakChunk = 64 << 10
	// soakGlance is how often to look how much of an upload was acknowledged.
	soakGlance = 10 * time.Millisecond
)

// soaking is one connection of a soak.
type soaking struct {
	cfg  SoakConfig
	stop <-chan struct{}

	conn   *net.TCPConn
	reader *bufio.Reader
	sum    uint32 // of a piece

	done  int64 // exchanges and pieces
	bytes int64
	gap   time.Duration
	gapAt time.Time
	err   error
	errAt time.Time
}

// open connects and proves the connection.
func (c *soaking) open(ctx context.Context, h *Host, remote netip.AddrPort) error {
	var err error
	if c.conn, err = h.Dial(ctx, remote); err != nil {
		return err
	}
	c.reader = bufio.NewReaderSize(c.conn, soakChunk)
	if err := c.extend(); err != nil {
		return err
	}
	if c.cfg.Kind == Uploading || c.cfg.Kind == Downloading {
		sum := newSum()
		_, _ = io.CopyN(sum, &pattern{}, c.cfg.Piece) // neither ever fails
		c.sum = sum.Sum32()
	}
	_, err = converse(c.conn, c.reader, c.cfg.Mode, time.Now(), "hello\n")
	return err
}

// extend gives the peer another time-out to answer in.
func (c *soaking) extend() error { return c.conn.SetDeadline(time.Now().Add(c.cfg.Timeout)) }

// run works until the soak stops or the connection fails.
func (c *soaking) run() {
	err := c.work()
	if err == nil {
		err = c.end()
	}
	if err != nil {
		c.err, c.errAt = err, time.Now()
	}
}

// work does one thing after another until the soak stops.
func (c *soaking) work() error {
	if c.cfg.Kind == Idle {
		<-c.stop
		return c.talk("still here\n")
	}
	pace := time.NewTicker(c.cfg.Interval)
	defer pace.Stop()
	for {
		select {
		case <-c.stop:
			return nil
		case <-pace.C:
		}
		var err error
		switch c.cfg.Kind {
		case Uploading:
			err = c.upload()
		case Downloading:
			err = c.download()
		default:
			err = c.talk(fmt.Sprintf("line %d\n", c.done))
		}
		if err != nil {
			return err
		}
		c.done++
	}
}

// end says good-bye; the server closes.
func (c *soaking) end() error {
	if err := c.talk(Bye); err != nil {
		return err
	}
	if _, err := c.reader.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the end: %w", errors.Join(errAnswer, err))
	}
	return nil
}

// wait does something that waits for the peer, and remembers the longest.
func (c *soaking) wait(f func() error) error {
	if err := c.extend(); err != nil {
		return err
	}
	begin := time.Now()
	err := f()
	c.waited(begin, time.Now())
	return err
}

func (c *soaking) waited(begin, end time.Time) {
	if d := end.Sub(begin); d > c.gap {
		c.gap, c.gapAt = d, end
	}
}

func (c *soaking) talk(line string) error {
	return c.wait(func() error { return exchange(c.conn, c.reader, line) })
}

// download gets a piece. Each read is a progress.
func (c *soaking) download() error {
	if _, err := fmt.Fprintf(c.conn, getRequest, c.cfg.Piece); err != nil {
		return err
	}
	sum, buf := newSum(), make([]byte, soakChunk)
	for left := c.cfg.Piece; left > 0; {
		var n int
		err := c.wait(func() (err error) {
			n, err = c.reader.Read(buf[:min(left, soakChunk)])
			return err
		})
		if err != nil {
			return err
		}
		sum.Write(buf[:n])
		left -= int64(n)
		c.bytes += int64(n)
	}
	if sum.Sum32() != c.sum {
		return fmt.Errorf("piece %d: %w", c.done, errAnswer)
	}
	return nil
}

// upload puts a piece. What the peer's kernel acknowledges is a progress, since the own kernel takes a lot at once.
func (c *soaking) upload() error {
	finished, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		c.watch(finished)
	}()
	err := c.put()
	close(finished)
	<-watched
	return err
}

func (c *soaking) put() error {
	if _, err := fmt.Fprintf(c.conn, putRequest, c.cfg.Piece); err != nil {
		return err
	}
	src, buf := &pattern{}, make([]byte, soakChunk)
	for left := c.cfg.Piece; left > 0; {
		n, _ := src.Read(buf[:min(left, soakChunk)]) // never fails
		if err := c.extend(); err != nil {
			return err
		}
		if _, err := c.conn.Write(buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if err := c.extend(); err != nil {
		return err
	}
	answer, err := c.reader.ReadString('\n')
	if err != nil {
		return err
	}
	if want := fmt.Sprintf(putAnswer, c.cfg.Piece, c.sum); answer != want {
		return fmt.Errorf("piece %d: server got %q, sent %q: %w", c.done, answer, want, errAnswer)
	}
	c.bytes += c.cfg.Piece
	return nil
}

// watch looks how the acknowledged bytes grow until finished. Meanwhile nobody else may touch the gap.
func (c *soaking) watch(finished <-chan struct{}) {
	glance := time.NewTicker(soakGlance)
	defer glance.Stop()
	last, acked := time.Now(), c.acked()
	for {
		select {
		case <-finished:
			c.waited(last, time.Now())
			return
		case <-glance.C:
		}
		if now := c.acked(); now != acked {
			t := time.Now()
			c.waited(last, t)
			last, acked = t, now
		}
	}
}

// acked returns how many bytes the peer has acknowledged; 0 when the connection is gone.
func (c *soaking) acked() (bytes uint64) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = control(raw, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			bytes = info.Bytes_acked
		}
		return err
	})
	return bytes
}
