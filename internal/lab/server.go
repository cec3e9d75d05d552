package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Mode says what a server does with a connection, and so what a client may expect.
type Mode int

const (
	// ClientFirst answers each line with the same line, as an HTTP server answers a request, except for the
	// requests of a [Soak]'s uploads and downloads.
	ClientFirst Mode = iota
	// ServerFirst writes [Banner] at once and then behaves like ClientFirst, as SSH and SMTP servers do.
	ServerFirst
	// Bulk serves [Transfer]: it reads and counts, or writes, as many bytes as the client asks for.
	Bulk
)

// Banner is the line that a [ServerFirst] server begins with.
const Banner = "220 lab ready\n"

// Bye is the line after whose answer a [ClientFirst] or [ServerFirst] server closes the connection, so that
// TIME_WAIT is the server's and the client's port is free at once.
const Bye = "bye\n"

// ServerConfig describes a server. The zero value of each field means the kernel's default.
type ServerConfig struct {
	// Address to listen on; port 0 lets the kernel choose one.
	Address netip.AddrPort
	// Mode is what the server does with its connections.
	Mode Mode
	// ReceiveBuffer is SO_RCVBUF in bytes, which net.core.rmem_max limits. The window that it allows is about as
	// large, and the SYN+ACK announces no larger window scale than that window needs.
	ReceiveBuffer int
	// WindowClamp is TCP_WINDOW_CLAMP in bytes. The SYN+ACK announces the smallest window scale that can express
	// min(WindowClamp, the larger of net.ipv4.tcp_rmem's third value and rmem_max), so that with a tcp_rmem of
	// "4096 131072 1073725440" a clamp of 65535<<n gives the window scale n, from 0 to 14.
	WindowClamp int
	// MaxSegment is TCP_MAXSEG in bytes: the largest MSS to announce and to send.
	MaxSegment int
	// Congestion is TCP_CONGESTION, such as "cubic", "reno" or "bbr".
	Congestion string
	// Backlog is the length of the accept queue; 0 means net.core.somaxconn.
	Backlog int
}

// Server is a TCP server on a host, with the kernel's own TCP.
type Server struct {
	host     *Host
	listener net.Listener
	mode     Mode
	accepted atomic.Int64

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	active sync.WaitGroup
}

// Serve starts a server on the host. It runs until [Server.Close], or until its lab is closed. The context bounds
// the start only.
func (h *Host) Serve(ctx context.Context, cfg ServerConfig) (*Server, error) {
	s := &Server{host: h, mode: cfg.Mode, conns: map[net.Conn]struct{}{}}
	// A connection says nothing of its own accord: some tests want it silent.
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, cfg.setOptions)
	}}
	lc.SetMultipathTCP(false) // MPTCP sockets refuse some options, and their SYN+ACKs are not what we want to measure
	err := h.Do(func() (err error) {
		s.listener, err = lc.Listen(ctx, "tcp", cfg.Address.String())
		return err
	})
	if err == nil && cfg.Backlog > 0 {
		err = shrinkBacklog(s.listener, cfg.Backlog)
	}
	if err == nil {
		err = h.own(s)
	}
	if err != nil {
		if s.listener != nil {
			s.listener.Close()
		}
		return nil, fmt.Errorf("host %s: serve %s: %w", h.name, cfg.Address, err)
	}
	s.active.Add(1)
	go s.accept()
	return s, nil
}

// Address returns where the server listens.
func (s *Server) Address() netip.AddrPort {
	return s.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Accepted returns how many connections the server has accepted so far.
func (s *Server) Accepted() int64 { return s.accepted.Load() }

// Close stops listening, closes the open connections and waits until nothing of the server is left. Closing twice
// is harmless.
func (s *Server) Close() error {
	s.host.disown(s)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	err := s.listener.Close()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.active.Wait()
	return err
}

func (s *Server) accept() {
	defer s.active.Done()
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // ECONNABORTED and its like concern one connection
		}
		s.accepted.Add(1)
		if !s.adopt(c) {
			c.Close()
			return
		}
		go func() {
			defer s.active.Done()
			defer s.drop(c)
			s.mode.serve(c)
		}()
	}
}

func (s *Server) adopt(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	s.active.Add(1)
	return true
}

func (s *Server) drop(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// setOptions applies what must be known before listen(2), since the SYN+ACK depends on it.
func (cfg ServerConfig) setOptions(fd int) error {
	for _, o := range []struct {
		name              string
		level, opt, value int
	}{
		{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, cfg.ReceiveBuffer},
		{"TCP_WINDOW_CLAMP", unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, cfg.WindowClamp},
		{"TCP_MAXSEG", unix.IPPROTO_TCP, unix.TCP_MAXSEG, cfg.MaxSegment},
	} {
		if o.value == 0 {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
			return fmt.Errorf("%s=%d: %w", o.name, o.value, err)
		}
	}
	if cfg.Congestion != "" {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, cfg.Congestion); err != nil {
			return fmt.Errorf("TCP_CONGESTION=%s: %w", cfg.Congestion, err)
		}
	}
	return nil
}

// shrinkBacklog calls listen(2) again, which on a listening socket changes only the backlog.
func shrinkBacklog(l net.Listener, backlog int) error {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, func(fd int) error { return unix.Listen(fd, backlog) })
}

// control runs f on the descriptor of raw and returns f's error.
func control(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}
