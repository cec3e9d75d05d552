package kernel

import (
	"context"
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

// ProxiedConnections counts the connections of both families that a SYNPROXY
// opened and that are established: entries of the conntrack table with the
// attribute CTA_SYNPROXY, which `conntrack -L` does not show. With a match it
// counts those whose original destination, as the client addressed it, is
// matched; nil matches all.
//
// The table is streamed, never held. It needs CAP_NET_ADMIN, else the error is
// [fs.ErrPermission]. A cancelled ctx ends the count with its error.
func ProxiedConnections(ctx context.Context, match func(netip.AddrPort) bool) (int, error) {
	for range maxDumps {
		n, err := proxiedOnce(ctx, match)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return n, err
		}
	}
	return 0, fmt.Errorf("conntrack dump: %w %d times", nl.ErrDumpInterrupted, maxDumps)
}

func proxiedOnce(ctx context.Context, match func(netip.AddrPort) bool) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("conntrack dump: %w", err)
	}
	const get = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_GET
	req := nl.NewNetlinkRequest(get, unix.NLM_F_DUMP)
	// AF_UNSPEC dumps both families in one pass.
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})

	count := 0
	var fault error
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		if fault = ctx.Err(); fault != nil {
			return false
		}
		c, err := parseConn(msg)
		if err != nil {
			fault = err
			return false
		}
		if c.proxied && c.state == tcpEstablished && (match == nil || match(c.dst)) {
			count++
		}
		return true
	})
	if err := errors.Join(fault, err); err != nil {
		return 0, fmt.Errorf("conntrack dump: %w", err)
	}
	return count, nil
}
