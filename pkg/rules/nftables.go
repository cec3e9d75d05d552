package rules

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// native is the backend that needs no program: tables of nf_tables that are
// ours alone, one a family, written and read by netlink.
type native struct{}

// Objects is not a table: it stands for the objects of nft that hold the
// options which a map leads to.
const Objects Table = "object"

// nftHook is a base chain of ours.
type nftHook struct {
	table    Table
	chain    string // as in xtables
	name     string // in the kernel, where one table holds them all
	kind     string
	hook     uint32
	priority int32
}

// PriorityAnswer is where the backend nftables answers SYNs: behind whatever
// filters they may meet, the security table of iptables-nft (150) among them,
// and ahead of the last hooks of SELinux (225).
const PriorityAnswer = 200

// The other priorities are those of the tables of xtables.
var nftHooks = [...]nftHook{
	{Raw, chainPre, ChainPrefix + "_RAW_PREROUTING", "filter", unix.NF_INET_PRE_ROUTING, -300},
	{Raw, chainOut, ChainPrefix + "_RAW_OUTPUT", "filter", unix.NF_INET_LOCAL_OUT, -300},
	{Mangle, chainIn, ChainPrefix + "_MANGLE_INPUT", "filter", unix.NF_INET_LOCAL_IN, -150},
	{Mangle, chainForward, ChainPrefix + "_MANGLE_FORWARD", "filter", unix.NF_INET_FORWARD, -150},
	{Mangle, chainOut, ChainPrefix + "_MANGLE_OUTPUT", "filter", unix.NF_INET_LOCAL_OUT, -150},
	{Window, chainWindow, chainWindow, "filter", unix.NF_INET_LOCAL_OUT, -150},
	{NAT, chainOut, ChainPrefix + "_NAT_OUTPUT", "nat", unix.NF_INET_LOCAL_OUT, -100},
	{Security, chainIn, ChainPrefix + "_SECURITY_INPUT", "filter", unix.NF_INET_LOCAL_IN, PriorityAnswer},
	{Security, chainForward, ChainPrefix + "_SECURITY_FORWARD", "filter", unix.NF_INET_FORWARD, PriorityAnswer},
}

// hookOf returns where a chain of ours is hooked; nil for one that is not.
func hookOf(id chainID) *nftHook {
	for i := range nftHooks {
		if nftHooks[i].table == id.table && nftHooks[i].chain == id.name {
			return &nftHooks[i]
		}
	}
	return nil
}

// nftName returns what the kernel calls a chain of ours.
func (id chainID) nftName() string {
	if h := hookOf(id); h != nil {
		return h.name
	}
	return id.name
}

// nftID is the inverse of [chainID.nftName].
func nftID(f Family, name string) chainID {
	for _, h := range nftHooks {
		if h.name == name {
			return chainID{f, h.table, "", h.chain}
		}
	}
	return chainID{f, anchorTable, "", name}
}

func findNFTables() (*native, error) {
	n, err := dialNFT(context.Background())
	if err == nil {
		defer n.close()
		_, err = n.generation()
	}
	if errors.Is(err, unix.EPERM) {
		return &native{}, nil // what it may not do, it is told later
	}
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w: %w", NFTables, ErrUnsupported, err)
	}
	return &native{}, nil
}

// Name returns the name of the backend.
func (*native) Name() string { return NFTables }

// BaseChains returns none: there is nothing but what is ours.
func (*native) BaseChains(context.Context) ([]BaseChain, error) { return nil, nil }

// Prune has nothing to remove.
func (*native) Prune(context.Context, []BaseChain) error { return nil }

// Apply executes the one step of a plan, as one transaction.
func (*native) Apply(ctx context.Context, s Step) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	w := nftWriter{step: s, table: SetPrefix}
	err := commit(func(b *batch) error {
		w.batch = b
		w.write()
		return w.err
	})
	if err != nil {
		err = fmt.Errorf("table %s: %w", SetPrefix, err)
	}
	// Of an expression that it does not have, the kernel says no more than that
	// something is not there; in a new table nothing else can be missing.
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) && s.have.Empty() {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	for _, outdated := range []error{unix.ENOENT, unix.EEXIST, unix.EBUSY, unix.ERESTART} {
		if errors.Is(err, outdated) {
			return fmt.Errorf("%w: %w", ErrChanged, err)
		}
	}
	return err
}

// nftWriter writes a step into a batch.
type nftWriter struct {
	*batch
	table string
	step  Step
	made  uint32 // sets: the kernel wants a number for each that a transaction makes
	err   error
}

// in begins the attributes of what is in the table.
func (w *nftWriter) in(attrs ...attr) []attr { return append([]attr{leaf(1, text(w.table))}, attrs...) }

// at begins the attributes of a question about the table.
func (r nftReader) at(attrs ...attr) []attr { return append([]attr{leaf(1, text(r.table))}, attrs...) }

// write puts what goes before what comes: a chain is emptied before its sets
// go, and sets lose their members before the objects go that those use.
func (w *nftWriter) write() {
	have, want, sets := w.step.have, w.step.want, w.step.Sets
	// Room for all elements: while it grew, it would be copied once and again.
	const each = 96 // bytes
	elements := 0
	for _, c := range sets {
		elements += len(c.Add) + len(c.Delete)
	}
	w.buf = slices.Grow(w.buf, each*elements)
	for _, f := range Families {
		if have.Uses(f) && (!want.Uses(f) || have.strange(f, want)) {
			w.add(f, unix.NFT_MSG_DELTABLE, 0, leaf(unix.NFTA_TABLE_NAME, text(w.table)))
			have = have.only(func(other Family) bool { return other != f })
			sets = setChanges(have, want, func(setID) bool { return true })
		}
		if want.Uses(f) {
			w.add(f, unix.NFT_MSG_NEWTABLE, create, leaf(unix.NFTA_TABLE_NAME, text(w.table)))
		}
	}
	changed := map[chainID]bool{}
	for _, id := range sortedIDs(union(have, want).chains) {
		h, there := have.chains[id]
		to, remains := want.chains[id]
		changed[id] = there != remains || !slices.Equal(texts(h), texts(to))
		if there && changed[id] && id.table != Objects {
			w.add(id.family, unix.NFT_MSG_DELRULE, 0, w.in(leaf(unix.NFTA_RULE_CHAIN, text(id.nftName())))...)
		}
	}
	for _, id := range sortedIDs(have.chains) {
		if _, remains := want.chains[id]; !remains && id.table != Objects {
			w.add(id.family, unix.NFT_MSG_DELCHAIN, 0, w.in(leaf(unix.NFTA_CHAIN_NAME, text(id.nftName())))...)
		}
	}
	for _, c := range sets {
		if c.Remove {
			w.add(c.Set.Family, unix.NFT_MSG_DELSET, 0, w.in(leaf(unix.NFTA_SET_NAME, text(c.Set.Name)))...)
		} else {
			w.members(unix.NFT_MSG_DELSETELEM, c.Set, c.Delete)
		}
	}
	for _, id := range sortedIDs(have.chains) {
		if _, remains := want.chains[id]; id.table == Objects && !remains {
			w.object(unix.NFT_MSG_DELOBJ, id, nil)
		}
	}
	for _, id := range sortedIDs(want.chains) {
		if id.table == Objects && changed[id] && want.chains[id][0].Foreign == "" {
			w.object(unix.NFT_MSG_NEWOBJ, id, want.chains[id])
		}
	}
	for _, c := range sets {
		if c.Set.Foreign != "" {
			continue // like the rules
		}
		if c.Create {
			w.set(c.Set)
		}
		if !c.Remove {
			w.members(unix.NFT_MSG_NEWSETELEM, c.Set, c.Add)
		}
	}
	for _, id := range sortedIDs(want.chains) {
		if id.table == Objects || !changed[id] {
			continue
		}
		if _, there := have.chains[id]; !there {
			w.chain(id)
		}
		for _, r := range want.chains[id] {
			w.rule(id, r)
		}
	}
}

// strange reports whether a table holds what somebody else has put there: it is
// then written anew, in the same transaction, since what may hang on what in
// there is not known.
func (rs Ruleset) strange(f Family, want Ruleset) bool {
	for id, rules := range rs.chains {
		if id.family == f && slices.ContainsFunc(rules, func(r Rule) bool { return r.Foreign != "" && r.Foreign != windowText }) {
			return true
		}
	}
	for id, s := range rs.sets {
		if w, wanted := want.sets[id]; id.family == f && (s.Foreign != "" || wanted && !s.alike(w)) {
			return true
		}
	}
	return false
}

// only returns what a rule set of nftables holds of some families.
func (rs Ruleset) only(some func(Family) bool) Ruleset {
	rest := newRuleset()
	rest.native = rs.native
	for id, rules := range rs.chains {
		if some(id.family) {
			rest.chains[id] = rules
		}
	}
	for id, s := range rs.sets {
		if some(id.family) {
			rest.sets[id] = s
		}
	}
	return rest
}

const misplacedText = "the chain is not hooked where it should be"

func (w *nftWriter) chain(id chainID) {
	attrs := w.in(leaf(unix.NFTA_CHAIN_NAME, text(id.nftName())))
	if h := hookOf(id); h != nil {
		attrs = append(attrs,
			nest(unix.NFTA_CHAIN_HOOK, leaf(unix.NFTA_HOOK_HOOKNUM, be32(h.hook)), leaf(unix.NFTA_HOOK_PRIORITY, be32(uint32(h.priority)))),
			leaf(unix.NFTA_CHAIN_POLICY, be32(policyAccept)), leaf(unix.NFTA_CHAIN_TYPE, text(h.kind)))
	}
	w.add(id.family, unix.NFT_MSG_NEWCHAIN, create, attrs...)
}

// rule adds a rule. One of somebody else, which stood in our table when a plan
// began that is now undone, is gone: nobody knows what it was.
func (w *nftWriter) rule(id chainID, r Rule) {
	if r.Foreign != "" && r.Foreign != windowText {
		return
	}
	list, err := r.expressions()
	w.err = errors.Join(w.err, err)
	w.add(id.family, unix.NFT_MSG_NEWRULE, create|atEnd, w.in(
		leaf(unix.NFTA_RULE_CHAIN, text(id.nftName())), nest(unix.NFTA_RULE_EXPRESSIONS, list...), leaf(unix.NFTA_RULE_USERDATA, comment(r.String())))...)
}

// longestComment is how long a comment may be that nft reads: one more would keep it
// from loading what it has listed, and with it all that is in the same file.
const longestComment = 127

// longText is the type of a text that is too long for a comment. Nft shows only
// types that it knows, which are few.
const longText = 128

// comment is the text of a rule as nft keeps comments, so that it shows it.
func comment(s string) []byte {
	kind := byte(0)
	if len(s) > longestComment {
		kind = longText
	}
	return append([]byte{kind, byte(len(s) + 1)}, text(s)...)
}

// commented is the inverse of comment.
func commented(data []byte) string {
	if len(data) < 3 || data[0] != 0 && data[0] != longText || int(data[1]) != len(data)-2 {
		return ""
	}
	return string(data[2 : len(data)-1])
}

func (w *nftWriter) object(message int, id chainID, rules []Rule) {
	attrs := w.in(leaf(unix.NFTA_OBJ_NAME, text(id.name)), leaf(unix.NFTA_OBJ_TYPE, be32(nftObjSynproxy)))
	if len(rules) == 1 {
		if target, ok := rules[0].Target.(SYNPROXY); ok {
			attrs = append(attrs, nest(unix.NFTA_OBJ_DATA, target.Options.attrs()...))
		}
	}
	w.add(id.family, message, 0, attrs...)
}

// concatenated are the types of what a set is asked for, as nft(8) numbers them.
func concatenated(f Family) (kind uint32, size int) {
	const ipv4, ipv6, service, bitsEach = 7, 8, 13, 6
	if f == IPv6 {
		return ipv6<<bitsEach | service, 20
	}
	return ipv4<<bitsEach | service, 8
}

func (w *nftWriter) set(s Set) {
	w.made++
	kind, size := concatenated(s.Family)
	var flags uint32
	var desc []attr
	if s.Networks {
		flags |= unix.NFT_SET_INTERVAL | nftSetConcat
		desc = []attr{nest(unix.NFTA_SET_DESC, nest(nftDescConcat,
			nest(unix.NFTA_LIST_ELEM, leaf(1, be32(uint32(size-4)))), nest(unix.NFTA_LIST_ELEM, leaf(1, be32(2)))))}
	}
	attrs := w.in(leaf(unix.NFTA_SET_NAME, text(s.Name)), leaf(unix.NFTA_SET_KEY_TYPE, be32(kind)),
		leaf(unix.NFTA_SET_KEY_LEN, be32(uint32(size))), leaf(unix.NFTA_SET_ID, be32(w.made)))
	if s.Mapped {
		flags |= nftSetObject
		attrs = append(attrs, leaf(nftSetObjType, be32(nftObjSynproxy)))
	}
	if s.Counted {
		attrs = append(attrs, nest(nftSetExpr, leaf(unix.NFTA_EXPR_NAME, text("counter"))))
	}
	attrs = append(attrs, leaf(unix.NFTA_SET_FLAGS, be32(flags)))
	w.add(s.Family, unix.NFT_MSG_NEWSET, create, append(attrs, desc...)...)
}

// members adds members to a set, or deletes them, many with each message.
func (w *nftWriter) members(message int, s Set, members []Member) {
	const each = 400 // an attribute's length has 16 bits
	flags := create
	if message == unix.NFT_MSG_DELSETELEM {
		flags = 0
	}
	var list []byte // of one message after the other
	for part := range slices.Chunk(members, each) {
		list = list[:0]
		for _, m := range part {
			list = appendElement(list, s, m, message == unix.NFT_MSG_NEWSETELEM)
		}
		w.add(s.Family, message, flags, w.in(leaf(unix.NFTA_SET_ELEM_LIST_SET, text(s.Name)), leaf(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list))...)
	}
}

// appendElement appends a member as the kernel reads it; without trees of
// attributes, since there may be very many.
func appendElement(b []byte, s Set, m Member, whole bool) []byte {
	b, element := openAttr(b, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED)
	b = appendKey(b, unix.NFTA_SET_ELEM_KEY, m, false)
	if s.Networks {
		b = appendKey(b, nftElemKeyEnd, m, true)
	}
	if s.Mapped && whole {
		var name int
		b, name = openAttr(b, unix.NFTA_SET_ELEM_OBJREF)
		b = closeAttr(append(append(b, m.Object...), 0), name)
	}
	return closeAttr(b, element)
}

func appendKey(b []byte, kind uint16, m Member, last bool) []byte {
	b, key := openAttr(b, kind|unix.NLA_F_NESTED)
	b, value := openAttr(b, unix.NFTA_DATA_VALUE)
	b = appendMemberKey(b, m, last)
	return closeAttr(closeAttr(b, value), key)
}

// appendMemberKey appends the first or the last key that a member stands for.
func appendMemberKey(b []byte, m Member, last bool) []byte {
	begin := len(b)
	if a := m.Prefix.Masked().Addr(); a.Is4() {
		ip := a.As4()
		b = append(b, ip[:]...)
	} else {
		ip := a.As16()
		b = append(b, ip[:]...)
	}
	if ip := b[begin:]; last {
		for i := m.Prefix.Bits(); i < 8*len(ip); i++ {
			ip[i/8] |= 0x80 >> (i % 8)
		}
	}
	return append(b, byte(m.Port>>8), byte(m.Port), 0, 0)
}
