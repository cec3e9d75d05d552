package probe

import (
	"errors"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxInbox is how many packets one system call reads.
	maxInbox = 64
	// packetSize is the longest packet that is read, in bytes: more than a jumbo frame. A longer one counts as damaged.
	packetSize = 16 << 10
	// controlSize is the room for the control messages of a packet, in bytes.
	controlSize = 128
)

// inbox is the room for what one system call reads.
type inbox struct {
	messages [maxInbox]message
	vectors  [maxInbox]unix.Iovec
	from     [maxInbox]unix.RawSockaddrInet6 // the longer of the two
	bytes    [maxInbox][packetSize]byte
	control  [maxInbox][controlSize]byte
}

// receive waits for packets and returns how many it has read into box. It fails with [os.ErrDeadlineExceeded] behind the read deadline.
func (s *rawSocket) receive(box *inbox) (int, error) {
	for i := range box.messages {
		box.vectors[i].Base = &box.bytes[i][0]
		box.vectors[i].SetLen(packetSize)
		h := &box.messages[i].header
		*h = unix.Msghdr{
			Name: (*byte)(unsafe.Pointer(&box.from[i])), Namelen: unix.SizeofSockaddrInet6,
			Iov: &box.vectors[i], Control: &box.control[i][0],
		}
		h.SetIovlen(1)
		h.SetControllen(controlSize)
	}
	var n uintptr
	var errno unix.Errno
	err := s.conn.Read(func(fd uintptr) bool {
		s.reading.Store(true)
		n, _, errno = unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&box.messages)), maxInbox, 0, 0, 0)
		if errno == unix.EAGAIN {
			s.reading.Store(false)
			return false
		}
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case errno != 0:
		return 0, errno
	}
	return int(n), nil
}

// packet returns one of the packets of box.
func (s *rawSocket) packet(box *inbox, i int) (packet, error) {
	m := &box.messages[i]
	if m.header.Flags&unix.MSG_TRUNC != 0 {
		return packet{}, unix.EMSGSIZE
	}
	b := box.bytes[i][:m.length]
	if s.family == familyIPv4 {
		from := (*unix.RawSockaddrInet4)(unsafe.Pointer(&box.from[i]))
		return splitIPv4(netip.AddrFrom4(from.Addr), b)
	}
	src := withZone(netip.AddrFrom16(box.from[i].Addr), int(box.from[i].Scope_id))
	return withControl(packet{src: src, payload: b}, box.control[i][:m.header.Controllen])
}

// listen reads packets until the read deadline is set to the past, and passes those on that have the form of an answer.
func (s *rawSocket) listen(arrivals chan<- []arrival, stop <-chan struct{}) {
	box := new(inbox)
	for {
		n, err := s.receive(box)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		var got []arrival // of an error of one packet nothing follows for the next
		for i := range n {
			p, err := s.packet(box, i)
			if err != nil {
				continue
			}
			if a, ok := s.decode(s.family, p); ok {
				got = append(got, a)
			}
		}
		if len(got) == 0 {
			continue
		}
		select {
		case arrivals <- got:
		case <-stop:
			return
		}
	}
}
