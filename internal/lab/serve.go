package lab

import (
	"bufio"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"sync"
)

// maxLine bounds a line that a server reads.
const maxLine = 4096

// serve handles one connection. Its errors are the client's to see: a connection that ends too early.
func (m Mode) serve(c net.Conn) {
	lines := bufio.NewReaderSize(c, maxLine)
	if m == Bulk {
		if line, err := lines.ReadSlice('\n'); err == nil {
			_, _ = serveBulk(c, lines, string(line)) // the client counts
		}
		return
	}
	if m == ServerFirst {
		if _, err := io.WriteString(c, Banner); err != nil {
			return
		}
	}
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		if known, err := serveBulk(c, lines, string(line)); err != nil {
			return
		} else if known {
			continue
		}
		if _, err := c.Write(line); err != nil || string(line) == Bye {
			return
		}
	}
}

// The bulk protocol, a line each way: "put N", N bytes, answered by "N CRC"; or "get N", answered by N bytes. A
// [Bulk] server does one request a connection, the others any number, among the lines that they echo.
const (
	putRequest = "put %d\n"
	getRequest = "get %d\n"
	putAnswer  = "%d %08x\n"
)

// serveBulk does a request of the bulk protocol, and reports whether the line is one.
func serveBulk(c net.Conn, r io.Reader, line string) (known bool, err error) {
	var n int64
	if _, err := fmt.Sscanf(line, getRequest, &n); err == nil {
		_, err := io.CopyBuffer(writerOnly{c}, io.LimitReader(&pattern{}, n), make([]byte, chunk))
		return true, err
	}
	if _, err := fmt.Sscanf(line, putRequest, &n); err != nil {
		return false, nil
	}
	sum := newSum()
	got, err := io.CopyBuffer(sum, io.LimitReader(r, n), make([]byte, chunk))
	_, failed := fmt.Fprintf(c, putAnswer, got, sum.Sum32())
	return true, errors.Join(err, failed)
}

// newSum returns the checksum of bulk data.
func newSum() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

// pattern is an endless stream of bytes in which a lost, doubled or shifted piece shows in the checksum.
type pattern struct{ next int }

// patternBlock is what a pattern repeats: noise, of a length (a prime) that no segment or buffer size divides.
var patternBlock = sync.OnceValue(func() []byte {
	block := make([]byte, 1048573)
	_, _ = rand.NewChaCha8([32]byte{}).Read(block) // never fails
	return block
})

// Read fills p and never fails.
func (s *pattern) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		c := copy(p[n:], patternBlock()[s.next:])
		n += c
		s.next = (s.next + c) % len(patternBlock())
	}
	return len(p), nil
}
