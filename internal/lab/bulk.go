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
)

// Direction is the way that the data of a [Host.Transfer] goes.
type Direction int

const (
	// Upload is from the client to the server.
	Upload Direction = iota
	// Download is from the server to the client.
	Download
)

// Transfer is the result of a [Host.Transfer].
type Transfer struct {
	// Bytes that arrived, verified.
	Bytes int64
	// Duration from the request to the last byte's arrival; the handshake is not in it.
	Duration time.Duration
}

// Rate returns the payload rate in bytes per second.
func (t Transfer) Rate() float64 { return float64(t.Bytes) / t.Duration.Seconds() }

// Transfer moves bytes to or from a [Bulk] server and verifies their count and checksum.
func (h *Host) Transfer(ctx context.Context, remote netip.AddrPort, d Direction, bytes int64) (Transfer, error) {
	t, err := h.transfer(ctx, remote, d, bytes)
	if err != nil {
		return t, fmt.Errorf("host %s: transfer with %s: %w", h.name, remote, err)
	}
	return t, nil
}

func (h *Host) transfer(ctx context.Context, remote netip.AddrPort, d Direction, bytes int64) (Transfer, error) {
	conn, err := h.Dial(ctx, remote)
	if err != nil {
		return Transfer{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	run := upload
	if d == Download {
		run = download
	}
	t, err := run(conn, bytes)
	return t, errors.Join(err, ctx.Err())
}

func upload(conn *net.TCPConn, bytes int64) (Transfer, error) {
	start := time.Now()
	if _, err := fmt.Fprintf(conn, putRequest, bytes); err != nil {
		return Transfer{}, err
	}
	sum := newSum()
	src := io.TeeReader(io.LimitReader(&pattern{}, bytes), sum)
	if _, err := io.CopyBuffer(writerOnly{conn}, src, make([]byte, chunk)); err != nil {
		return Transfer{}, err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	took := time.Since(start)
	if err != nil {
		return Transfer{}, err
	}
	if want := fmt.Sprintf(putAnswer, bytes, sum.Sum32()); answer != want {
		return Transfer{}, fmt.Errorf("server got %q, sent %q: %w", answer, want, errAnswer)
	}
	return Transfer{Bytes: bytes, Duration: took}, nil
}

func download(conn *net.TCPConn, bytes int64) (Transfer, error) {
	sum, want := newSum(), newSum()
	if _, err := io.CopyN(want, &pattern{}, bytes); err != nil {
		return Transfer{}, err
	}
	start := time.Now()
	if _, err := fmt.Fprintf(conn, getRequest, bytes); err != nil {
		return Transfer{}, err
	}
	n, err := io.CopyBuffer(sum, readerOnly{conn}, make([]byte, chunk))
	t := Transfer{Bytes: n, Duration: time.Since(start)}
	if err != nil {
		return t, err
	}
	if n != bytes || sum.Sum32() != want.Sum32() {
		return t, fmt.Errorf("got %d bytes of %d: %w", n, bytes, errAnswer)
	}
	return t, nil
}

// chunk is how many bytes of bulk data to read or write at a time.
const chunk = 256 << 10

// readerOnly and writerOnly hide the other methods of a socket, so that io.Copy uses the buffer that it was given.
type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)
