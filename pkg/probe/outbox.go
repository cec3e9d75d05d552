package probe

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxOutbox is how many segments one system call sends. More would save little, and make the time of sending that all of them get
// less true.
const maxOutbox = 16

// message is struct mmsghdr of sendmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32 // of what was transferred, in bytes
}

// outbox holds segments until they are sent by one system call.
type outbox struct {
	used     int
	flights  [maxOutbox]int
	messages [maxOutbox]message
	vectors  [maxOutbox]unix.Iovec
	bytes    [maxOutbox][maxHeader]byte
	to4      [maxOutbox]unix.RawSockaddrInet4
	to6      [maxOutbox]unix.RawSockaddrInet6
}

// add puts a segment of a flight into the outbox, which must not be full, to be sent the given way.
func (o *outbox) add(flight int, segment Segment, w *way, to netip.Addr) {
	i := o.used
	o.used++
	o.flights[i] = flight
	b := segment.Append(o.bytes[i][:0], w.source, to)
	o.vectors[i].Base = unsafe.SliceData(b)
	o.vectors[i].SetLen(len(b))
	h := &o.messages[i].header
	*h = unix.Msghdr{Iov: &o.vectors[i], Control: unsafe.SliceData(w.control)}
	h.SetIovlen(1)
	h.SetControllen(len(w.control))
	if to.Is4() {
		o.to4[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.As4()}
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.to4[i])), unix.SizeofSockaddrInet4
		return
	}
	o.to6[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.As16(), Scope_id: uint32(zoneNumber(to))}
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.to6[i])), unix.SizeofSockaddrInet6
}

// flush sends what the outbox holds. It waits while the socket's send buffer is full, and calls refused for each flight that this machine does
// not send.
func (s *rawSocket) flush(refused func(flight int, err error)) error {
	o := &s.out
	defer func() { o.used = 0 }()
	for first := 0; first < o.used; {
		var n uintptr
		var errno unix.Errno
		err := s.conn.Write(func(fd uintptr) bool {
			n, _, errno = unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&o.messages[first])), uintptr(o.used-first), 0, 0, 0)
			return errno != unix.EAGAIN
		})
		switch {
		case err != nil:
			return err
		case errno == unix.EINTR:
		case errno != 0: // of the first message: those behind it have not been tried
			refused(o.flights[first], errno)
			first++
		default:
			first += int(n)
		}
	}
	return nil
}

// controlFor is the control message that makes segments leave from source, by interface oif unless that is zero.
func controlFor(source netip.Addr, oif int) []byte {
	if source.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(oif), Spec_dst: source.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(oif), Addr: source.As16()})
}

// The words of SO_MEMINFO (linux/sock_diag.h) that matter here.
const (
	memUsed  = 0 // SK_MEMINFO_RMEM_ALLOC
	memLimit = 1 // SK_MEMINFO_RCVBUF
	memWords = 9 // SK_MEMINFO_VARS
)

// crowded tells whether the answers in the socket fill half of its receive buffer, so that more questions would only be asked to
// lose their answers.
func (s *rawSocket) crowded() bool {
	used, limit, ok := s.memory()
	return ok && used > limit/2
}

// memory is how much of its receive buffer a socket uses, in bytes. A kernel before 4.12 does not tell.
func (s *rawSocket) memory() (used, limit uint32, ok bool) {
	var words [memWords * 4]byte
	size := uint32(len(words))
	err := s.conn.Control(func(fd uintptr) {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&words)), uintptr(unsafe.Pointer(&size)), 0)
		ok = errno == 0
	})
	if err != nil || !ok {
		return 0, 0, false
	}
	return binary.NativeEndian.Uint32(words[memUsed*4:]), binary.NativeEndian.Uint32(words[memLimit*4:]), true
}
