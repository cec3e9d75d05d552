package rules

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Window is not a table of xtables: it stands for a table of nft, of our own and
// with a chain of our own, which does what no xtables target can. It opens the
// window of the proxy's SYN+ACK from 0 to 1.
//
// A client whose ACK was lost on the way to the proxy, or that has queued data
// with its SYN, probes a window of 0 with a byte of its initial sequence number,
// which no cookie fits: it hangs for good. With a window of 1 it sends its first
// byte instead, and the cookie is good (synproxy_recv_client_ack in
// net/netfilter/nf_synproxy_core.c, 6.18). A client that has nothing to send is
// not helped.
const Window Table = "window"

// chainWindow is hooked into OUTPUT, at the priority of the mangle table.
const chainWindow = ChainPrefix + "_WINDOW"

// windowText is the rule as nft shows it. Nobody else but a SYNPROXY sends a
// SYN+ACK with window 0.
const windowText = "tcp flags & (fin | syn | rst | ack) == syn | ack tcp window 0 tcp window set 1"

// CanOpenWindow reports whether this host's kernel has nf_tables, which [Window]
// needs.
func CanOpenWindow(ctx context.Context) bool {
	n, err := dialNFT(ctx)
	if err != nil {
		return false
	}
	defer n.close()
	_, err = n.generation()
	return err == nil
}

// windowTable returns the name of the table of a backend; each has its own, so
// that what one makes is not taken for the other's.
func (x *xtables) windowTable() string {
	return SetPrefix + "_" + strings.TrimPrefix(x.name, "iptables-")
}

// listWindow adds our chains of nft to a rule set. Without nf_tables there are none.
func (x *xtables) listWindow(ctx context.Context, rs Ruleset) error {
	n, err := dialNFT(ctx)
	if err != nil {
		return nil //nolint:nilerr // which the programs tell better
	}
	defer n.close()
	if _, err := n.generation(); err != nil {
		return nil //nolint:nilerr // no nf_tables in this kernel, or no right to it
	}
	for _, f := range Families {
		r := nftReader{nft: n, family: f, table: x.windowTable(), into: newRuleset()}
		if err := errors.Join(r.chains(), r.rules()); err != nil {
			return fmt.Errorf("nft table %s: %w", x.windowTable(), err)
		}
		for id, rules := range r.into.chains {
			rs.chains[chainID{f, Window, "", id.name}] = rules
		}
	}
	return nil
}

// applyWindow writes our chain of nft anew, or removes its table, in one
// transaction.
func (x *xtables) applyWindow(s Step) error {
	w := nftWriter{table: x.windowTable()}
	err := commit(func(b *batch) error {
		w.batch = b
		table := func(message int, flags netlink.HeaderFlags) {
			w.add(s.Family, message, flags, leaf(unix.NFTA_TABLE_NAME, text(w.table)))
		}
		// What is there goes in the same transaction: with the table added first,
		// its deletion cannot fail for the want of it.
		table(unix.NFT_MSG_NEWTABLE, create)
		table(unix.NFT_MSG_DELTABLE, 0)
		if len(s.destroy) == 0 {
			table(unix.NFT_MSG_NEWTABLE, create)
			id := chainID{s.Family, Window, "", chainWindow}
			w.chain(id)
			w.rule(id, Rule{Family: s.Family, Table: Window, Chain: chainWindow, Foreign: windowText})
		}
		return w.err
	})
	if err != nil {
		return fmt.Errorf("nft table %s: %w", w.table, err)
	}
	return nil
}

// renderWindow returns the step as input of nft(8), for people.
func (x *xtables) renderWindow(s Step) string {
	family, table := nftFamily(s.Family), x.windowTable()
	if len(s.destroy) > 0 {
		return fmt.Sprintf("# nft\ndelete table %s %s\n", family, table)
	}
	return fmt.Sprintf("# nft\ntable %s %s {\n\tchain %s {\n\t\ttype filter hook output priority mangle; policy accept;\n\t\t%s\n\t}\n}\n",
		family, table, chainWindow, windowText)
}
