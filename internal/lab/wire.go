package lab

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

const etherHeader = 14

// htons turns a protocol number into the byte order of sockaddr_ll.
func htons(v uint16) uint16 { return v<<8 | v>>8 }

// openPacket opens a raw packet socket on an interface of the host. With protocol 0 it can only send. The caller
// closes it.
func (h *Host) openPacket(index int, protocol uint16, prepare func(fd int) error) (int, error) {
	fd := -1
	err := h.Do(func() (err error) {
		// Protocol 0, so that nothing comes in before bind names the interface.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err == nil && prepare != nil {
		err = prepare(fd)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: index})
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

// frame puts an Ethernet header before an IP packet.
func frame(dst, src net.HardwareAddr, packet []byte) []byte {
	f := make([]byte, 0, etherHeader+len(packet))
	f = append(append(f, dst...), src...)
	if packet[0]>>4 == 4 {
		f = append(f, 0x08, 0x00)
	} else {
		f = append(f, 0x86, 0xdd)
	}
	return append(f, packet...)
}

// Send puts Ethernet frames on a link of the host, past its routing and its firewall.
func (h *Host) Send(iface string, frames ...[]byte) error {
	p, err := h.port(iface)
	if err != nil {
		return err
	}
	fd, err := h.openPacket(p.index, 0, nil)
	if err == nil {
		for i := 0; i < len(frames) && err == nil; i++ {
			err = unix.Sendto(fd, frames[i], 0, &unix.SockaddrLinklayer{Ifindex: p.index})
		}
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("host %s: send on %s: %w", h.name, iface, err)
	}
	return nil
}

// SendSegment puts one TCP segment on a link of the host, addressed to the machine at the other end, past the
// host's own routing and firewall.
func (h *Host) SendSegment(iface string, s Segment) error {
	p, err := h.port(iface)
	if err != nil {
		return err
	}
	packet, err := s.Marshal()
	if err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return h.Send(iface, frame(p.far, p.mac, packet))
}
