package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsDir is where ip(8) looks for named network namespaces.
const netnsDir = "/run/netns"

var errClosed = errors.New("closed")

// Host is one machine of a lab: a network namespace.
type Host struct {
	lab  *Lab
	name string
	ns   *os.File
	nl   *netlink.Handle
	// work is done by the host's own thread, which lives as long as the host: a command that it starts is killed by
	// the kernel (Pdeathsig) when that thread ends.
	work chan func()
	quit chan struct{} // closed when that thread must end

	mu      sync.Mutex
	closed  bool
	running map[io.Closer]struct{} // servers, captures and commands to stop on Close
	peers   map[string]peer        // by local interface name
}

// newHost makes the namespace on a new thread, which stays in it.
func newHost(l *Lab, name string) (*Host, error) {
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return nil, errors.New("bad name")
	}
	h := &Host{
		lab: l, name: name, work: make(chan func()), quit: make(chan struct{}),
		running: map[io.Closer]struct{}{}, peers: map[string]peer{},
	}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := h.create()
		ready <- err
		if err != nil {
			return
		}
		for {
			select {
			case f := <-h.work:
				f()
			case <-h.quit:
				return
			}
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return h, nil
}

// create unshares the calling thread's network and gives it a name.
func (h *Host) create() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	const own = "/proc/thread-self/ns/net"
	if h.ns, err = os.Open(own); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			h.ns.Close()
		}
	}()
	if err := os.WriteFile(h.Path(), nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(own, h.Path(), "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("bind %s: %w", h.Path(), err), os.Remove(h.Path()))
	}
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	// Addresses must be usable at once, and nobody else speaks here.
	for _, key := range []string{"all", "default"} {
		for _, knob := range []string{"accept_dad", "accept_ra", "router_solicitations"} {
			if err := writeSysctl("net/ipv6/conf/"+key+"/"+knob, "0"); err != nil {
				return err
			}
		}
	}
	lo, err := h.nl.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.nl.LinkSetUp(lo)
}

// Name returns the name that was given to [Lab.Host].
func (h *Host) Name() string { return h.name }

// Namespace returns the name by which `ip netns exec` and `nsenter` know the host inside this world.
func (h *Host) Namespace() string { return fmt.Sprintf("lab%d-%s", h.lab.id, h.name) }

// Path returns the file that stands for the host's network namespace, below /run/netns.
func (h *Host) Path() string { return filepath.Join(netnsDir, h.Namespace()) }

// Netlink returns a route netlink handle of the host, which may be used from any goroutine and must not be closed.
func (h *Host) Netlink() *netlink.Handle { return h.nl }

// Do runs f on an operating system thread that is inside the host's network namespace, and returns what f returns.
// What f opens there (sockets, /proc/thread-self/net files) stays bound to the host; goroutines that f starts do
// not run inside. The thread is never used for anything else. /proc/self/net is that of the main thread: use
// /proc/thread-self/net; /proc/sys/net is right.
func (h *Host) Do(f func() error) error {
	var err error
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err = h.join(); err == nil {
			err = f()
		}
		returned = true
	}()
	<-done
	if !returned {
		runtime.Goexit() // f did: t.FailNow in a test, for example
	}
	return err
}

// join moves the calling thread into the namespace.
func (h *Host) join() error {
	if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter host %s: %w", h.name, err)
	}
	return nil
}

// own registers something to be closed with the host.
func (h *Host) own(c io.Closer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errClosed
	}
	h.running[c] = struct{}{}
	return nil
}

// disown forgets what own registered.
func (h *Host) disown(c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, c)
}

// stop ends everything that runs on the host.
func (h *Host) stop() error {
	h.mu.Lock()
	h.closed = true
	running := h.running
	h.running = map[io.Closer]struct{}{}
	h.mu.Unlock()
	var errs []error
	for c := range running {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// release gives the namespace back to the kernel, which destroys it and its links once nothing uses it.
func (h *Host) release() error {
	close(h.quit)
	h.nl.Close()
	return errors.Join(
		unix.Unmount(h.Path(), unix.MNT_DETACH),
		os.Remove(h.Path()),
		h.ns.Close(),
	)
}
