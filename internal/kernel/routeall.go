package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A RouteAnswer is what the kernel said of one address.
type RouteAnswer struct {
	RouteInfo
	Err error // as that of [Route]
}

// RouteAll asks what [Route] asks, without a source, of many addresses with
// few system calls. There is an answer to each, in the same order. The error
// concerns all of them; a cancelled ctx ends it with its error.
func RouteAll(ctx context.Context, dsts []netip.Addr) ([]RouteAnswer, error) {
	if len(dsts) == 0 {
		return nil, nil
	}
	d, err := dial(unix.NETLINK_ROUTE, "rtnetlink")
	if err != nil {
		return nil, err
	}
	defer d.close()
	answers := make([]RouteAnswer, len(dsts))
	var (
		known    links
		requests = make([]request, 0, maxBatch)
		asked    = make([]int, 0, maxBatch) // the index of each request's address
	)
	flush := func() error {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("routes: %w", context.Cause(ctx))
		}
		said, err := d.ask(requests)
		if err != nil {
			return err
		}
		for k, i := range asked {
			answers[i] = known.route(dsts[i].Unmap(), said[k])
		}
		requests, asked = requests[:0], asked[:0]
		return nil
	}
	for i, dst := range dsts {
		if !dst.IsValid() || dst.IsMulticast() || dst.Zone() != "" {
			answers[i].RouteInfo, answers[i].Err = Route(dst, netip.Addr{})
			continue
		}
		requests, asked = append(requests, routeRequest(dst.Unmap())), append(asked, i)
		if len(requests) == maxBatch {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return answers, nil
}

// routeRequest asks for the route to one address.
func routeRequest(dst netip.Addr) request {
	const rtmFLookupTable = 0x1000 // RTM_F_LOOKUP_TABLE of linux/rtnetlink.h
	family, octets := byte(unix.AF_INET), 4
	if dst.Is6() {
		family, octets = unix.AF_INET6, 16
	}
	b := make([]byte, 0, unix.SizeofRtMsg+unix.SizeofRtAttr+octets)
	b = append(b, family, byte(dst.BitLen()), 0, 0, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, rtmFLookupTable)
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+octets))
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_DST)
	if dst.Is4() {
		a := dst.As4()
		b = append(b, a[:]...)
	} else {
		a := dst.As16()
		b = append(b, a[:]...)
	}
	return request{typ: unix.RTM_GETROUTE, payload: b, question: true}
}

// route reads the kernel's answer to a [routeRequest].
func (l *links) route(dst netip.Addr, a answer) RouteAnswer {
	if reason := unreachable(a.err); reason != "" {
		return RouteAnswer{RouteInfo: RouteInfo{Unreachable: reason}}
	}
	r, err := taken{}, a.err
	if err == nil {
		r, err = parseRoute(a.data)
	}
	var info RouteInfo
	if err == nil {
		info, err = l.describe(r, dst)
	}
	if err != nil {
		return RouteAnswer{Err: fmt.Errorf("route to %s: %w", dst, err)}
	}
	return RouteAnswer{RouteInfo: info}
}

// parseRoute reads a message RTM_NEWROUTE, from its struct rtmsg on.
func parseRoute(msg []byte) (taken, error) {
	const typeAt = 7 // rtm_type
	if len(msg) < unix.SizeofRtMsg {
		return taken{}, errTruncated
	}
	r := taken{typ: int(msg[typeAt])}
	err := attributes(msg[unix.SizeofRtMsg:], func(typ uint16, data []byte) (err error) {
		switch typ {
		case unix.RTA_OIF:
			r.index, err = native("interface", data)
		case unix.RTA_METRICS:
			err = attributes(data, func(typ uint16, data []byte) (err error) {
				if typ == unix.RTAX_MTU {
					r.mtu, err = native("mtu", data)
				}
				return err
			})
		}
		return err
	})
	return r, err
}

// native reads a number of 32 bits in the order of this machine.
func native(what string, data []byte) (int, error) {
	if len(data) != 4 {
		return 0, fmt.Errorf("%s of %d bytes", what, len(data))
	}
	n := binary.NativeEndian.Uint32(data)
	if n > 1<<31-1 {
		return 0, errors.New(what + " out of range")
	}
	return int(n), nil
}
