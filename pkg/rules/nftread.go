package rules

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	create = netlink.Create
	atEnd  = netlink.Append
)

// List returns what our tables hold.
func (*native) List(ctx context.Context) (Ruleset, error) {
	n, err := dialNFT(ctx)
	if err != nil {
		return Ruleset{}, err
	}
	defer n.close()
	const attempts = 5
	for i := 1; ; i++ {
		before, err := n.generation()
		if err != nil {
			return Ruleset{}, err
		}
		rs, err := n.read(ctx)
		after, genErr := n.generation()
		// What changed under our eyes may be half of two states.
		if genErr == nil && before == after || i == attempts {
			return rs, err
		}
	}
}

func (n nft) read(ctx context.Context) (Ruleset, error) {
	rs := newRuleset()
	rs.native = true
	for _, f := range Families {
		if err := context.Cause(ctx); err != nil {
			return rs, err
		}
		r := nftReader{nft: n, family: f, table: SetPrefix, into: rs}
		if err := r.state(); err != nil {
			return rs, fmt.Errorf("table %s: %w", SetPrefix, err)
		}
		for _, part := range []func() error{r.chains, r.rules, r.sets, r.objects} {
			if err := part(); err != nil {
				return rs, fmt.Errorf("table %s: %w", SetPrefix, err)
			}
		}
	}
	return rs, nil
}

// nftReader reads a table of ours of one family.
type nftReader struct {
	nft
	family Family
	table  string
	into   Ruleset
	asleep bool // the table has flags, such as dormant: none of its chains is hooked
}

// state looks whether the table is awake.
func (r *nftReader) state() error {
	return r.dump(r.family, unix.NFT_MSG_GETTABLE, nil, func(attrs []byte) error {
		a, err := fields(attrs)
		if err == nil && str(a[unix.NFTA_TABLE_NAME]) == r.table {
			r.asleep = num(a[unix.NFTA_TABLE_FLAGS]) != 0
		}
		return err
	})
}

// fields splits the attributes of an answer, each kind once.
func fields(attrs []byte) (map[uint16][]byte, error) {
	d, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return nil, err
	}
	m := map[uint16][]byte{}
	for d.Next() {
		m[d.Type()] = d.Bytes()
	}
	return m, d.Err()
}

func str(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == 0 {
		return string(b[:n-1])
	}
	return string(b)
}

func num(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r nftReader) chains() error {
	return r.dump(r.family, unix.NFT_MSG_GETCHAIN, r.at(), func(attrs []byte) error {
		a, err := fields(attrs)
		if err != nil || str(a[unix.NFTA_CHAIN_TABLE]) != r.table {
			return err
		}
		id := nftID(r.family, str(a[unix.NFTA_CHAIN_NAME]))
		at, err := fields(a[unix.NFTA_CHAIN_HOOK])
		if err != nil {
			return err
		}
		r.into.chains[id] = nil
		h := hookOf(id)
		right := h == nil && len(at) == 0 || h != nil && len(at) > 0 && num(at[unix.NFTA_HOOK_HOOKNUM]) == h.hook &&
			int32(num(at[unix.NFTA_HOOK_PRIORITY])) == h.priority && str(a[unix.NFTA_CHAIN_TYPE]) == h.kind && num(a[unix.NFTA_CHAIN_POLICY]) == policyAccept
		if !right || r.asleep {
			r.into.chains[id] = []Rule{{Family: id.family, Table: id.table, Chain: id.name, Foreign: misplacedText}}
		}
		return nil
	})
}

func (r nftReader) rules() error {
	return r.dump(r.family, unix.NFT_MSG_GETRULE, r.at(), func(attrs []byte) error {
		a, err := fields(attrs)
		if err != nil || str(a[unix.NFTA_RULE_TABLE]) != r.table {
			return err
		}
		id := nftID(r.family, str(a[unix.NFTA_RULE_CHAIN]))
		handle := uint64(0)
		if b := a[unix.NFTA_RULE_HANDLE]; len(b) == 8 {
			handle = binary.BigEndian.Uint64(b)
		}
		rule := readRule(id, a[unix.NFTA_RULE_USERDATA], a[unix.NFTA_RULE_EXPRESSIONS], handle)
		rule.Packets = countedIn(a[unix.NFTA_RULE_EXPRESSIONS])
		r.into.chains[id] = append(r.into.chains[id], rule)
		return nil
	})
}

// readRule returns the rule that a comment names, if the kernel's expressions
// are those of that rule.
func readRule(id chainID, userdata, expressions []byte, handle uint64) Rule {
	said := commented(userdata)
	if said == "" && id.table == Window {
		said = windowText // version 0.1 wrote no comment
	}
	rule := Rule{Family: id.family, Table: id.table, Chain: id.name, Foreign: said}
	if said != windowText {
		var err error
		rule, err = parseRule(id.family, id.table, id.name, said)
		if err != nil {
			rule.Foreign = said
		}
	}
	if want, err := rule.expressions(); err == nil && said != "" && holds(expressions, want) {
		return rule
	}
	return Rule{Family: id.family, Table: id.table, Chain: id.name, Foreign: fmt.Sprintf("a rule of somebody else (handle %d)", handle)}
}

func (r nftReader) sets() error {
	var sets []Set
	err := r.dump(r.family, unix.NFT_MSG_GETSET, r.at(), func(attrs []byte) error {
		a, err := fields(attrs)
		if err != nil || str(a[unix.NFTA_SET_TABLE]) != r.table {
			return err
		}
		kind, size := concatenated(r.family)
		flags := num(a[unix.NFTA_SET_FLAGS])
		s := Set{
			Family: r.family, Name: str(a[unix.NFTA_SET_NAME]),
			Networks: flags&unix.NFT_SET_INTERVAL != 0, Mapped: flags&nftSetObject != 0, Counted: len(a[nftSetExpr]) > 0,
		}
		if num(a[unix.NFTA_SET_KEY_TYPE]) != kind || num(a[unix.NFTA_SET_KEY_LEN]) != uint32(size) || flags&^(unix.NFT_SET_INTERVAL|nftSetConcat|nftSetObject) != 0 {
			s.Foreign = "a set of another type"
		}
		sets = append(sets, s)
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range sets {
		if s.Foreign == "" {
			if err := r.whole(&s); err != nil {
				return err
			}
		}
		r.into.sets[setID{s.Family, s.Name}] = s
	}
	return nil
}

// whole reads the members of a set, once more if the kernel put it into another
// order meanwhile: after many have come, a hash table grows in the background,
// and a dump that goes on in it leaves out as many as it tells twice
// (nft_rhash_walk in net/netfilter/nft_set_hash.c, 6.18).
func (r nftReader) whole(s *Set) error {
	const wait, attempts = 20 * time.Millisecond, 100
	for range attempts {
		s.Members = nil
		if err := r.members(s); err != nil {
			return err
		}
		told := len(s.Members)
		if s.normalize(); len(s.Members) == told {
			return nil
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("set %s: %w: its members do not come to rest", s.Name, ErrChanged)
}

func (r nftReader) members(s *Set) error {
	names := map[string]string{} // one copy of each
	return r.dump(r.family, unix.NFT_MSG_GETSETELEM, r.at(leaf(unix.NFTA_SET_ELEM_LIST_SET, text(s.Name))), func(attrs []byte) error {
		d, err := netlink.NewAttributeDecoder(attrs)
		if err != nil {
			return err
		}
		for d.Next() {
			if d.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			d.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					m, err := readMember(n.Bytes(), names)
					if err != nil {
						s.Foreign = err.Error()
						continue
					}
					s.Members = append(s.Members, m)
				}
				return n.Err()
			})
		}
		return d.Err()
	})
}

// readMember reads one element of a set. It is an error if that is not a member
// as this package makes them, such as a range that is not a network.
func readMember(attrs []byte, names map[string]string) (Member, error) {
	d, err := netlink.NewAttributeDecoder(attrs)
	if err != nil {
		return Member{}, err
	}
	var m Member
	var first, last []byte
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			first = within(d.Bytes())
		case nftElemKeyEnd:
			last = within(d.Bytes())
		case unix.NFTA_SET_ELEM_EXPR:
			m.Packets = counted(d.Bytes())
		case unix.NFTA_SET_ELEM_OBJREF:
			b := d.Bytes()
			name, known := names[string(b)]
			if !known {
				name = str(b)
				names[string(b)] = name
			}
			m.Object = name
		}
	}
	if len(first) < 8 {
		return m, fmt.Errorf("element with a key of %d bytes", len(first))
	}
	ip := first[:len(first)-4]
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return m, fmt.Errorf("element with a key of %d bytes", len(first))
	}
	length := addr.BitLen()
	if len(last) == len(first) {
		length = commonBits(ip, last[:len(ip)])
	}
	m.Prefix, m.Port = netip.PrefixFrom(addr, length), binary.BigEndian.Uint16(first[len(ip):])
	var key [20]byte // of the larger family
	if !bytes.Equal(first, appendMemberKey(key[:0], m, false)) || last != nil && !bytes.Equal(last, appendMemberKey(key[:0], m, true)) {
		return m, fmt.Errorf("element of %x to %x", first, last)
	}
	return m, d.Err()
}

// counted returns the packets of a counter, which is an expression; 0 of any
// other.
func counted(expression []byte) uint64 {
	a, err := fields(expression)
	if err != nil || str(a[unix.NFTA_EXPR_NAME]) != "counter" {
		return 0
	}
	a, err = fields(a[unix.NFTA_EXPR_DATA])
	if b := a[unix.NFTA_COUNTER_PACKETS]; err == nil && len(b) == 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// countedIn returns the packets of the counter among the expressions of a rule.
func countedIn(list []byte) uint64 {
	d, err := netlink.NewAttributeDecoder(list)
	if err != nil {
		return 0
	}
	var packets uint64
	for d.Next() {
		packets = max(packets, counted(d.Bytes()))
	}
	return packets
}

// within returns the value in an NFTA_DATA_VALUE.
func within(data []byte) []byte {
	if len(data) < 4 || int(binary.NativeEndian.Uint16(data)) > len(data) || binary.NativeEndian.Uint16(data) < 4 {
		return nil
	}
	return data[4:binary.NativeEndian.Uint16(data)]
}

// commonBits returns how many bits two addresses have in common at their begin.
func commonBits(a, b []byte) int {
	for i := range 8 * len(a) {
		if mask := byte(0x80 >> (i % 8)); a[i/8]&mask != b[i/8]&mask {
			return i
		}
	}
	return 8 * len(a)
}

// objects reads our objects, each as a chain with one rule. One that does not
// hold what its name says is somebody else's.
func (r nftReader) objects() error {
	return r.dump(r.family, unix.NFT_MSG_GETOBJ, r.at(), func(attrs []byte) error {
		a, err := fields(attrs)
		if err != nil || str(a[unix.NFTA_OBJ_TABLE]) != r.table {
			return err
		}
		name := str(a[unix.NFTA_OBJ_NAME])
		rule := Rule{Family: r.family, Table: Objects, Chain: name, Foreign: "an object of somebody else"}
		o, err := optionsNamed(name)
		if err == nil && num(a[unix.NFTA_OBJ_TYPE]) == nftObjSynproxy && holds(a[unix.NFTA_OBJ_DATA], o.attrs()) {
			rule.Foreign, rule.Target = "", SYNPROXY{o}
		}
		r.into.chains[chainID{r.family, Objects, "", name}] = []Rule{rule}
		return nil
	})
}
