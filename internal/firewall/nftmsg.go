package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftables is the content of nf_tables as its messages tell it, undigested.
type nftables struct {
	tables map[nftID]uint32 // flags, by family and table
	chains []nftChain
	rules  []nftRule
	sets   map[nftID]*nftSet
}

// nftID names a table, or something in a table.
type nftID struct {
	family uint8
	table  string
	name   string
}

type nftChain struct {
	nftID
	hooked   bool
	hook     uint32
	priority int32
	drops    bool
	kind     string
}

type nftRule struct {
	nftID  // of its chain
	handle uint64
	exprs  []nftExpr
}

// nftExpr is one expression of a rule.
type nftExpr struct {
	name  string
	attrs attributes
}

type nftSet struct {
	nftID
	flags      uint32
	keyLen     int
	objectType uint32
	elements   []nftElement
}

type nftElement struct {
	key, keyEnd []byte
	flags       uint32
	verdict     *Verdict // of a verdict map
}

// setCatchAll is NFT_SET_ELEM_CATCHALL of linux/netfilter/nf_tables.h, since
// Linux 5.13.
const setCatchAll = 0x2

// typeMask takes the flags out of the type of an attribute (NLA_TYPE_MASK of
// linux/netlink.h).
const typeMask = 0x3fff

// attributes are those of one netlink message or of one nest, by their type.
type attributes map[uint16][]byte

var errShort = errors.New("message too short")

// parseAttributes reads attributes; of those that come twice, the last one.
func parseAttributes(b []byte) (attributes, error) {
	list, err := listAttributes(b)
	if err != nil {
		return nil, err
	}
	as := make(attributes, len(list))
	for _, a := range list {
		as[a.Type&typeMask] = a.Data
	}
	return as, nil
}

func listAttributes(b []byte) ([]netlink.Attribute, error) {
	if len(b) == 0 {
		return nil, nil
	}
	return netlink.UnmarshalAttributes(b)
}

// message reads the attributes of an nfnetlink message after its header, and
// the family of the header.
func message(b []byte) (family uint8, as attributes, err error) {
	if len(b) < 4 {
		return 0, nil, errShort
	}
	as, err = parseAttributes(b[4:])
	return b[0], as, err
}

func (as attributes) text(t uint16) string {
	return string(bytes.TrimRight(as[t], "\x00"))
}

func (as attributes) uint32(t uint16) uint32 {
	if b := as[t]; len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (as attributes) has(t uint16) bool {
	_, ok := as[t]
	return ok
}

// nest returns the attributes within an attribute; none if it holds no such.
func (as attributes) nest(t uint16) attributes {
	inner, err := parseAttributes(as[t])
	if err != nil {
		return nil
	}
	return inner
}

// data returns a value that is nested as nf_tables nests it.
func (as attributes) data(t uint16) []byte { return as.nest(t)[unix.NFTA_DATA_VALUE] }

// verdict returns a nested verdict; nil if there is none.
func (as attributes) verdict(t uint16) *Verdict {
	inner := as.nest(t)
	if !inner.has(unix.NFTA_DATA_VERDICT) {
		return nil
	}
	v := inner.nest(unix.NFTA_DATA_VERDICT)
	chain := v.text(unix.NFTA_VERDICT_CHAIN)
	switch code := int32(v.uint32(unix.NFTA_VERDICT_CODE)); code {
	case unix.NFT_CONTINUE, unix.NFT_BREAK:
		return &Verdict{Kind: Continue}
	case unix.NFT_JUMP:
		return &Verdict{Kind: Jump, Chain: chain}
	case unix.NFT_GOTO:
		return &Verdict{Kind: Goto, Chain: chain}
	case unix.NFT_RETURN:
		return &Verdict{Kind: Return}
	default:
		const nfDrop, nfAccept, nfQueue, mask = 0, 1, 3, 0xff
		kinds := map[int32]VerdictKind{nfDrop: Drop, nfAccept: Accept, nfQueue: Queue}
		if kind, ok := kinds[code&mask]; ok {
			return &Verdict{Kind: kind}
		}
		return &Verdict{Kind: Other}
	}
}

func (n *nftables) addTable(b []byte) error {
	family, as, err := message(b)
	if err != nil {
		return fmt.Errorf("table: %w", err)
	}
	n.tables[nftID{family, as.text(unix.NFTA_TABLE_NAME), ""}] = as.uint32(unix.NFTA_TABLE_FLAGS)
	return nil
}

func (n *nftables) addChain(b []byte) error {
	family, as, err := message(b)
	if err != nil {
		return fmt.Errorf("chain: %w", err)
	}
	c := nftChain{
		nftID:  nftID{family, as.text(unix.NFTA_CHAIN_TABLE), as.text(unix.NFTA_CHAIN_NAME)},
		hooked: as.has(unix.NFTA_CHAIN_HOOK), kind: as.text(unix.NFTA_CHAIN_TYPE),
	}
	if c.hooked {
		hook := as.nest(unix.NFTA_CHAIN_HOOK)
		c.hook = hook.uint32(unix.NFTA_HOOK_HOOKNUM)
		c.priority = int32(hook.uint32(unix.NFTA_HOOK_PRIORITY))
		c.drops = as.has(unix.NFTA_CHAIN_POLICY) && as.uint32(unix.NFTA_CHAIN_POLICY) == 0
	}
	n.chains = append(n.chains, c)
	return nil
}

func (n *nftables) addRule(b []byte) error {
	family, as, err := message(b)
	if err != nil {
		return fmt.Errorf("rule: %w", err)
	}
	r := nftRule{nftID: nftID{family, as.text(unix.NFTA_RULE_TABLE), as.text(unix.NFTA_RULE_CHAIN)}}
	if h := as[unix.NFTA_RULE_HANDLE]; len(h) == 8 {
		r.handle = binary.BigEndian.Uint64(h)
	}
	list, err := listAttributes(as[unix.NFTA_RULE_EXPRESSIONS])
	if err != nil {
		return fmt.Errorf("rule with the handle %d: %w", r.handle, err)
	}
	for _, a := range list {
		e, err := parseAttributes(a.Data)
		if err != nil {
			return fmt.Errorf("expression of the rule with the handle %d: %w", r.handle, err)
		}
		r.exprs = append(r.exprs, nftExpr{e.text(unix.NFTA_EXPR_NAME), e.nest(unix.NFTA_EXPR_DATA)})
	}
	n.rules = append(n.rules, r)
	return nil
}

func (n *nftables) addSet(b []byte) error {
	family, as, err := message(b)
	if err != nil {
		return fmt.Errorf("set: %w", err)
	}
	s := nftSet{
		nftID:      nftID{family, as.text(unix.NFTA_SET_TABLE), as.text(unix.NFTA_SET_NAME)},
		flags:      as.uint32(unix.NFTA_SET_FLAGS),
		keyLen:     int(as.uint32(unix.NFTA_SET_KEY_LEN)),
		objectType: as.uint32(unix.NFTA_SET_OBJ_TYPE),
	}
	n.sets[s.nftID] = &s
	return nil
}

// addElements reads a message with elements of one set.
func (n *nftables) addElements(b []byte) error {
	family, as, err := message(b)
	if err != nil {
		return fmt.Errorf("elements: %w", err)
	}
	id := nftID{family, as.text(unix.NFTA_SET_ELEM_LIST_TABLE), as.text(unix.NFTA_SET_ELEM_LIST_SET)}
	s, ok := n.sets[id]
	if !ok {
		return nil
	}
	list, err := listAttributes(as[unix.NFTA_SET_ELEM_LIST_ELEMENTS])
	if err != nil {
		return fmt.Errorf("elements of %s: %w", s.name, err)
	}
	const keyEnd = 10 // NFTA_SET_ELEM_KEY_END
	for _, a := range list {
		e, err := parseAttributes(a.Data)
		if err != nil {
			return fmt.Errorf("element of %s: %w", s.name, err)
		}
		s.elements = append(s.elements, nftElement{
			key: e.data(unix.NFTA_SET_ELEM_KEY), keyEnd: e.data(keyEnd),
			flags: e.uint32(unix.NFTA_SET_ELEM_FLAGS), verdict: e.verdict(unix.NFTA_SET_ELEM_DATA),
		})
	}
	return nil
}
