package rules

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
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
	if context.Cause(ctx) != nil {
		return false
	}
	c, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	return err == nil
}

// windowExprs returns what the rule is to the kernel.
func windowExprs() []expr.Any {
	const flags, window, checksum = 13, 14, 16 // offsets in the TCP header
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{byte(handshake)}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(SYN | ACK)}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: window, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(0)},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(1)},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: window, Len: 2,
			CsumType: expr.CsumTypeInet, CsumOffset: checksum,
		},
	}
}

// windowTable returns the table of a backend; each has its own, so that what
// one makes is not taken for the other's.
func (x *xtables) windowTable(f Family) *nftables.Table {
	t := &nftables.Table{Name: "synproxyctl_" + strings.TrimPrefix(x.name, "iptables-"), Family: nftables.TableFamilyIPv4}
	if f == IPv6 {
		t.Family = nftables.TableFamilyIPv6
	}
	return t
}

func windowChain(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{
		Name: chainWindow, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityMangle,
	}
}

// listWindow adds our chains of nft to a rule set. Without nf_tables there are none.
func (x *xtables) listWindow(rs Ruleset) error {
	c, err := nftables.New()
	if err != nil {
		return nil //nolint:nilerr // no nf_tables in this kernel, or no right to it, which the programs tell better
	}
	for _, f := range Families {
		t := x.windowTable(f)
		chains, err := c.ListChainsOfTableFamily(t.Family)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		for _, ch := range chains {
			if ch.Table.Name != t.Name || !ours(ch.Name) {
				continue
			}
			found, err := c.GetRules(t, ch)
			if errors.Is(err, unix.ENOENT) {
				continue // gone meanwhile
			}
			if err != nil {
				return fmt.Errorf("nft table %s: %w", t.Name, err)
			}
			rs.chains[chainID{f, Window, "", ch.Name}] = windowRules(f, ch, found)
		}
	}
	return nil
}

// windowRules reads rules back, and the way the chain is hooked as one more.
func windowRules(f Family, ch *nftables.Chain, found []*nftables.Rule) []Rule {
	var rules []Rule
	add := func(text string) {
		rules = append(rules, Rule{Family: f, Table: Window, Chain: ch.Name, Foreign: text})
	}
	want := windowChain(ch.Table)
	if ch.Hooknum == nil || *ch.Hooknum != *want.Hooknum || ch.Priority == nil || *ch.Priority != *want.Priority {
		add("not hooked where it should be")
	}
	for _, r := range found {
		if reflect.DeepEqual(r.Exprs, windowExprs()) {
			add(windowText)
		} else {
			add(fmt.Sprintf("a rule of somebody else (handle %d)", r.Handle))
		}
	}
	return rules
}

// applyWindow writes our chain of nft anew, or removes its table, in one
// transaction.
func (x *xtables) applyWindow(s Step) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	t := x.windowTable(s.Family)
	// What is there goes in the same transaction: with the table added first,
	// its deletion cannot fail for the want of it.
	c.AddTable(t)
	c.DelTable(t)
	if len(s.destroy) == 0 {
		c.AddTable(t)
		ch := c.AddChain(windowChain(t))
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: windowExprs()})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nft table %s: %w", t.Name, err)
	}
	return nil
}

// renderWindow returns the step as input of nft(8), for people.
func (x *xtables) renderWindow(s Step) string {
	t := x.windowTable(s.Family)
	family := map[Family]string{IPv4: "ip", IPv6: "ip6"}[s.Family]
	if len(s.destroy) > 0 {
		return fmt.Sprintf("# nft\ndelete table %s %s\n", family, t.Name)
	}
	return fmt.Sprintf("# nft\ntable %s %s {\n\tchain %s {\n\t\ttype filter hook output priority mangle; policy accept;\n\t\t%s\n\t}\n}\n",
		family, t.Name, chainWindow, windowText)
}
