package firewall

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

func TestIntervals(t *testing.T) {
	start := func(key byte) nftElement { return nftElement{key: []byte{0, key}} }
	end := func(key byte) nftElement {
		return nftElement{key: []byte{0, key}, flags: unix.NFT_SET_ELEM_INTERVAL_END}
	}
	for _, tt := range []struct {
		name     string
		elements []nftElement
		want     []Range
	}{
		{"none", nil, nil},
		{"one", []nftElement{start(3), end(5)}, []Range{{[]byte{0, 3}, []byte{0, 4}}}},
		{"in any order", []nftElement{end(5), start(3)}, []Range{{[]byte{0, 3}, []byte{0, 4}}}},
		{"neighbours", []nftElement{start(3), end(5), start(5), end(6)}, []Range{{[]byte{0, 3}, []byte{0, 4}}, {[]byte{0, 5}, []byte{0, 5}}}},
		{"to the end", []nftElement{start(3)}, []Range{{[]byte{0, 3}, []byte{0xff, 0xff}}}},
		{"what lies before", []nftElement{end(0), start(3), end(5)}, []Range{{[]byte{0, 3}, []byte{0, 4}}}},
	} {
		s := nftSet{flags: unix.NFT_SET_INTERVAL, elements: tt.elements}
		all, _ := s.spans()
		var got []Range
		for _, e := range all {
			got = append(got, e.Range)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestCmpRange(t *testing.T) {
	for op, want := range map[uint32][3]bool{ // for 4, 5 and 6, compared with 5
		unix.NFT_CMP_EQ: {false, true, false}, unix.NFT_CMP_NEQ: {true, false, true},
		unix.NFT_CMP_LT: {true, false, false}, unix.NFT_CMP_LTE: {true, true, false},
		unix.NFT_CMP_GT: {false, false, true}, unix.NFT_CMP_GTE: {false, true, true},
	} {
		r, not := cmpRange(op, []byte{0, 5})
		for i, v := range []byte{4, 5, 6} {
			if got := r.holds([]byte{0, v}) != not; got != want[i] {
				t.Errorf("operator %d: %d and 5: %t", op, v, got)
			}
		}
	}
}

func TestMerge(t *testing.T) {
	r := func(from, to byte) Range { return Range{[]byte{from}, []byte{to}} }
	for _, tt := range []struct{ in, want []Range }{
		{nil, nil},
		{[]Range{r(5, 6), r(1, 2)}, []Range{r(1, 2), r(5, 6)}},
		{[]Range{r(1, 2), r(3, 4)}, []Range{r(1, 4)}},
		{[]Range{r(1, 9), r(3, 4)}, []Range{r(1, 9)}},
		{[]Range{r(1, 255), r(255, 255)}, []Range{r(1, 255)}},
	} {
		if diff := cmp.Diff(tt.want, merge(tt.in)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.in, diff)
		}
	}
}

func TestMaskRange(t *testing.T) {
	for _, tt := range []struct {
		value, mask, from, to []byte
		ok                    bool
	}{
		{[]byte{10, 1}, []byte{255, 0}, []byte{10, 0}, []byte{10, 255}, true},
		{[]byte{10, 1}, []byte{240, 0}, []byte{0, 0}, []byte{15, 255}, true},
		{[]byte{10, 1}, []byte{0, 0}, []byte{0, 0}, []byte{255, 255}, true},
		{[]byte{10, 1}, []byte{0, 255}, nil, nil, false},
		{[]byte{10, 1}, []byte{0x17, 0}, nil, nil, false},
		{[]byte{10, 1}, []byte{240, 128}, nil, nil, false},
	} {
		r, ok := maskRange(tt.value, tt.mask)
		if diff := cmp.Diff(Range{tt.from, tt.to}, r); diff != "" || ok != tt.ok {
			t.Errorf("%v/%v: %t (-want +got):\n%s", tt.value, tt.mask, ok, diff)
		}
	}
}

// attrs and its like make messages as the kernel does.
func attrs(as ...netlink.Attribute) []byte {
	b, err := netlink.MarshalAttributes(as)
	if err != nil {
		panic(err)
	}
	return b
}

func attr(t uint16, data []byte) netlink.Attribute { return netlink.Attribute{Type: t, Data: data} }
func nested(t uint16, as ...netlink.Attribute) netlink.Attribute {
	return attr(t|unix.NLA_F_NESTED, attrs(as...))
}
func name(t uint16, s string) netlink.Attribute { return attr(t, append([]byte(s), 0)) }
func number(t uint16, n uint32) netlink.Attribute {
	return attr(t, binary.BigEndian.AppendUint32(nil, n))
}

func expression(what string, as ...netlink.Attribute) netlink.Attribute {
	return nested(unix.NFTA_LIST_ELEM, name(unix.NFTA_EXPR_NAME, what), nested(unix.NFTA_EXPR_DATA, as...))
}

// oneRule is an input chain with one rule of expressions.
func oneRule(t *testing.T, expressions ...netlink.Attribute) (*nftables, Firewall) {
	t.Helper()
	n := &nftables{tables: map[nftID]uint32{}, sets: map[nftID]*nftSet{}}
	header := []byte{unix.NFPROTO_INET, 0, 0, 0}
	err := n.addChain(append(header, attrs(name(unix.NFTA_CHAIN_TABLE, "t"), name(unix.NFTA_CHAIN_NAME, "c"),
		nested(unix.NFTA_CHAIN_HOOK, number(unix.NFTA_HOOK_HOOKNUM, 1), number(unix.NFTA_HOOK_PRIORITY, 0)),
		number(unix.NFTA_CHAIN_POLICY, 1), name(unix.NFTA_CHAIN_TYPE, "filter"))...))
	if err == nil {
		err = n.addRule(append(header, attrs(name(unix.NFTA_RULE_TABLE, "t"), name(unix.NFTA_RULE_CHAIN, "c"),
			nested(unix.NFTA_RULE_EXPRESSIONS, expressions...))...))
	}
	if err != nil {
		t.Fatal(err)
	}
	return n, New(n.digest(nil, func(nftID) bool { return false })...)
}

var dropExpression = expression("immediate", number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
	nested(unix.NFTA_IMMEDIATE_DATA, nested(unix.NFTA_DATA_VERDICT, number(unix.NFTA_VERDICT_CODE, 0))))

// TestUnknownExpressions: what may keep a rule from matching must not be taken
// for nothing.
func TestUnknownExpressions(t *testing.T) {
	for what, want := range map[string]Outcome{
		"counter": Denied, "log": Denied, "limit": Depends, "quota": Depends, "connlimit": Depends, "socket": Depends,
		"osf": Depends, "xfrm": Depends, "tunnel": Depends, "match": Depends, "what is to come": Depends, "": Depends,
	} {
		_, fw := oneRule(t, expression(what), dropExpression)
		if got := fw.Fate(syn(nil), Everything); got.Outcome != want {
			t.Errorf("%q before drop: %s, want %s", what, got.Outcome, want)
		}
	}
}

// FuzzNFT has no message of the kernel panic.
func FuzzNFT(f *testing.F) {
	seed := attrs(name(unix.NFTA_RULE_TABLE, "t"), name(unix.NFTA_RULE_CHAIN, "c"), nested(unix.NFTA_RULE_EXPRESSIONS,
		expression("meta", number(unix.NFTA_META_KEY, unix.NFT_META_IIFNAME), number(unix.NFTA_META_DREG, 1)),
		expression("cmp", number(unix.NFTA_CMP_SREG, 1), number(unix.NFTA_CMP_OP, 0), nested(unix.NFTA_CMP_DATA, attr(unix.NFTA_DATA_VALUE, []byte("eth")))),
		expression("payload", number(unix.NFTA_PAYLOAD_DREG, 1), number(unix.NFTA_PAYLOAD_BASE, 2), number(unix.NFTA_PAYLOAD_OFFSET, 0), number(unix.NFTA_PAYLOAD_LEN, 4)),
		expression("bitwise", number(unix.NFTA_BITWISE_SREG, 1), number(unix.NFTA_BITWISE_DREG, 1), number(unix.NFTA_BITWISE_LEN, 4), nested(unix.NFTA_BITWISE_MASK, attr(unix.NFTA_DATA_VALUE, []byte{1, 2, 3, 4}))),
		expression("ct", number(unix.NFTA_CT_KEY, 0), number(unix.NFTA_CT_DREG, 8)),
		expression("lookup", name(unix.NFTA_LOOKUP_SET, "s"), number(unix.NFTA_LOOKUP_SREG, 1), number(unix.NFTA_LOOKUP_DREG, 0)),
		expression("nat", number(unix.NFTA_NAT_TYPE, 1), number(unix.NFTA_NAT_REG_ADDR_MIN, 1)), dropExpression))
	elements := attrs(name(unix.NFTA_SET_ELEM_LIST_TABLE, "t"), name(unix.NFTA_SET_ELEM_LIST_SET, "s"), nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS,
		nested(unix.NFTA_LIST_ELEM, nested(unix.NFTA_SET_ELEM_KEY, attr(unix.NFTA_DATA_VALUE, []byte{1, 2, 3, 4})),
			nested(unix.NFTA_SET_ELEM_DATA, nested(unix.NFTA_DATA_VERDICT, number(unix.NFTA_VERDICT_CODE, 0xfffffffd), name(unix.NFTA_VERDICT_CHAIN, "c"))))))
	f.Add(seed, elements, uint32(unix.NFT_SET_INTERVAL), uint32(4))
	f.Add(seed, elements, uint32(0), uint32(4))
	f.Fuzz(func(_ *testing.T, rule, elements []byte, flags, keyLen uint32) {
		n := &nftables{tables: map[nftID]uint32{}, sets: map[nftID]*nftSet{}}
		header := []byte{unix.NFPROTO_INET, 0, 0, 0}
		id := nftID{unix.NFPROTO_INET, "t", "s"}
		n.sets[id] = &nftSet{nftID: id, flags: flags, keyLen: int(keyLen % 64)}
		n.chains = []nftChain{{nftID: nftID{unix.NFPROTO_INET, "t", "c"}, hooked: true, hook: 1}}
		_ = n.addElements(append(header, elements...))
		_ = n.addRule(append(header, rule...))
		_ = n.addChain(append(header, rule...))
		_ = n.addSet(append(header, rule...))
		_ = n.addTable(append(header, rule...))
		n.usedSets()
		fw := New(n.digest(map[uint32]string{1: "lo"}, func(nftID) bool { return false })...)
		for _, s := range []Service{service(Input, true), service(Forward, false)} {
			fw.Blockers(s)
			fw.Restricts(s)
			fw.Translation(s.toService(Prerouting, rules.SYN, rules.New))
		}
	})
}
