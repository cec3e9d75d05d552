package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConnections is how many connections are open at once, if there are descriptors for them. With each silent server they last
	// as long as BannerWait.
	maxConnections = 4096
	// spareDescriptors is how many descriptors are left to the rest of the program.
	spareDescriptors = 64
	// closeWait is how long a server gets to close its side after ours.
	closeWait = 500 * time.Millisecond
	// closeBytes is how much of what it still sends is read. Data left unread turns the close into a RST.
	closeBytes = 1 << 20
)

// heard is what one connection showed.
type heard struct {
	target    int // index in run.all
	connected bool
	speaks    *Speaks
	note      string
}

// connect completes a handshake with every target that gave a usable answer, at the rate. The sockets are made here, on the calling thread,
// whose network namespace they belong to; the waiting is done elsewhere.
func (r *run) connect(ctx context.Context) error {
	results := make(chan heard, maxConnections)
	open, limit, connected, total := 0, connectionLimit(), 0, 0
	for i := range r.all {
		if !r.all[i].finished {
			total++
		}
	}
	collect := func(h heard) {
		open--
		a := &r.all[h.target]
		result := &r.results[a.first]
		stood := h.connected
		result.Connected, result.Speaks = &stood, h.speaks
		if h.note != "" {
			result.note("%s", h.note)
		}
		r.finish(a)
		connected++
		r.cfg.Stage("connecting", connected, total)
	}
	for i := range r.all {
		a := &r.all[i]
		if a.finished || ctx.Err() != nil {
			continue
		}
		for open >= limit {
			collect(<-results)
		}
		r.pause(ctx, results, collect)
		file, err := dial(a.addr, a.way.path)
		for open > 0 && (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)) {
			limit = open // someone else needs descriptors, too
			collect(<-results)
			file, err = dial(a.addr, a.way.path)
		}
		open++
		if err != nil {
			collect(heard{target: i, note: fmt.Sprintf("connect: %v", err)})
			continue
		}
		direct := r.results[a.first].Verdict == Direct
		go func() {
			h := r.cfg.hear(ctx, direct, file)
			h.target = i
			results <- h
		}()
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for open > 0 {
		select {
		case h := <-results:
			collect(h)
		case <-ticker.C:
			r.cfg.Stage("connecting", connected, total)
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("connect: %w", context.Cause(ctx))
	}
	return nil
}

// pause collects what comes until the next SYN may be sent.
func (r *run) pause(ctx context.Context, results <-chan heard, collect func(heard)) {
	for r.pacer.due(r.now()) == 0 && ctx.Err() == nil {
		select {
		case h := <-results:
			collect(h)
		case <-ctx.Done():
		case <-time.After(r.pacer.next - r.now()):
		}
	}
	r.pacer.sent(1)
}

// connectionLimit is how many connections may be open at once.
func connectionLimit() int {
	var have unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &have) != nil || have.Cur > maxConnections+spareDescriptors {
		return maxConnections
	}
	return max(1, int(have.Cur)-spareDescriptors)
}

// dial begins to connect, and does not wait.
func dial(to netip.AddrPort, p path) (*os.File, error) {
	fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// The port is chosen by connect, which lets connections to different servers share it: there are more servers than ports.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
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

// hear waits for the connection and then for the server's first byte. It sends nothing but FIN. Direct tells whether the server itself has
// answered the probe.
func (c Config) hear(ctx context.Context, direct bool, conn *os.File) heard {
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err == nil {
		err = established(ctx, conn, raw, c.Timeout)
	}
	if err != nil {
		return heard{note: fmt.Sprintf("connect: %v", err)}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(c.BannerWait))
	n, err := conn.Read(make([]byte, 1))
	var h heard
	switch {
	case n > 0:
		server := Server
		h.connected, h.speaks = true, &server
	case ctx.Err() != nil:
		return h
	case errors.Is(err, os.ErrDeadlineExceeded) && (direct || windowOpen(raw)):
		client := Client
		h.connected, h.speaks = true, &client
	case errors.Is(err, os.ErrDeadlineExceeded):
		h.note = "connect: the proxy completed the handshake, but no server stands behind it"
	case errors.Is(err, io.EOF):
		h.connected = true
		h.note = "connect: the server closed the connection before anyone spoke"
	default:
		h.note = fmt.Sprintf("connect: %v", err)
	}
	hangUp(conn, raw)
	return h
}

// established waits until the connection stands, or fails.
func established(ctx context.Context, conn *os.File, raw syscall.RawConn, timeout time.Duration) error {
	_ = conn.SetWriteDeadline(time.Now().Add(timeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var failed error
	err := raw.Write(func(fd uintptr) bool {
		failed = connected(int(fd))
		return !errors.Is(failed, unix.ENOTCONN)
	})
	if err != nil {
		return err
	}
	return failed
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
func windowOpen(raw syscall.RawConn) bool {
	open := false
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		open = err == nil && info.Snd_wnd > proxyWindow
	})
	return err == nil && open
}

// hangUp closes our side and lets the server close its own, so that it sees an orderly end rather than a RST.
func hangUp(conn *os.File, raw syscall.RawConn) {
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil || failed != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(closeWait))
	_, _ = io.CopyN(io.Discard, conn, closeBytes)
}
