package kernel

import (
	"context"
	"net/netip"
)

// remains tells an entry that may be what is left of a connection which ended as
// conntrack was switched on: it was taken up in the middle, or carried over (so
// that both sides are liberal), and is closing or has seen one side only.
func (c Conn) remains() bool {
	if c.Proxied || c.zoned || c.FlagsOriginal&c.FlagsReply&FlagLiberal == 0 {
		return false
	}
	switch c.State {
	case TCPEstablished:
		return c.Status&StatusSeenReply == 0
	case TCPFinWait, TCPCloseWait, TCPLastAck, TCPTimeWait, TCPClose:
		return true
	}
	return false
}

// ForgetRemains deletes the entries of matched servers, whichever side the
// kernel takes for the initiator, that may be what is left of connections which
// ended as conntrack was switched on, and returns how many. A client that uses
// the port again would get no answer as long as there is one. Of a connection
// that goes on, conntrack takes up the next packet, as long as
// nf_conntrack_tcp_loose is 1. The errors are those of [Forget].
func ForgetRemains(ctx context.Context, server func(netip.AddrPort) bool) (int, error) {
	return forgetAll(ctx, func(c Conn) bool {
		return c.remains() && (server(c.Original.Src) || server(c.Original.Dst))
	}, Conn.remains)
}

// ForgetCarried deletes the entries that [Carry] made for connections which have
// ended since their sockets were listed, and returns how many: it would take
// days for them to go, and a client that uses the port again would meet them.
// An entry that a packet has changed since is left alone. The errors are those
// of [Forget].
func ForgetCarried(ctx context.Context, ended []Socket) (int, error) {
	conns := make([]Conn, len(ended))
	for i, s := range ended {
		conns[i] = s.entry(0)
	}
	return forgetThese(ctx, conns, func(c Conn) bool {
		return !c.Proxied && !c.zoned && c.FlagsOriginal&c.FlagsReply&FlagLiberal != 0
	})
}
