package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// closingTimeout is for connections of which only the end is to come, as long
// as that of nf_conntrack_tcp_timeout_fin_wait by default.
const closingTimeout = 2 * time.Minute

// Carry makes conntrack entries for the connections of sockets that have none,
// so that they outlive nf_conntrack_tcp_loose=0 although they began before
// connection tracking was on. It returns how many it made. A connection that is
// tracked already is no error, nor is one that has ended meanwhile; the entry of
// such a one goes when its time is over. One that the kernel refuses for another
// reason, such as a full table, is an error that does not stop the others; the
// first is returned.
//
// The entry is an established one with the window scales that the socket knows.
// Without them the kernel takes windows for too small after one big transfer,
// and forgets a connection that is then silent for
// nf_conntrack_tcp_timeout_unacknowledged (300 s) instead of
// nf_conntrack_tcp_timeout_established.
//
// It is meant for idle connections: the kernel gives every entry that is made so
// a place for what SYNPROXY would note (ctnetlink_create_conntrack in
// net/netfilter/nf_conntrack_netlink.c, 6.18). If the connection ends in a way
// that the entry does not see whole, and its port is used again while there are
// SYNPROXY rules, the proxy's hook takes the new handshake for one of its own
// and spoils it. So active ones are better left to the kernel, which takes them
// up by itself as long as nf_conntrack_tcp_loose is 1.
//
// It needs CAP_NET_ADMIN, else the error is [fs.ErrPermission], and connection
// tracking that is loaded, else it is [fs.ErrNotExist]. A cancelled ctx ends it
// with its error.
func Carry(ctx context.Context, sockets []Socket) (injected int, err error) {
	if len(sockets) == 0 {
		return 0, nil
	}
	seconds, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established")
	if err != nil {
		return 0, err
	}
	d, err := openDialogue()
	if err != nil {
		return 0, err
	}
	defer d.close()
	var refused error
	for len(sockets) > 0 {
		if err := ctx.Err(); err != nil {
			return injected, fmt.Errorf("carry connections over: %w", err)
		}
		batch := sockets[:min(len(sockets), maxBatch)]
		sockets = sockets[len(batch):]
		n, fault, err := d.carry(batch, time.Duration(seconds)*time.Second)
		injected += n
		if err != nil {
			return injected, err
		}
		if refused == nil {
			refused = fault
		}
	}
	return injected, refused
}

// carry is [Carry] of a batch. The kernel refused one connection with refused, if
// that is not nil; err ends the work.
func (d *dialogue) carry(sockets []Socket, timeout time.Duration) (injected int, refused, err error) {
	requests := make([]request, len(sockets))
	for i, s := range sockets {
		requests[i] = s.entry(timeout).insertion()
	}
	answers, err := d.ask(requests)
	if err != nil {
		return 0, nil, err
	}
	for i, a := range answers {
		switch {
		case a.err == nil:
			injected++
		case !errors.Is(a.err, unix.EEXIST):
			refused = fmt.Errorf("carry %s over: %w", sockets[i].tuple(), a.err)
		}
	}
	return injected, refused, nil
}

// insertion is the request that makes the entry if there is none.
func (c Conn) insertion() request {
	return request{typ: ctnetlink(nl.IPCTNL_MSG_CT_NEW), flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, payload: c.creating()}
}

// tuple returns the initiator's direction.
func (s Socket) tuple() Tuple {
	if s.Inbound {
		return Tuple{Src: s.Remote, Dst: s.Local}
	}
	return Tuple{Src: s.Local, Dst: s.Remote}
}

// entry returns the conntrack entry that the connection would have.
//
// It has no history of sequence numbers, and ctnetlink cannot give it one: the
// kernel takes the first packet of each direction for it (tcp_in_window in
// net/netfilter/nf_conntrack_proto_tcp.c). That suits an idle connection. With
// data on its way, the first packet may be one that is sent again, and the next
// acknowledge what was never seen; hence both sides are liberal, as those of a
// connection that the kernel itself picks up.
func (s Socket) entry(timeout time.Duration) Conn {
	c := Conn{
		Original: s.tuple(), Reply: s.tuple().Reverse(), transport: unix.IPPROTO_TCP,
		State: TCPEstablished, Timeout: timeout,
		Status: StatusSeenReply | StatusAssured | StatusConfirmed,
	}
	if s.Closing {
		c.State, c.Timeout = TCPLastAck, min(timeout, closingTimeout)
	}
	flags := FlagLiberal
	if s.SACK {
		flags |= FlagSACKPermitted
	}
	if s.WindowScale {
		flags |= FlagWindowScale
		c.WScaleOriginal, c.WScaleReply = s.LocalWScale, s.RemoteWScale
		if s.Inbound {
			c.WScaleOriginal, c.WScaleReply = s.RemoteWScale, s.LocalWScale
		}
	}
	c.FlagsOriginal, c.FlagsReply = flags, flags
	return c
}
