package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Read returns the rules of others in the calling thread's network namespace:
// those of both variants of iptables by their programs, those of nft from the
// kernel, and so the tables of iptables-nft that it cannot show. The error
// wraps [rules.ErrUnsupported] if a program is missing that this needs, and
// fs.ErrPermission without CAP_NET_ADMIN.
func Read(ctx context.Context) (Firewall, error) {
	dumped, err := rules.Dumps(ctx)
	if err != nil {
		return Firewall{}, fmt.Errorf("read the rules of iptables: %w", err)
	}
	var chains []Chain
	shown := map[nftID]bool{}
	for _, t := range dumped {
		for _, d := range t.Dumps {
			more := FromDump(Origin(t.Backend), d)
			chains = append(chains, more...)
			for i := range more {
				if t.Backend == rules.NFT {
					shown[nftID{protocolOf(d.Family), more[i].Table, more[i].Name}] = true
				}
			}
		}
	}
	skip := func(id nftID) bool { return shown[id] }
	n, err := readNFT(ctx, skip)
	if err != nil {
		return Firewall{}, fmt.Errorf("read the rules of nft: %w", err)
	}
	interfaces, err := interfaceNames()
	if err != nil {
		return Firewall{}, err
	}
	chains = append(chains, n.digest(interfaces, skip)...)
	return New(chains...), nil
}

func protocolOf(f rules.Family) uint8 {
	if f == rules.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func interfaceNames() (map[uint32]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	names := make(map[uint32]string, len(all))
	for _, i := range all {
		names[uint32(i.Index)] = i.Name
	}
	return names, nil
}

var errChanging = errors.New("the rules keep changing")

// readNFT reads everything of one generation of the rules, but not the rules of
// tables all of whose chains are left out by skip.
func readNFT(ctx context.Context, skip func(nftID) bool) (*nftables, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	const attempts = 10
	for range attempts {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		before, err := generation(conn)
		if err != nil {
			return nil, err
		}
		n, err := dumpNFT(conn, skip)
		after, genErr := generation(conn)
		switch {
		case genErr != nil:
			return nil, genErr
		case before != after:
			continue // what was read may be neither the one nor the other
		}
		return n, err
	}
	return nil, errChanging
}

func request(message int, flags netlink.HeaderFlags, attrs ...netlink.Attribute) (netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, data...),
	}, err
}

func generation(conn *netlink.Conn) (uint32, error) {
	m, err := request(unix.NFT_MSG_GETGEN, 0)
	if err != nil {
		return 0, err
	}
	replies, err := conn.Execute(m)
	if err != nil {
		return 0, fmt.Errorf("generation: %w", err)
	}
	if len(replies) == 0 {
		return 0, fmt.Errorf("generation: %w", errShort)
	}
	_, as, err := message(replies[0].Data)
	return as.uint32(unix.NFTA_GEN_ID), err
}

// dumpNFT reads tables, chains, rules and sets of all families, and the
// elements of the sets that rules use.
func dumpNFT(conn *netlink.Conn, skip func(nftID) bool) (*nftables, error) {
	n := &nftables{tables: map[nftID]uint32{}, sets: map[nftID]*nftSet{}}
	for _, kind := range []struct {
		message int
		add     func([]byte) error
	}{
		{unix.NFT_MSG_GETTABLE, n.addTable},
		{unix.NFT_MSG_GETCHAIN, n.addChain},
		{unix.NFT_MSG_GETSET, n.addSet},
	} {
		m, err := request(kind.message, netlink.Dump)
		if err != nil {
			return nil, err
		}
		if err := dumpInto(conn, m, kind.add); err != nil {
			return nil, err
		}
	}
	for _, table := range n.usedTables(skip) {
		m, err := request(unix.NFT_MSG_GETRULE, netlink.Dump, netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(table.table), 0)})
		if err != nil {
			return nil, err
		}
		m.Data[0] = table.family
		if err := dumpInto(conn, m, n.addRule); err != nil {
			return nil, fmt.Errorf("table %s: %w", table.table, err)
		}
	}
	for _, s := range n.usedSets() {
		m, err := request(unix.NFT_MSG_GETSETELEM, netlink.Dump,
			netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(s.table), 0)},
			netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(s.name), 0)})
		if err != nil {
			return nil, err
		}
		m.Data[0] = s.family
		if err := dumpInto(conn, m, n.addElements); err != nil {
			return nil, fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return n, nil
}

func dumpInto(conn *netlink.Conn, m netlink.Message, add func([]byte) error) error {
	replies, err := conn.Execute(m)
	if err != nil {
		return err
	}
	for _, r := range replies {
		if err := add(r.Data); err != nil {
			return err
		}
	}
	return nil
}
