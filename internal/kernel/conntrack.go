package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxDumps bounds how often a dump is asked for that the kernel interrupts
// because the table changes below it.
const maxDumps = 5

// ConntrackCount returns how many connections the network namespace tracks and
// how many it may. The limit is the whole machine's and cannot be set inside a
// namespace; 0 means no limit. The error is [fs.ErrNotExist] when connection
// tracking is not loaded.
func ConntrackCount() (count, limit int, err error) {
	if count, err = readNumber("/proc/sys/net/netfilter/nf_conntrack_count"); err != nil {
		return 0, 0, err
	}
	if limit, err = readNumber("/proc/sys/net/netfilter/nf_conntrack_max"); err != nil {
		return 0, 0, err
	}
	return count, limit, nil
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("conntrack: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// WalkTCP calls visit for each TCP connection of both families in the conntrack
// table. The table is streamed, never held; it changes while it is read, so a
// connection that lives all the time is seen, and one that comes or goes may be.
// When the kernel interrupts the dump, it begins again and visit sees entries
// once more. An error of visit ends the walk and is returned wrapped.
//
// It needs CAP_NET_ADMIN, else the error is [fs.ErrPermission]. A cancelled ctx
// ends the walk with its error. Visit must not take long, and may ask the kernel.
func WalkTCP(ctx context.Context, visit func(Conn) error) error {
	return walkTCP(ctx, 0, func() {}, visit)
}

// seqAdjusted is IPS_SEQ_ADJUST in linux/netfilter/nf_conntrack_common.h, which
// SYNPROXY sets on each connection whose server has answered (nf_ct_seqadj_init in
// net/netfilter/nf_conntrack_seqadj.c, 6.18).
const seqAdjusted = 1 << 6

// walkTCP is [WalkTCP] of entries that have all of the given status bits, if the
// kernel can tell; older ones (before 5.15) show all. It calls begin before each
// attempt.
func walkTCP(ctx context.Context, status uint32, begin func(), visit func(Conn) error) error {
	for range maxDumps {
		begin()
		err := walkOnce(ctx, status, visit)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return err
		}
	}
	return fmt.Errorf("conntrack dump: %w %d times", nl.ErrDumpInterrupted, maxDumps)
}

func walkOnce(ctx context.Context, status uint32, visit func(Conn) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("conntrack dump: %w", err)
	}
	req := nl.NewNetlinkRequest(ctnetlink(nl.IPCTNL_MSG_CT_GET), unix.NLM_F_DUMP)
	// AF_UNSPEC dumps both families in one pass.
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	if status != 0 {
		const ctaStatus, ctaStatusMask = 3, 26 // linux/netfilter/nfnetlink_conntrack.h
		bits := binary.BigEndian.AppendUint32(nil, status)
		req.AddData(nl.NewRtAttr(ctaStatus, bits))
		req.AddData(nl.NewRtAttr(ctaStatusMask, bits))
	}

	var fault error
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		if fault = ctx.Err(); fault != nil {
			return false
		}
		var c Conn
		if c, fault = parseConn(msg); fault == nil && c.transport == unix.IPPROTO_TCP {
			fault = visit(c)
		}
		return fault == nil
	})
	if err := errors.Join(fault, err); err != nil {
		return fmt.Errorf("conntrack dump: %w", err)
	}
	return nil
}

// ctnetlink returns the type of a message of ctnetlink.
func ctnetlink(command int) int { return unix.NFNL_SUBSYS_CTNETLINK<<8 | command }

// countTCP counts the connections that want accepts.
func countTCP(ctx context.Context, status uint32, want func(Conn) bool) (int, error) {
	count := 0
	err := walkTCP(ctx, status, func() { count = 0 }, func(c Conn) error {
		if want(c) {
			count++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return count, nil
}

// ProxiedConnections counts the connections of both families that a SYNPROXY
// opened and that are established: entries of the conntrack table with the
// attribute CTA_SYNPROXY, which `conntrack -L` does not show. With a match it
// counts those whose original destination, as the client addressed it, is
// matched; nil matches all. The errors are those of [WalkTCP].
func ProxiedConnections(ctx context.Context, match func(netip.AddrPort) bool) (int, error) {
	return countTCP(ctx, 0, func(c Conn) bool {
		return c.Proxied && c.State == TCPEstablished && matched(match, c)
	})
}

// AliveProxied counts the proxied connections that would break if SYNPROXY's
// hooks went now: those of [ProxiedConnections], and those that are only half
// closed or not yet seen to be open ([TCPState.Alive]).
func AliveProxied(ctx context.Context, match func(netip.AddrPort) bool) (int, error) {
	return countTCP(ctx, seqAdjusted, func(c Conn) bool {
		return c.Proxied && c.State.Alive() && matched(match, c)
	})
}

// RoutedConnections counts the established TCP connections to matched original
// destinations that no SYNPROXY opened; nil matches all. They are known to
// connection tracking, so they survive the switch to SYNPROXY.
func RoutedConnections(ctx context.Context, match func(netip.AddrPort) bool) (int, error) {
	return countTCP(ctx, 0, func(c Conn) bool {
		return !c.Proxied && c.State == TCPEstablished && matched(match, c)
	})
}

func matched(match func(netip.AddrPort) bool, c Conn) bool {
	return match == nil || match(c.Original.Dst)
}
