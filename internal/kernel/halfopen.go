package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// MaxHalfOpen is how many entries [HalfOpen] returns at most.
const MaxHalfOpen = 4096

// errEnough ends a walk that has found all it may.
var errEnough = errors.New("enough")

// HalfOpen returns the entries in SYN_SENT to matched original destinations,
// nil matches all, that no SYNPROXY opened. Such an entry, left from before the
// switch to SYNPROXY, ends the handshake that the client tries again in a RST.
// It returns [MaxHalfOpen] at most; [ForgetHalfOpen] deletes any number. The
// errors are those of [WalkTCP].
func HalfOpen(ctx context.Context, match func(netip.AddrPort) bool) ([]Conn, error) {
	var conns []Conn
	err := walkTCP(ctx, 0, func() { conns = nil }, func(c Conn) error {
		if !c.halfOpen() || !matched(match, c) {
			return nil
		}
		if len(conns) == MaxHalfOpen {
			return errEnough
		}
		conns = append(conns, c)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return conns, nil
}

func (c Conn) halfOpen() bool { return c.State == TCPSynSent && !c.synproxy && !c.zoned }

// Forget deletes the entries of conns, as [HalfOpen] returned them, and returns
// how many it deleted. An entry that is gone, that has another identity by now
// (CTA_ID), that is in SYN_SENT no more or that a SYNPROXY owns is left alone
// and no error. Between the last look and the deletion are some microseconds.
// A new entry of the same addresses and ports, in SYN_SENT too, may have the
// identity of the old one if the kernel makes it in the same place of memory.
//
// It needs CAP_NET_ADMIN, else the error is [fs.ErrPermission]. A cancelled ctx
// ends it with its error.
func Forget(ctx context.Context, conns []Conn) (int, error) {
	return forgetThese(ctx, conns, Conn.halfOpen)
}

// forgetThese deletes the entries that are still the same, and as they should be.
func forgetThese(ctx context.Context, conns []Conn, as func(Conn) bool) (int, error) {
	if len(conns) == 0 {
		return 0, nil
	}
	d, err := openDialogue()
	if err != nil {
		return 0, err
	}
	defer d.close()
	deleted := 0
	for len(conns) > 0 {
		batch := conns[:min(len(conns), maxBatch)]
		conns = conns[len(batch):]
		n, err := d.forget(ctx, batch, as)
		deleted += n
		if err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

// ForgetHalfOpen is [Forget] of all that [HalfOpen] would return if it had no
// limit: it deletes while it reads the table and holds only a few entries.
func ForgetHalfOpen(ctx context.Context, match func(netip.AddrPort) bool) (int, error) {
	return forgetAll(ctx, func(c Conn) bool { return c.halfOpen() && matched(match, c) }, Conn.halfOpen)
}

// forgetAll deletes the wanted entries that are still so when it comes to them.
func forgetAll(ctx context.Context, wanted, still func(Conn) bool) (int, error) {
	d, err := openDialogue()
	if err != nil {
		return 0, err
	}
	defer d.close()
	deleted := 0
	batch := make([]Conn, 0, maxBatch)
	flush := func() error {
		n, err := d.forget(ctx, batch, still)
		deleted += n
		batch = batch[:0]
		return err
	}
	err = walkTCP(ctx, 0, func() { batch = batch[:0] }, func(c Conn) error {
		if !wanted(c) {
			return nil
		}
		if batch = append(batch, c); len(batch) < maxBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return deleted, err
}

// forget looks at the entries once more and deletes those that are still the
// same, and still as they were.
func (d *dialogue) forget(ctx context.Context, conns []Conn, as func(Conn) bool) (deleted int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("forget connections: %w", err)
	}
	requests := make([]request, len(conns))
	for i, c := range conns {
		requests[i] = request{typ: ctnetlink(nl.IPCTNL_MSG_CT_GET), question: true, payload: c.naming()}
	}
	answers, err := d.ask(requests)
	if err != nil {
		return 0, err
	}
	var still []request
	for i, a := range answers {
		if a.err == nil {
			var now Conn
			if now, a.err = parseConn(a.data); a.err == nil && as(now) && (now.id == conns[i].id || conns[i].id == 0) {
				still = append(still, request{typ: ctnetlink(nl.IPCTNL_MSG_CT_DELETE), payload: conns[i].naming()})
			}
		}
		if a.err != nil && !errors.Is(a.err, unix.ENOENT) {
			return 0, fmt.Errorf("look up %s: %w", conns[i].Original, a.err)
		}
	}
	answers, err = d.ask(still)
	if err != nil {
		return 0, err
	}
	for _, a := range answers {
		switch {
		case a.err == nil:
			deleted++
		case !errors.Is(a.err, unix.ENOENT):
			err = fmt.Errorf("forget a connection: %w", a.err)
		}
	}
	return deleted, err
}
