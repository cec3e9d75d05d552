package firewall

import (
	"slices"

	"golang.org/x/sys/unix"
)

var nftFamilies = map[uint8]Family{
	unix.NFPROTO_IPV4: IP, unix.NFPROTO_IPV6: IP6, unix.NFPROTO_INET: INet,
	unix.NFPROTO_BRIDGE: Bridge, unix.NFPROTO_NETDEV: NetDev,
}

var nftHooks = [...]Hook{Prerouting, Input, Forward, Output, Postrouting, Ingress}

// digest returns the chains of nf_tables; skip leaves chains out. Interfaces
// are by their index.
func (n *nftables) digest(interfaces map[uint32]string, skip func(nftID) bool) []Chain {
	var chains []Chain
	at := map[nftID]int{}
	for _, c := range n.chains {
		family, ok := nftFamilies[c.family]
		if !ok || skip(c.nftID) {
			continue
		}
		chain := Chain{Origin: NFT, Family: family, Table: c.table, Name: c.name, Drops: c.drops}
		const dormant = unix.NFT_TABLE_F_DORMANT
		if c.hooked && n.tables[nftID{c.family, c.table, ""}]&dormant == 0 {
			chain.Hook, chain.Priority, chain.Type = hookOf(family, c.hook), c.priority, c.kind
		}
		at[c.nftID] = len(chains)
		chains = append(chains, chain)
	}
	position := map[nftID]int{}
	for _, r := range n.rules {
		i, ok := at[r.nftID]
		if !ok {
			continue
		}
		c := &chains[i]
		position[r.nftID]++
		compiled := n.compile(r, c.Family, interfaces)
		for j := range compiled {
			compiled[j].Where, compiled[j].Position, compiled[j].Handle = c.String(), position[r.nftID], r.handle
		}
		c.Rules = append(c.Rules, compiled...)
	}
	return chains
}

func hookOf(f Family, number uint32) Hook {
	switch {
	case f == NetDev && number == 0:
		return Ingress
	case f == NetDev:
		return Egress
	case number < uint32(len(nftHooks)):
		return nftHooks[number]
	}
	return ""
}

// usedTables returns the tables with chains that are not left out by skip.
func (n *nftables) usedTables(skip func(nftID) bool) []nftID {
	var used []nftID
	for _, c := range n.chains {
		table := nftID{c.family, c.table, ""}
		if !skip(c.nftID) && !ours(c.table, c.name) && !slices.Contains(used, table) {
			used = append(used, table)
		}
	}
	return used
}

// usedSets returns the sets that rules look into.
func (n *nftables) usedSets() []*nftSet {
	var used []*nftSet
	for _, r := range n.rules {
		for _, e := range r.exprs {
			name := ""
			switch e.name {
			case "lookup":
				name = e.attrs.text(unix.NFTA_LOOKUP_SET)
			case "objref":
				name = e.attrs.text(unix.NFTA_OBJREF_SET_NAME)
			}
			s := n.sets[nftID{r.family, r.table, name}]
			if s != nil && !slices.Contains(used, s) {
				used = append(used, s)
			}
		}
	}
	return used
}
