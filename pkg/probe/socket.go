package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// receiveBuffer holds the answers to a burst of SYN segments, in bytes of the kernel's accounting, which doubles it and takes about one
// kilobyte for each. It is used only when the receiver is late, and [rawSocket.crowded] waits at half of it.
const receiveBuffer = 8 << 20

// rawSocket is a raw IP socket, filtered from its first packet on.
type rawSocket struct {
	family string
	file   *os.File
	conn   syscall.RawConn
	decode decoder
	out    outbox
	// reading is false while the receiver waits for the next packet, and has passed on all that it has read.
	reading atomic.Bool
}

// openRaw opens a raw socket in the network namespace of the calling thread. It sends and receives.
//
// A raw IP socket is taken rather than a packet socket because it stands behind conntrack, as a real client does: with NAT on
// this machine, a packet socket would see an answer from an address that was never asked. It also leaves routes, neighbours and fragments to the kernel.
// The error is [os.ErrPermission] without CAP_NET_RAW.
func openRaw(family string, protocol int, filter []bpf.Instruction, decode decoder) (*rawSocket, error) {
	domain := unix.AF_INET
	if family == familyIPv6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a raw %s socket (needs CAP_NET_RAW): %w", family, err)
	}
	if err := prepare(fd, family, protocol, filter); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("prepare a raw %s socket: %w", family, err)
	}
	s := &rawSocket{family: family, decode: decode, file: os.NewFile(uintptr(fd), "raw "+family)}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, fmt.Errorf("prepare a raw %s socket: %w", family, err)
	}
	return s, nil
}

// prepare sets the options of a socket that has been receiving since it was made: first it shuts it, then empties
// it, and at last lets in what the filter admits.
func prepare(fd int, family string, protocol int, filter []bpf.Instruction) error {
	if err := attach(fd, dropAll()); err != nil {
		return err
	}
	for scrap := make([]byte, 1); ; {
		if _, _, err := unix.Recvfrom(fd, scrap, unix.MSG_DONTWAIT); err == unix.EAGAIN {
			break
		} else if err != nil && err != unix.EINTR {
			return fmt.Errorf("drain: %w", err)
		}
	}
	// More than rmem_max needs CAP_NET_ADMIN; without it, a smaller buffer has to do.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if family == familyIPv6 {
		if err := prepare6(fd, protocol); err != nil {
			return err
		}
	}
	return attach(fd, filter)
}

// prepare6 asks for what an IPv4 socket finds in the IP header: destination and hop limit. The kernel verifies the TCP checksum, as it does by
// itself for ICMPv6 (RFC 3542, 3.1).
func prepare6(fd, protocol int) error {
	for _, option := range []int{unix.IPV6_RECVPKTINFO, unix.IPV6_RECVHOPLIMIT} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, option, 1); err != nil {
			return err
		}
	}
	if protocol != protocolTCP {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, offChecksum)
}

func attach(fd int, filter []bpf.Instruction) error {
	program, err := bpf.Assemble(filter)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	code := make([]unix.SockFilter, len(program))
	for i, op := range program {
		code[i] = unix.SockFilter{Code: op.Op, Jt: op.Jt, Jf: op.Jf, K: op.K}
	}
	fprog := &unix.SockFprog{Len: uint16(len(code)), Filter: unsafe.SliceData(code)}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, fprog); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

func (s *rawSocket) close() { _ = s.file.Close() }

// splitIPv4 takes the IP header off, which the kernel has validated.
func splitIPv4(src netip.Addr, b []byte) (packet, error) {
	if len(b) < ipv4Header {
		return packet{}, unix.EBADMSG
	}
	header := int(b[0]&0x0f) * 4
	if header < ipv4Header || header > len(b) {
		return packet{}, unix.EBADMSG
	}
	return packet{src: src, dst: netip.AddrFrom4([4]byte(b[16:20])), ttl: b[8], payload: b[header:]}, nil
}

// withControl adds what the control messages of an IPv6 socket say.
func withControl(p packet, control []byte) (packet, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return packet{}, err
	}
	for _, m := range messages {
		if m.Header.Level != unix.IPPROTO_IPV6 {
			continue
		}
		switch {
		case m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 20:
			p.dst = netip.AddrFrom16([16]byte(m.Data))
			p.ifindex = int(binary.NativeEndian.Uint32(m.Data[16:]))
		case m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4:
			p.ttl = uint8(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return p, nil
}
