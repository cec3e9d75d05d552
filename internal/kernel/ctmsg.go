package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// The attributes of a conntrack entry that matter here, as numbered in
// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaTimeout    = 7
	ctaID         = 12
	ctaZone       = 18
	ctaSynproxy   = 24

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaProtoInfoTCP           = 1
	ctaProtoTCPState          = 1
	ctaProtoTCPWScaleOriginal = 2
	ctaProtoTCPWScaleReply    = 3
	ctaProtoTCPFlagsOriginal  = 4
	ctaProtoTCPFlagsReply     = 5

	ctaSynproxyISN   = 1
	ctaSynproxyITS   = 2
	ctaSynproxyTSOff = 3
)

const (
	nfgenmsgLen = 4 // struct nfgenmsg
	nlattrLen   = 4 // struct nlattr
	nlaTypeMask = 1<<14 - 1
)

var errTruncated = errors.New("truncated netlink attribute")

// parseConn reads one ctnetlink message, from its struct nfgenmsg on.
func parseConn(msg []byte) (Conn, error) {
	if len(msg) < nfgenmsgLen {
		return Conn{}, errTruncated
	}
	var c Conn
	err := attributes(msg[nfgenmsgLen:], func(typ uint16, data []byte) (err error) {
		switch typ {
		case ctaTupleOrig:
			err = c.parseTuple(&c.Original, data)
		case ctaTupleReply:
			err = c.parseTuple(&c.Reply, data)
		case ctaProtoInfo:
			err = c.parseProtoInfo(data)
		case ctaSynproxy:
			err = c.parseSynproxy(data)
		case ctaStatus:
			var n uint32
			n, err = number[uint32]("status", data)
			c.Status = Status(n)
		case ctaTimeout:
			var n uint32
			n, err = number[uint32]("timeout", data)
			c.Timeout = time.Duration(n) * time.Second
		case ctaID:
			c.id, err = number[uint32]("identity", data)
		case ctaZone:
			c.Zone, err = number[uint16]("zone", data)
		}
		return err
	})
	if err != nil {
		return Conn{}, err
	}
	return c, nil
}

func (c *Conn) parseTuple(t *Tuple, data []byte) error {
	var (
		src, dst         netip.Addr
		srcPort, dstPort uint16
	)
	err := attributes(data, func(typ uint16, data []byte) error {
		switch typ {
		case ctaTupleIP:
			return attributes(data, func(typ uint16, data []byte) (err error) {
				switch typ {
				case ctaIPv4Src, ctaIPv6Src:
					src, err = address(typ == ctaIPv4Src, data)
				case ctaIPv4Dst, ctaIPv6Dst:
					dst, err = address(typ == ctaIPv4Dst, data)
				}
				return err
			})
		case ctaTupleProto:
			return attributes(data, func(typ uint16, data []byte) (err error) {
				switch typ {
				case ctaProtoNum:
					c.transport, err = octet("protocol", data)
				case ctaProtoSrcPort:
					srcPort, err = number[uint16]("port", data)
				case ctaProtoDstPort:
					dstPort, err = number[uint16]("port", data)
				}
				return err
			})
		case ctaTupleZone:
			c.zoned = true
		}
		return nil
	})
	t.Src, t.Dst = netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort)
	return err
}

func (c *Conn) parseProtoInfo(data []byte) error {
	return attributes(data, func(typ uint16, data []byte) error {
		if typ != ctaProtoInfoTCP {
			return nil
		}
		return attributes(data, func(typ uint16, data []byte) (err error) {
			var n uint8
			switch typ {
			case ctaProtoTCPState:
				n, err = octet("TCP state", data)
				c.State = TCPState(n)
			case ctaProtoTCPWScaleOriginal:
				c.WScaleOriginal, err = octet("window scale", data)
			case ctaProtoTCPWScaleReply:
				c.WScaleReply, err = octet("window scale", data)
			case ctaProtoTCPFlagsOriginal:
				c.FlagsOriginal, err = tcpFlags(data)
			case ctaProtoTCPFlagsReply:
				c.FlagsReply, err = tcpFlags(data)
			}
			return err
		})
	})
}

// parseSynproxy reads the sequence number, the timestamp and the offset that a
// SYNPROXY notes when it opens the connection to the server.
func (c *Conn) parseSynproxy(data []byte) error {
	c.synproxy = true
	return attributes(data, func(typ uint16, data []byte) error {
		if typ < ctaSynproxyISN || typ > ctaSynproxyTSOff {
			return nil
		}
		n, err := number[uint32]("SYNPROXY value", data)
		c.Proxied = c.Proxied || n != 0
		return err
	})
}

func address(v4 bool, data []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(data)
	if !ok || a.Is4() != v4 {
		return netip.Addr{}, fmt.Errorf("address of %d bytes", len(data))
	}
	return a, nil
}

func octet(what string, data []byte) (uint8, error) {
	if len(data) != 1 {
		return 0, fmt.Errorf("%s of %d bytes", what, len(data))
	}
	return data[0], nil
}

// number reads a number in network byte order.
func number[T uint16 | uint32](what string, data []byte) (T, error) {
	var n T
	if binary.Size(n) != len(data) {
		return 0, fmt.Errorf("%s of %d bytes", what, len(data))
	}
	for _, b := range data {
		n = n<<8 | T(b)
	}
	return n, nil
}

// tcpFlags reads a struct nf_ct_tcp_flags: the flags and a mask.
func tcpFlags(data []byte) (TCPFlags, error) {
	if len(data) != 2 {
		return 0, fmt.Errorf("TCP flags of %d bytes", len(data))
	}
	return TCPFlags(data[0]), nil
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
