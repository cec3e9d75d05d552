package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialer returns a dialer for plain TCP from a local port (0: any).
func dialer(remote netip.AddrPort, localPort uint16) *net.Dialer {
	d := &net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	if localPort != 0 {
		wildcard := netip.IPv4Unspecified()
		if remote.Addr().Is6() {
			wildcard = netip.IPv6Unspecified()
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(wildcard, localPort))
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			return control(raw, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			})
		}
	}
	return d
}

// Dial connects from the host to remote by plain TCP, from a port that the kernel chooses.
func (h *Host) Dial(ctx context.Context, remote netip.AddrPort) (*net.TCPConn, error) {
	var c net.Conn
	err := h.Do(func() (err error) {
		c, err = dialer(remote, 0).DialContext(ctx, "tcp", remote.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// errKind sorts the error of a connection into the few kinds that a reader wants to tell apart.
func errKind(err error) string {
	var network net.Error
	switch {
	case errors.Is(err, errAnswer):
		return "wrong answer"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return "reset"
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, unix.EADDRINUSE), errors.Is(err, unix.EADDRNOTAVAIL):
		return "local address in use"
	case strings.HasSuffix(err.Error(), "EOF"):
		return "closed early"
	}
	return err.Error()
}
