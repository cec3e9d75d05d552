package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// The attributes of a conntrack entry that matter here, as numbered in
// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig     = 1
	ctaProtoInfo     = 4
	ctaSynproxy      = 24
	ctaTupleIP       = 1
	ctaTupleProto    = 2
	ctaIPv4Dst       = 2
	ctaIPv6Dst       = 4
	ctaProtoDstPort  = 3
	ctaProtoInfoTCP  = 1
	ctaProtoTCPState = 1

	tcpEstablished = 3 // TCP_CONNTRACK_ESTABLISHED
)

const (
	nfgenmsgLen = 4 // struct nfgenmsg
	nlattrLen   = 4 // struct nlattr
	nlaTypeMask = 1<<14 - 1
)

// A conn is one entry of the conntrack table.
type conn struct {
	proxied bool
	state   uint8          // 0 unless it is TCP
	dst     netip.AddrPort // the original direction's; port 0 where it has none
}

var errTruncated = errors.New("truncated netlink attribute")

// parseConn reads one ctnetlink message, from its struct nfgenmsg on.
func parseConn(msg []byte) (conn, error) {
	if len(msg) < nfgenmsgLen {
		return conn{}, errTruncated
	}
	var c conn
	err := attributes(msg[nfgenmsgLen:], func(typ uint16, data []byte) error {
		switch typ {
		case ctaSynproxy:
			c.proxied = true
		case ctaTupleOrig:
			return c.parseTuple(data)
		case ctaProtoInfo:
			return c.parseProtoInfo(data)
		}
		return nil
	})
	if err != nil {
		return conn{}, err
	}
	return c, nil
}

func (c *conn) parseTuple(data []byte) error {
	var (
		addr netip.Addr
		port uint16
	)
	err := attributes(data, func(typ uint16, data []byte) error {
		switch typ {
		case ctaTupleIP:
			return attributes(data, func(typ uint16, data []byte) error {
				if typ != ctaIPv4Dst && typ != ctaIPv6Dst {
					return nil
				}
				a, ok := netip.AddrFromSlice(data)
				if !ok || a.Is4() != (typ == ctaIPv4Dst) {
					return fmt.Errorf("address of %d bytes", len(data))
				}
				addr = a
				return nil
			})
		case ctaTupleProto:
			return attributes(data, func(typ uint16, data []byte) error {
				if typ != ctaProtoDstPort {
					return nil
				}
				if len(data) != 2 {
					return fmt.Errorf("port of %d bytes", len(data))
				}
				port = binary.BigEndian.Uint16(data)
				return nil
			})
		}
		return nil
	})
	c.dst = netip.AddrPortFrom(addr, port)
	return err
}

func (c *conn) parseProtoInfo(data []byte) error {
	return attributes(data, func(typ uint16, data []byte) error {
		if typ != ctaProtoInfoTCP {
			return nil
		}
		return attributes(data, func(typ uint16, data []byte) error {
			if typ != ctaProtoTCPState {
				return nil
			}
			if len(data) != 1 {
				return fmt.Errorf("TCP state of %d bytes", len(data))
			}
			c.state = data[0]
			return nil
		})
	})
}

// attributes calls visit for each attribute in data, without the flags for
// nesting and byte order in its type.
func attributes(data []byte, visit func(typ uint16, data []byte) error) error {
	for len(data) > 0 {
		if len(data) < nlattrLen {
			return errTruncated
		}
		size := int(binary.NativeEndian.Uint16(data))
		typ := binary.NativeEndian.Uint16(data[2:]) & nlaTypeMask
		if size < nlattrLen || size > len(data) {
			return errTruncated
		}
		if err := visit(typ, data[nlattrLen:size]); err != nil {
			return err
		}
		// The last attribute need not be padded to the alignment of 4.
		data = data[min((size+3)&^3, len(data)):]
	}
	return nil
}
