package kernel

import (
	"fmt"
	"net/netip"
	"time"
)

// A Tuple is one direction of a connection: who sends to whom.
type Tuple struct {
	Src, Dst netip.AddrPort
}

// Reverse returns the other direction, if nothing translates addresses.
func (t Tuple) Reverse() Tuple { return Tuple{Src: t.Dst, Dst: t.Src} }

func (t Tuple) String() string { return t.Src.String() + " > " + t.Dst.String() }

// TCPState is the state that connection tracking gives a TCP connection, by its
// number in include/uapi/linux/netfilter/nf_conntrack_tcp.h.
type TCPState uint8

// The states of a tracked TCP connection.
const (
	TCPNone        TCPState = 0
	TCPSynSent     TCPState = 1
	TCPSynRecv     TCPState = 2
	TCPEstablished TCPState = 3
	TCPFinWait     TCPState = 4
	TCPCloseWait   TCPState = 5
	TCPLastAck     TCPState = 6
	TCPTimeWait    TCPState = 7
	TCPClose       TCPState = 8
	// TCPSynSent2 is a simultaneous open.
	TCPSynSent2 TCPState = 9
)

var tcpStateNames = [...]string{
	"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
}

// String returns the name as conntrack(8) writes it.
func (s TCPState) String() string {
	if int(s) < len(tcpStateNames) {
		return tcpStateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Alive tells whether data may still pass in at least one direction. A
// half-closed connection still carries the other half's. SYN_RECV counts: it is
// what a proxied connection, whose third ACK was not tracked, looks like until
// the client's first data.
func (s TCPState) Alive() bool { return s >= TCPSynRecv && s <= TCPLastAck }

// TCPFlags say what connection tracking knows of one side of a TCP connection.
type TCPFlags uint8

// The flags of one side, IP_CT_TCP_FLAG_* of nf_conntrack_tcp.h.
const (
	// FlagWindowScale: the side sent the window scale option.
	FlagWindowScale TCPFlags = 0x01
	// FlagSACKPermitted: the side may receive SACK blocks.
	FlagSACKPermitted TCPFlags = 0x02
	// FlagCloseInit: the side closed first.
	FlagCloseInit TCPFlags = 0x04
	// FlagLiberal: what the side sends is never out of its window.
	FlagLiberal TCPFlags = 0x08
	// FlagUnacknowledged: the side sent data that the other has not acknowledged.
	FlagUnacknowledged TCPFlags = 0x10
)

// Status is the bit set of a conntrack entry, IPS_* of
// include/uapi/linux/netfilter/nf_conntrack_common.h.
type Status uint32

// Some of the bits.
const (
	// StatusSeenReply: packets were seen in both directions.
	StatusSeenReply Status = 1 << 1
	// StatusAssured: the entry is not dropped early when the table is full.
	StatusAssured Status = 1 << 2
	// StatusConfirmed: the entry is in the table.
	StatusConfirmed Status = 1 << 3
)

// A Conn is the entry of one TCP connection in the conntrack table.
type Conn struct {
	// Original is as the initiator addressed it, Reply what the answers bear.
	// With address translation they are not each other's reverse.
	Original, Reply Tuple
	// State is [TCPNone] if the kernel did not tell.
	State TCPState
	// Proxied tells that a SYNPROXY opened the connection: CTA_SYNPROXY is
	// there and not all zero. The kernel gives every entry that was made by
	// ctnetlink one of zeros.
	Proxied bool
	Status  Status
	// Timeout is what is left until the entry is forgotten if nothing passes, in
	// whole seconds.
	Timeout time.Duration
	// WScaleOriginal and WScaleReply are the scales of the windows that the
	// sender of that direction announces; they count if both have
	// [FlagWindowScale].
	WScaleOriginal, WScaleReply uint8
	FlagsOriginal, FlagsReply   TCPFlags
	// Zone is the conntrack zone of both directions; 0 is the usual one.
	Zone uint16

	id        uint32 // CTA_ID; 0 if absent
	synproxy  bool   // CTA_SYNPROXY is present
	zoned     bool   // a zone of one direction only, by which the entry cannot be named here
	transport uint8  // the protocol
}
