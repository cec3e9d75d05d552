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

// netfilter is a connection to the netfilter of the network namespace of the
// thread that made it.
type netfilter struct {
	fd       int
	sequence uint32
	buf      []byte
}

// dialNetlink opens a connection.
func dialNetlink(ctx context.Context) (*netfilter, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netfilter: %w", err)
	}
	// Answers need not repeat the question; and the kernel may have to wait for
	// the transactions of others.
	const patience = 60 // seconds
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience})
	// The kernel fills as much of a dump into one answer as the last read had
	// room for, to 32 KiB (netlink_dump in net/netlink/af_netlink.c, 6.18), and for each
	// answer it walks through the whole set to where it was.
	return &netfilter{fd: fd, buf: make([]byte, 64<<10)}, nil
}

func (n *netfilter) close() { _ = unix.Close(n.fd) }

// ask sends a request and calls see with each answer, behind its netfilter header.
// The error of the kernel ends it, as the end of a dump does, or the first
// answer to what is no dump.
func (n *netfilter) ask(kind netlink.HeaderType, flags netlink.HeaderFlags, head []byte, attrs []attr, see func(head, attrs []byte) error) error {
	var b batch
	b.sequence = n.sequence
	begin := b.begin(kind, flags, head)
	b.buf = appendAttrs(b.buf, attrs)
	b.end(begin)
	n.sequence = b.sequence
	if err := unix.Sendto(n.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		done, err := n.answers(func(m message) (bool, error) {
			switch {
			case m.sequence != n.sequence:
				return false, nil // of a question that was given up
			case m.kind == unix.NLMSG_ERROR || m.kind == unix.NLMSG_DONE:
				return true, m.errno()
			case len(m.data) < 4:
				return false, nil
			}
			err := see(m.data[:4], m.data[4:])
			return err != nil || flags&netlink.Dump == 0 && flags&netlink.Acknowledge == 0, err
		})
		if done || err != nil {
			return err
		}
	}
}

// message is one that the kernel sent.
type message struct {
	kind     uint16
	sequence uint32
	data     []byte
}

// errno returns the error that an answer tells; nil for an acknowledgement.
func (m message) errno() error {
	if len(m.data) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(m.data)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

// answers reads once, and calls see with each message until that is done.
func (n *netfilter) answers(see func(message) (done bool, err error)) (bool, error) {
	size, _, err := unix.Recvfrom(n.fd, n.buf, 0)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	for rest := n.buf[:size]; len(rest) >= unix.SizeofNlMsghdr; {
		length := int(binary.NativeEndian.Uint32(rest))
		if length < unix.SizeofNlMsghdr || length > len(rest) {
			return true, unix.EBADMSG
		}
		m := message{kind: binary.NativeEndian.Uint16(rest[4:]), sequence: binary.NativeEndian.Uint32(rest[8:]), data: rest[unix.SizeofNlMsghdr:length]}
		if done, err := see(m); done || err != nil {
			return true, err
		}
		rest = rest[min((length+3)&^3, len(rest)):]
	}
	return false, nil
}

// nft is a connection to nf_tables.
type nft struct{ *netfilter }

func dialNFT(ctx context.Context) (nft, error) {
	n, err := dialNetlink(ctx)
	return nft{n}, err
}

// dump asks for all objects of a kind, and calls see with the attributes of each.
// A table that is not there has none.
func (n nft) dump(f Family, kind int, filter []attr, see func(attrs []byte) error) error {
	err := n.ask(nftType(kind), netlink.Dump, nfgenmsg(protocol(f), 0), filter, func(head, attrs []byte) error {
		if head[0] != protocol(f) {
			return nil
		}
		return see(attrs)
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	return nil
}

// generation returns the number of changes that nf_tables has seen.
func (n nft) generation() (uint32, error) {
	var number uint32
	err := n.ask(nftType(unix.NFT_MSG_GETGEN), 0, nfgenmsg(unix.AF_UNSPEC, 0), nil, func(_, attrs []byte) error {
		a, err := fields(attrs)
		number = num(a[unix.NFTA_GEN_ID])
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("nf_tables: generation: %w", err)
	}
	return number, nil
}

// batch collects messages that the kernel takes in one transaction.
type batch struct {
	buf      []byte
	sequence uint32
	last     int      // where the last message begins
	about    []string // what each message is about, from sequence number 1 on
}

// nftMessages names the changes that a batch holds.
var nftMessages = map[int]string{
	unix.NFT_MSG_NEWTABLE: "new table", unix.NFT_MSG_DELTABLE: "delete table", unix.NFT_MSG_NEWCHAIN: "new chain", unix.NFT_MSG_DELCHAIN: "delete chain",
	unix.NFT_MSG_NEWRULE: "new rule", unix.NFT_MSG_DELRULE: "delete rules", unix.NFT_MSG_NEWSET: "new set", unix.NFT_MSG_DELSET: "delete set",
	unix.NFT_MSG_NEWSETELEM: "new members", unix.NFT_MSG_DELSETELEM: "delete members", unix.NFT_MSG_NEWOBJ: "new object", unix.NFT_MSG_DELOBJ: "delete object",
}

// add appends one message.
func (b *batch) add(f Family, message int, flags netlink.HeaderFlags, attrs ...attr) {
	begin := b.begin(nftType(message), flags, nfgenmsg(protocol(f), 0))
	about := &b.about[len(b.about)-1]
	*about = fmt.Sprintf("%s %s", nftMessages[message], nftFamily(f))
	for _, a := range attrs[min(1, len(attrs)):] {
		if n := len(a.data); n > 4 && a.data[n-1] == 0 {
			*about += " " + string(a.data[:n-1])
			break
		}
	}
	b.buf = appendAttrs(b.buf, attrs)
	b.end(begin)
}

func (b *batch) begin(kind netlink.HeaderType, flags netlink.HeaderFlags, head []byte) int {
	begin := len(b.buf)
	b.sequence++
	b.last = begin
	b.about = append(b.about, "the transaction")
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
	n, err := dialNetlink(context.Background())
	if err != nil {
		return err
	}
	defer n.close()
	if size := len(b.buf); size > 64<<10 {
		if err := unix.SetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*size); err != nil {
			return fmt.Errorf("nf_tables: room for a transaction of %d bytes: %w", size, err)
		}
	}
	if err := unix.Sendto(n.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("nf_tables: transaction of %d bytes: %w", len(b.buf), err)
	}
	return n.verdict(last, b.about)
}

// verdict reads answers until that of the last message has come.
func (n *netfilter) verdict(last uint32, about []string) error {
	var failed error
	for {
		done, err := n.answers(func(m message) (bool, error) {
			if m.kind != unix.NLMSG_ERROR {
				return false, nil
			}
			if err := m.errno(); err != nil && failed == nil {
				failed = fmt.Errorf("nf_tables: %s: %w", about[min(int(max(m.sequence, 1)), len(about))-1], err)
			}
			// One answer about the batch itself bears the number of its begin.
			return m.sequence == last || m.sequence <= 1, nil
		})
		if err != nil {
			return fmt.Errorf("nf_tables: answer to a transaction: %w", err)
		}
		if done {
			return failed
		}
	}
}
