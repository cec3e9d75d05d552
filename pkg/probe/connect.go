package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConnections is how many connections are open at once.
	maxConnections = 256
	// closeWait is how long a server gets to close its side after ours.
	closeWait = 500 * time.Millisecond
	// closeBytes is how much of what it still sends is read. Data left unread turns the close into a RST.
	closeBytes = 1 << 20
)

// heard is what one connection showed.
type heard struct {
	asked  *asked
	speaks *Speaks
	note   string
}

// connect completes a handshake with every target that gave a usable answer. The sockets are made here, on the calling thread,
// whose network namespace they belong to; the waiting is done elsewhere.
func (r *run) connect(ctx context.Context) error {
	results := make(chan heard, maxConnections)
	open := 0
	collect := func() {
		h := <-results
		open--
		h.asked.result.Speaks = h.speaks
		if h.note != "" {
			h.asked.result.note("%s", h.note)
		}
		r.finish(h.asked)
	}
	for _, a := range r.all {
		if a.finished || ctx.Err() != nil {
			continue
		}
		for open >= maxConnections {
			collect()
		}
		open++
		file, err := dial(a.addr, a.path)
		if err != nil {
			results <- heard{asked: a, note: fmt.Sprintf("connect: %v", err)}
			continue
		}
		go func() { results <- r.cfg.hear(ctx, a, file) }()
	}
	for open > 0 {
		collect()
	}
	if ctx.Err() != nil {
		return fmt.Errorf("connect: %w", context.Cause(ctx))
	}
	return nil
}

// dial begins to connect, and does not wait.
func dial(to netip.AddrPort, p path) (*os.File, error) {
	fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if p.oif != 0 {
		err = bindToIndex(fd, p.oif)
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(p.source, 0)))
	}
	if err == nil {
		err = unix.Connect(fd, sockaddr(to))
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), to.String()), nil
}

// hear waits for the connection and then for the server's first byte. It sends nothing but FIN.
func (c Config) hear(ctx context.Context, a *asked, file *os.File) heard {
	h := heard{asked: a}
	conn, err := established(ctx, file, c.Timeout)
	if err != nil {
		h.note = fmt.Sprintf("connect: %v", err)
		return h
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(c.BannerWait))
	n, err := conn.Read(make([]byte, 512))
	switch {
	case n > 0:
		server := Server
		h.speaks = &server
	case ctx.Err() != nil:
		return h
	case errors.Is(err, os.ErrDeadlineExceeded) && (a.result.Verdict == Direct || windowOpen(conn)):
		client := Client
		h.speaks = &client
	case errors.Is(err, os.ErrDeadlineExceeded):
		h.note = "connect: the proxy completed the handshake, but no server stands behind it"
	case errors.Is(err, io.EOF):
		h.note = "connect: the server closed the connection before anyone spoke"
	default:
		h.note = fmt.Sprintf("connect: %v", err)
	}
	hangUp(conn)
	return h
}

// established waits until the connection stands and hands it over to net, which closes the file's descriptor, or fails.
func established(ctx context.Context, file *os.File, timeout time.Duration) (*net.TCPConn, error) {
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	_ = file.SetWriteDeadline(time.Now().Add(timeout))
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		failed = connected(int(fd))
		return !errors.Is(failed, unix.ENOTCONN)
	})
	if err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("not a TCP socket: %T", conn)
	}
	return tcp, nil
}

// connected returns nil once the handshake is done, ENOTCONN while it is not, and what it failed with.
func connected(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	_, err = unix.Getpeername(fd)
	return err
}

// windowOpen tells whether the peer has announced room for data. A SYNPROXY does so only when its own connection to the server stands
// (net/netfilter/nf_synproxy_core.c), so that an open window, unlike the handshake, proves that there is a server.
func windowOpen(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		open = err == nil && info.Snd_wnd > proxyWindow
	})
	return err == nil && open
}

// hangUp closes our side and lets the server close its own, so that it sees an orderly end rather than a RST.
func hangUp(conn *net.TCPConn) {
	if conn.CloseWrite() != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(closeWait))
	_, _ = io.CopyN(io.Discard, conn, closeBytes)
}
