package rules

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attr is a netlink attribute: bytes, or attributes within it.
type attr struct {
	kind   uint16
	data   []byte
	nested []attr
}

// leaf is an attribute of bytes, nest one of attributes.
func leaf(kind uint16, data []byte) attr    { return attr{kind: kind, data: data} }
func nest(kind uint16, within ...attr) attr { return attr{kind: kind, nested: within} }

// appendAttrs appends attributes as they are sent, with their padding.
func appendAttrs(b []byte, list []attr) []byte {
	for _, a := range list {
		kind := a.kind
		if a.nested != nil {
			kind |= unix.NLA_F_NESTED
		}
		var begin int
		b, begin = openAttr(b, kind)
		if a.nested != nil {
			b = appendAttrs(b, a.nested)
		} else {
			b = append(b, a.data...)
		}
		b = closeAttr(b, begin)
	}
	return b
}

// openAttr appends the head of an attribute, and tells where it begins.
func openAttr(b []byte, kind uint16) (opened []byte, begin int) {
	return binary.NativeEndian.AppendUint16(append(b, 0, 0), kind), len(b)
}

// closeAttr ends an attribute whose content has been appended.
func closeAttr(b []byte, begin int) []byte {
	binary.NativeEndian.PutUint16(b[begin:], uint16(len(b)-begin))
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// holds reports whether attributes that the kernel tells are those that were
// sent. What it adds of its own accord must be zero; a counter may have counted.
func holds(have []byte, want []attr) bool {
	d, err := netlink.NewAttributeDecoder(have)
	if err != nil {
		return false
	}
	found := make([]bool, len(want)) // lists repeat a kind, in order
	for d.Next() {
		data := d.Bytes()
		i := 0
		for i < len(want) && (found[i] || want[i].kind != d.Type()) {
			i++
		}
		if i == len(want) {
			if slices.ContainsFunc(data, func(b byte) bool { return b != 0 }) {
				return false
			}
			continue
		}
		found[i] = true
		same := false
		switch w := want[i]; {
		case w.nested == nil:
			same = bytes.Equal(data, w.data)
		case isCounter(w.nested):
			same = countsAlone(data)
		default:
			same = holds(data, w.nested)
		}
		if !same {
			return false
		}
	}
	return d.Err() == nil && !slices.Contains(found, false)
}

// isCounter reports whether attributes are the counter expression.
func isCounter(list []attr) bool {
	return len(list) > 0 && list[0].kind == unix.NFTA_EXPR_NAME && string(list[0].data) == "counter\x00"
}

// countsAlone reports whether an expression that the kernel tells is a counter,
// of whatever it has seen.
func countsAlone(expression []byte) bool {
	a, err := fields(expression)
	return err == nil && str(a[unix.NFTA_EXPR_NAME]) == "counter"
}

// ask sends a request and returns all answers, which it has come in large pieces.
//
// The kernel makes pieces as large as the largest room that the reader has offered
// so far, but at most 32 KiB (netlink_recvmsg in net/netlink/af_netlink.c, 6.18).
// For each piece it walks from the begin of a set to where the last one ended:
// in pieces of a page, 100,000 elements took half a minute.
func ask(conn *netlink.Conn, m netlink.Message) ([]netlink.Message, error) {
	m, err := conn.Send(m)
	if err != nil {
		return nil, err
	}
	if raw, err := conn.SyscallConn(); err == nil { // else it is slow
		_ = raw.Control(func(fd uintptr) {
			_, _, _ = unix.Recvfrom(int(fd), make([]byte, 64<<10), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		})
	}
	replies, err := conn.Receive()
	if err != nil {
		return nil, err
	}
	return replies, netlink.Validate(m, replies)
}

// nft is a connection to nf_tables in the network namespace of the thread that
// made it.
type nft struct{ conn *netlink.Conn }

func dialNFT(ctx context.Context) (nft, error) {
	conn, err := dialNetfilter(ctx)
	return nft{conn}, err
}

// dump asks for all objects of a kind, and calls see with the attributes of each.
// A table that is not there has none.
func (n nft) dump(f Family, message int, filter []attr, see func(attrs []byte) error) error {
	replies, err := ask(n.conn, netlink.Message{
		Header: netlink.Header{Type: nftType(message), Flags: netlink.Request | netlink.Dump},
		Data:   appendAttrs(nfgenmsg(protocol(f), 0), filter),
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	for _, m := range replies {
		if len(m.Data) < 4 || m.Data[0] != protocol(f) {
			continue
		}
		if err := see(m.Data[4:]); err != nil {
			return fmt.Errorf("nf_tables: %w", err)
		}
	}
	return nil
}

// generation returns the number of changes that nf_tables has seen.
func (n nft) generation() (uint32, error) {
	replies, err := n.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: nftType(unix.NFT_MSG_GETGEN), Flags: netlink.Request},
		Data:   nfgenmsg(unix.AF_UNSPEC, 0),
	})
	if err != nil || len(replies) == 0 || len(replies[0].Data) < 4 {
		return 0, fmt.Errorf("nf_tables: generation: %w", err)
	}
	d, err := netlink.NewAttributeDecoder(replies[0].Data[4:])
	if err != nil {
		return 0, err
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		if d.Type() == unix.NFTA_GEN_ID {
			return d.Uint32(), nil
		}
	}
	return 0, d.Err()
}

// batch collects messages that the kernel takes in one transaction.
type batch struct {
	buf      []byte
	sequence uint32
	last     int // where the last message begins
}

// add appends one message.
func (b *batch) add(f Family, message int, flags netlink.HeaderFlags, attrs ...attr) {
	begin := b.begin(nftType(message), flags, nfgenmsg(protocol(f), 0))
	b.buf = appendAttrs(b.buf, attrs)
	b.end(begin)
}

func (b *batch) begin(kind netlink.HeaderType, flags netlink.HeaderFlags, head []byte) int {
	begin := len(b.buf)
	b.sequence++
	b.last = begin
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(kind))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(netlink.Request|flags))
	b.buf = binary.NativeEndian.AppendUint32(b.buf, b.sequence)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0)
	b.buf = append(b.buf, head...)
	return begin
}

func (b *batch) end(begin int) {
	binary.NativeEndian.PutUint32(b.buf[begin:], uint32(len(b.buf)-begin))
}

func (b *batch) mark(message int) {
	b.end(b.begin(netlink.HeaderType(message), 0, nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)))
}

// commit sends the batch that fill collects, and waits for the kernel's answer. If
// fill fails nothing is sent.
// The messages of a batch are one datagram, which large sets make larger than
// a socket's buffer; that the kernel grows for those who may change its rules.
func commit(fill func(*batch) error) error {
	b := &batch{}
	b.mark(unix.NFNL_MSG_BATCH_BEGIN)
	if err := fill(b); err != nil {
		return err
	}
	// The last change asks for an answer, which comes after all errors.
	const flags = 6 // offset in a message
	last := b.sequence
	at := b.buf[b.last+flags:]
	binary.NativeEndian.PutUint16(at, binary.NativeEndian.Uint16(at)|uint16(netlink.Acknowledge))
	b.mark(unix.NFNL_MSG_BATCH_END)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) // answers need not repeat the question
	if size := len(b.buf); size > 64<<10 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*size); err != nil {
			return fmt.Errorf("nf_tables: room for a transaction of %d bytes: %w", size, err)
		}
	}
	if err := unix.Sendto(fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("nf_tables: transaction of %d bytes: %w", len(b.buf), err)
	}
	return verdict(fd, last)
}

// verdict reads answers until that of the last message has come.
func verdict(fd int, last uint32) error {
	const patience = 60 // seconds: the kernel waits for other transactions
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience})
	buf := make([]byte, 64<<10)
	var errs []error
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("nf_tables: answer to a transaction: %w", err)
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.SizeofNlMsghdr || size > len(rest) {
				break
			}
			kind, sequence := binary.NativeEndian.Uint16(rest[4:]), binary.NativeEndian.Uint32(rest[8:])
			if kind == unix.NLMSG_ERROR {
				if code := int32(binary.NativeEndian.Uint32(rest[unix.SizeofNlMsghdr:])); code != 0 && len(errs) < 8 {
					errs = append(errs, unix.Errno(-code))
				}
				// One answer about the batch itself bears the number of its begin.
				if sequence == last || sequence <= 1 {
					if len(errs) > 0 {
						return fmt.Errorf("nf_tables: %w", errs[0])
					}
					return nil
				}
			}
			rest = rest[min((size+3)&^3, len(rest)):]
		}
	}
}
