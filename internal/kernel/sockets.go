package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Socket is one end of a TCP connection in this network namespace.
type Socket struct {
	// Local and Remote are without an IPv6 zone, and IPv4 on a dual-stack
	// socket is IPv4.
	Local, Remote netip.AddrPort
	// Inbound tells that some socket listens on Local now, so that the peer
	// opened the connection. A server that has ceased to listen looks outbound.
	Inbound bool
	// Loopback tells that the other end is in this namespace too.
	Loopback bool
	// Closing tells that nothing but the end of the connection is to come:
	// LAST-ACK, CLOSING, or an orphan in FIN-WAIT-2.
	Closing bool
	// WindowScale, SACK and Timestamps tell which options both ends agreed on.
	WindowScale, SACK, Timestamps bool
	// LocalWScale is the scale of the windows that this end announces,
	// RemoteWScale that of the peer's. Both are 0 without WindowScale.
	LocalWScale, RemoteWScale uint8
}

// LocalConnections returns the TCP sockets of both families in the network
// namespace that may still carry something: all synchronised states of RFC 9293
// but TIME-WAIT. It asks sock_diag and needs no capability. A connection that
// begins or ends meanwhile may be in the list or not. A cancelled ctx ends it
// with its error.
func LocalConnections(ctx context.Context) ([]Socket, error) {
	var found []sock
	listen := listeners{}
	for _, family := range []Family{IPv4, IPv6} {
		err := dumpSockets(ctx, family, func(s sock) {
			if s.state == sockListen {
				listen.add(s)
			} else {
				found = append(found, s)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list the %s sockets: %w", family, err)
		}
	}
	return connections(found, listen), nil
}

// connections tells the direction of each socket and which are each other's peers.
func connections(found []sock, listen listeners) []Socket {
	ends := make(map[Tuple]bool, len(found)) // whether it is in sockets already
	for _, s := range found {
		ends[Tuple{s.local, s.remote}] = false
	}
	sockets := make([]Socket, 0, len(found))
	for _, s := range found {
		end := Tuple{s.local, s.remote}
		if ends[end] {
			continue // a dump may show a socket twice
		}
		ends[end] = true
		_, here := ends[end.Reverse()]
		c := Socket{
			Local: s.local, Remote: s.remote,
			Inbound:  listen.on(s.local),
			Loopback: here || s.remote.Addr().IsLoopback(),
			Closing:  s.state == sockLastAck || s.state == sockClosing || !s.info,
			SACK:     s.options&tcpiOptSACK != 0, Timestamps: s.options&tcpiOptTimestamps != 0,
		}
		if s.options&tcpiOptWScale != 0 {
			c.WindowScale, c.LocalWScale, c.RemoteWScale = true, s.receive, s.send
		}
		sockets = append(sockets, c)
	}
	return sockets
}

// dumpSockets visits the listening and the carrying sockets of a family. When
// the kernel interrupts the dump, it begins again and visits sockets once more.
func dumpSockets(ctx context.Context, family Family, visit func(sock)) error {
	for range maxDumps {
		if err := ctx.Err(); err != nil {
			return err
		}
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddRawData(sockRequest(family, listening|carrying))
		var fault error
		err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
			if fault = ctx.Err(); fault != nil {
				return false
			}
			var s sock
			if s, fault = parseSock(msg); fault == nil {
				visit(s)
			}
			return fault == nil
		})
		if err = errors.Join(fault, err); !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
	}
	return fmt.Errorf("%w %d times", nl.ErrDumpInterrupted, maxDumps)
}

// listeners is the set of what is listened on; an address is a wildcard or one
// of the machine's.
type listeners map[netip.AddrPort]struct{}

func (l listeners) add(s sock) {
	l[s.local] = struct{}{}
	if s.v6 && !s.v6Only && s.local.Addr() == netip.IPv6Unspecified() { // dual-stack
		l[netip.AddrPortFrom(netip.IPv4Unspecified(), s.local.Port())] = struct{}{}
	}
}

// on tells whether a connection to local finds a listener.
func (l listeners) on(local netip.AddrPort) bool {
	wildcard := netip.IPv6Unspecified()
	if local.Addr().Is4() {
		wildcard = netip.IPv4Unspecified()
	}
	_, own := l[local]
	_, all := l[netip.AddrPortFrom(wildcard, local.Port())]
	return own || all
}
