package rules

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// BaseChain names a built-in chain, or with an empty Chain its table, that
// iptables-nft made when it was first used.
type BaseChain struct {
	Family Family `json:"family"`
	Table  Table  `json:"table"`
	Chain  string `json:"chain,omitempty"`
}

// BaseChains of the legacy variant are part of the kernel and cannot be removed.
func (x *xtables) BaseChains(ctx context.Context) ([]BaseChain, error) {
	if x.name == Legacy {
		return nil, nil
	}
	conn, err := dialNetfilter(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return baseChains(conn)
}

// Prune removes what is not in keep of the built-in chains that our jumps stand
// in, and a table whose last chain went so; also one in which an anchor alone
// may have stood, which has no built-in chain. Each object goes only if it is
// unused at that moment: NLM_F_NONREC makes the kernel say EBUSY otherwise
// (nf_tables_deltable and nf_tables_delchain in net/netfilter/nf_tables_api.c,
// since Linux 4.15). Chains and tables of others stay, empty or not.
func (x *xtables) Prune(ctx context.Context, keep []BaseChain) error {
	if x.name == Legacy {
		return nil
	}
	conn, err := dialNetfilter(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	now, err := baseChains(conn)
	if err != nil {
		return err
	}
	var errs []error
	emptied := map[BaseChain]bool{} // tables that lost a chain
	for _, b := range now {         // chains before their table
		table := BaseChain{Family: b.Family, Table: b.Table}
		if slices.Contains(keep, b) || b == table && !emptied[table] && b.Table != anchorTable {
			continue
		}
		removed, err := removeUnused(conn, b)
		errs = append(errs, err)
		emptied[table] = emptied[table] || removed
	}
	return errors.Join(errs...)
}

// The part of linux/netfilter/nf_tables.h and nfnetlink.h that is needed.
const (
	nlmNonRec    = 0x100 // NLM_F_NONREC
	attrTable    = 1     // NFTA_CHAIN_TABLE, NFTA_TABLE_NAME
	attrChain    = 3     // NFTA_CHAIN_NAME
	attrHook     = 4     // NFTA_CHAIN_HOOK
	attrPolicy   = 5     // NFTA_CHAIN_POLICY
	policyAccept = 1     // NF_ACCEPT
)

func nftType(message int) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message)
}

// nfgenmsg is the header of every netfilter message.
func nfgenmsg(family uint8, resource uint8) []byte {
	return []byte{family, unix.NFNETLINK_V0, 0, resource}
}

func protocol(f Family) uint8 {
	if f == IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func dialNetfilter(ctx context.Context) (*netlink.Conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	return conn, nil
}

// baseChains lists the tables that we use and their base chains, the chains of
// a table before the table itself. The list is never nil: "none" is an answer.
func baseChains(conn *netlink.Conn) ([]BaseChain, error) {
	all := []BaseChain{}
	for _, f := range Families {
		for _, message := range []int{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETTABLE} {
			found, err := dumpBase(conn, f, message)
			if err != nil {
				return nil, fmt.Errorf("nf_tables: list of chains: %w", err)
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

func dumpBase(conn *netlink.Conn, f Family, message int) ([]BaseChain, error) {
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: nftType(message), Flags: netlink.Request | netlink.Dump},
		Data:   nfgenmsg(protocol(f), 0),
	})
	if err != nil {
		return nil, err
	}
	var found []BaseChain
	for _, m := range replies {
		if len(m.Data) < 4 || m.Data[0] != protocol(f) {
			continue
		}
		b, ok, err := decodeBase(f, message == unix.NFT_MSG_GETTABLE, m.Data[4:])
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, b)
		}
	}
	return found, nil
}

// decodeBase reads the attributes of one table, or of one chain if that is a
// base chain with the policy accept.
func decodeBase(f Family, isTable bool, attrs []byte) (BaseChain, bool, error) {
	d, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return BaseChain{}, false, err
	}
	d.ByteOrder = binary.BigEndian
	b := BaseChain{Family: f}
	hooked, accepts := false, true
	for d.Next() {
		switch {
		case d.Type() == attrTable:
			b.Table = Table(d.String())
		case isTable: // its other attributes are of no interest
		case d.Type() == attrChain:
			b.Chain = d.String()
		case d.Type() == attrHook:
			hooked = true
		case d.Type() == attrPolicy:
			accepts = d.Uint32() == policyAccept
		}
	}
	return b, b.isOurPlace() && (isTable || hooked && accepts), d.Err()
}

// isOurPlace reports whether a jump of ours could have been the reason for it.
func (b BaseChain) isOurPlace() bool {
	return slices.ContainsFunc(hooks[:], func(h hook) bool {
		return h.table == b.Table && (b.Chain == "" || h.base == b.Chain)
	})
}

// removeUnused removes a chain or a table. That it is in use, or gone already,
// is no error.
func removeUnused(conn *netlink.Conn, b BaseChain) (removed bool, err error) {
	message := unix.NFT_MSG_DELTABLE
	attrs := []netlink.Attribute{{Type: attrTable, Data: append([]byte(b.Table), 0)}}
	if b.Chain != "" {
		message = unix.NFT_MSG_DELCHAIN
		attrs = append(attrs, netlink.Attribute{Type: attrChain, Data: append([]byte(b.Chain), 0)})
	}
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return false, fmt.Errorf("nf_tables: %w", err)
	}
	_, err = conn.SendMessages([]netlink.Message{
		batchMark(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{Type: nftType(message), Flags: netlink.Request | netlink.Acknowledge | nlmNonRec},
			Data:   append(nfgenmsg(protocol(b.Family), 0), data...),
		},
		batchMark(unix.NFNL_MSG_BATCH_END),
	})
	if err == nil {
		_, err = conn.Receive()
	}
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("nf_tables: remove unused %s %s %s: %w", b.Family, b.Table, b.Chain, err)
	}
	return err == nil, nil
}

func batchMark(message int) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(message), Flags: netlink.Request},
		Data:   nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
	}
}
