package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TCPConnClose is TCP_CONNTRACK_CLOSE, the state of a connection that a RST has
// ended (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
const TCPConnClose = 8

// A Tracked is what the conntrack table holds of one TCP connection.
type Tracked struct {
	// Proxied tells that a SYNPROXY opened the connection (CTA_SYNPROXY).
	Proxied bool
	// State is one of enum tcp_conntrack: 1 SYN_SENT, 2 SYN_RECV,
	// 3 ESTABLISHED, ..., 8 CLOSE.
	State uint8
}

// LookupTCP asks the conntrack table of the calling thread's network namespace
// for the one TCP connection that a client at src opened to dst, as the client
// addressed it, in the default zone. ok is false when there is none. It needs
// CAP_NET_ADMIN, else the error is [fs.ErrPermission].
func LookupTCP(src, dst netip.AddrPort) (t Tracked, ok bool, err error) {
	answer, err := askTCP(nl.IPCTNL_MSG_CT_GET, src, dst)
	if errors.Is(err, unix.ENOENT) {
		return Tracked{}, false, nil
	}
	if err == nil && len(answer) != 1 {
		err = fmt.Errorf("%d answers", len(answer))
	}
	if err == nil {
		t, err = parseTracked(answer[0])
	}
	if err != nil {
		return Tracked{}, false, fmt.Errorf("conntrack entry of %s to %s: %w", src, dst, err)
	}
	return t, true, nil
}

// ForgetTCP removes the entry that [LookupTCP] would find, if there is one.
// What is left of the connection is unknown to conntrack from then on.
func ForgetTCP(src, dst netip.AddrPort) error {
	_, err := askTCP(nl.IPCTNL_MSG_CT_DELETE, src, dst)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the conntrack entry of %s to %s: %w", src, dst, err)
	}
	return nil
}

// askTCP sends a ctnetlink request about one connection.
func askTCP(message int, src, dst netip.AddrPort) ([][]byte, error) {
	from, to := src.Addr().Unmap(), dst.Addr().Unmap()
	if !from.IsValid() || !to.IsValid() || from.Is4() != to.Is4() {
		return nil, errors.New("not addresses of one family")
	}
	family, srcAttr, dstAttr := uint8(unix.AF_INET6), nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	if from.Is4() {
		family, srcAttr, dstAttr = unix.AF_INET, nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	}
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	ip := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	ip.AddRtAttr(srcAttr, from.AsSlice())
	ip.AddRtAttr(dstAttr, to.AsSlice())
	proto := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_TCP})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, src.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, dst.Port()))

	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|message, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	req.AddData(tuple)
	return req.Execute(unix.NETLINK_NETFILTER, 0)
}

// parseTracked reads a ctnetlink message, from its struct nfgenmsg on.
func parseTracked(msg []byte) (Tracked, error) {
	const (
		header    = 4 // struct nfgenmsg
		synproxy  = 24
		protoInfo = 4
		infoTCP   = 1
		tcpState  = 1
	)
	if len(msg) < header {
		return Tracked{}, errors.New("truncated message")
	}
	var t Tracked
	top, err := splitAttributes(msg[header:])
	if err != nil {
		return Tracked{}, err
	}
	_, t.Proxied = top[synproxy]
	info, err := splitAttributes(top[protoInfo])
	if err != nil {
		return Tracked{}, err
	}
	tcp, err := splitAttributes(info[infoTCP])
	if err != nil {
		return Tracked{}, err
	}
	if state := tcp[tcpState]; len(state) > 0 {
		t.State = state[0]
	}
	return t, nil
}

// splitAttributes splits netlink attributes. Of several of one type it keeps the last.
func splitAttributes(b []byte) (map[uint16][]byte, error) {
	const header, typeMask = 4, 1<<14 - 1 // struct nlattr; its type without NLA_F_*
	m := map[uint16][]byte{}
	for len(b) > 0 {
		if len(b) < header {
			return nil, errors.New("truncated attribute")
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < header || size > len(b) {
			return nil, errors.New("truncated attribute")
		}
		m[binary.NativeEndian.Uint16(b[2:])&typeMask] = b[header:size]
		b = b[min((size+3)&^3, len(b)):]
	}
	return m, nil
}
