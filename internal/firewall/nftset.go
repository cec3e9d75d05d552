package firewall

import (
	"slices"

	"golang.org/x/sys/unix"
)

// compare is a cmp or a range expression.
func (c *compiler) compare(name string, as attributes) {
	var from uint32
	var r Range
	not := false
	if name == "range" {
		from = as.uint32(unix.NFTA_RANGE_SREG)
		r = Range{as.data(unix.NFTA_RANGE_FROM_DATA), as.data(unix.NFTA_RANGE_TO_DATA)}
		not = as.uint32(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ
	} else {
		from = as.uint32(unix.NFTA_CMP_SREG)
		r, not = cmpRange(as.uint32(unix.NFTA_CMP_OP), as.data(unix.NFTA_CMP_DATA))
	}
	l := c.registers[register(from)]
	if l == nil || len(r.From) == 0 || len(r.From) != len(r.To) || len(r.From) > l.size() {
		c.obscure(name)
		return
	}
	// Neighbouring fields that are compared at once are compared one by one;
	// that works for equality only.
	if len(l.fields) > 1 && (not || !slices.Equal(r.From, r.To) || len(r.From) != l.size()) {
		c.obscure(name)
		return
	}
	for _, f := range l.fields {
		n := min(f.size, len(r.From))
		c.add([]*loadedField{&f}, [][]byte{l.mask}, [][]Range{{{r.From[:n], r.To[:n]}}}, not, "")
		r = Range{r.From[n:], r.To[n:]}
	}
}

// cmpRange turns a comparison into an interval.
func cmpRange(op uint32, v []byte) (r Range, not bool) {
	low, high := make([]byte, len(v)), slices.Repeat([]byte{0xff}, len(v))
	switch op {
	case unix.NFT_CMP_EQ:
		return Range{v, v}, false
	case unix.NFT_CMP_NEQ:
		return Range{v, v}, true
	case unix.NFT_CMP_LTE:
		return Range{low, v}, false
	case unix.NFT_CMP_GT:
		return Range{low, v}, true
	case unix.NFT_CMP_GTE:
		return Range{v, high}, false
	case unix.NFT_CMP_LT:
		return Range{v, high}, true
	}
	return Range{}, false
}

// add adds the condition that fields lie in one of the elements; each element
// has an interval for each field. If that cannot be expressed, the rule is
// obscure.
func (c *compiler) add(fields []*loadedField, masks [][]byte, elements [][]Range, not bool, label string) {
	cond, ok := condition(fields, masks, elements)
	if !ok {
		c.obscure("comparison")
		return
	}
	cond.Not, cond.label = not, label
	if not && len(fields) == 1 && fields[0].values != nil {
		cond = fields[0].complement(cond)
	}
	c.learn(cond)
	c.rule.Conditions = append(c.rule.Conditions, cond)
	c.say(cond.String())
}

// condition converts elements to values of the fields. An interval of one may
// become several, so that an element can become several too.
func condition(fields []*loadedField, masks [][]byte, elements [][]Range) (Condition, bool) {
	var cond Condition
	for i, f := range fields {
		var column []Range
		for _, e := range elements {
			column = append(column, e[i])
		}
		cond.Keys = append(cond.Keys, Key{f.field, f.keyMask(masks[i], column)})
	}
	for _, e := range elements {
		made := [][]Range{nil}
		for i, f := range fields {
			rs, ok := f.convert(e[i], masks[i])
			if !ok {
				return Condition{}, false
			}
			var longer [][]Range
			for _, m := range made {
				for _, r := range rs {
					longer = append(longer, append(slices.Clip(m), r))
				}
			}
			made = longer
		}
		cond.In = append(cond.In, made...)
	}
	if len(fields) == 1 {
		merged := where(0, merge(cond.ranges())...)
		cond.In = merged.In
	}
	return cond, true
}

// lookup looks a key up in a set, or in a map.
func (c *compiler) lookup(as attributes) {
	name := as.text(unix.NFTA_LOOKUP_SET)
	s := c.sets[nftID{c.table.family, c.table.table, name}]
	from, to := as.uint32(unix.NFTA_LOOKUP_SREG), as.uint32(unix.NFTA_LOOKUP_DREG)
	switch {
	case !as.has(unix.NFTA_LOOKUP_DREG):
		c.inSet(s, from, as.uint32(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0)
	case to == unix.NFT_REG_VERDICT:
		c.verdictMap(s, from)
	default:
		c.inSet(s, from, false)
		c.put(to, nil, 16)
	}
}

// keys returns the fields that make up a key of a set in registers, and their
// masks; nil if one is not known.
func (c *compiler) keys(from uint32, size int) (fields []*loadedField, masks [][]byte) {
	r := register(from)
	for size > 0 {
		l := c.registers[r]
		if l == nil || len(l.fields) != 1 {
			return nil, nil
		}
		words := (l.size() + 3) / 4
		fields, masks = append(fields, &l.fields[0]), append(masks, l.mask)
		r, size = r+uint32(words), size-4*words
	}
	return fields, masks
}

// elementRanges splits the interval of an element by the fields of its key.
func elementRanges(fields []*loadedField, r Range) ([]Range, bool) {
	var out []Range
	for _, f := range fields {
		if len(r.From) < f.size || len(r.To) < f.size {
			return nil, false
		}
		out = append(out, Range{r.From[:f.size], r.To[:f.size]})
		n := min((f.size+3)/4*4, len(r.From), len(r.To))
		r = Range{r.From[n:], r.To[n:]}
	}
	return out, true
}

// elementsOf returns the elements of a set for fields, with their verdicts.
func elementsOf(s *nftSet, fields []*loadedField) (elements [][]Range, verdicts []*Verdict, rest *nftElement, ok bool) {
	all, rest := s.spans()
	for _, e := range all {
		rs, ok := elementRanges(fields, e.Range)
		if !ok {
			return nil, nil, nil, false
		}
		elements, verdicts = append(elements, rs), append(verdicts, e.verdict)
	}
	return elements, verdicts, rest, true
}

// inSet adds the condition that a key is in a set.
func (c *compiler) inSet(s *nftSet, from uint32, not bool) {
	if s == nil {
		c.obscure("lookup")
		return
	}
	fields, masks := c.keys(from, s.keyLen)
	if fields == nil {
		c.obscure("lookup in " + s.name)
		return
	}
	elements, _, rest, ok := elementsOf(s, fields)
	if !ok || rest != nil {
		c.obscure("lookup in " + s.name)
		return
	}
	label := "@" + s.name
	if s.flags&unix.NFT_SET_ANONYMOUS != 0 {
		label = ""
	}
	c.add(fields, masks, elements, not, label)
}

// verdictMap ends the rule by a rule for each verdict of the map. Its keys do
// not overlap, so that their order does not matter.
func (c *compiler) verdictMap(s *nftSet, from uint32) {
	unknown := func() {
		c.obscure("vmap")
		c.rule.Verdict.Kind, c.ended = Other, true
	}
	if s == nil {
		unknown()
		return
	}
	fields, masks := c.keys(from, s.keyLen)
	elements, verdicts, rest, ok := elementsOf(s, fields)
	if fields == nil || !ok {
		unknown()
		return
	}
	var order []Verdict
	groups := map[Verdict][][]Range{}
	for i, v := range verdicts {
		if v == nil {
			v = &Verdict{Kind: Other}
		}
		if groups[*v] == nil {
			order = append(order, *v)
		}
		groups[*v] = append(groups[*v], elements[i])
	}
	c.maps, c.ended = []Rule{}, true
	for _, v := range order {
		c.branch(fields, masks, groups[v], false, v)
	}
	if rest != nil && rest.verdict != nil {
		c.branch(fields, masks, elements, true, *rest.verdict)
	}
}

// branch makes a rule of what came so far, one more condition and a verdict.
func (c *compiler) branch(fields []*loadedField, masks [][]byte, elements [][]Range, not bool, v Verdict) {
	one := compiler{rule: c.rule, words: slices.Clip(c.words)}
	one.rule.Conditions = slices.Clip(c.rule.Conditions)
	one.rule.Actions = slices.Clip(c.rule.Actions)
	one.add(fields, masks, elements, not, "")
	one.rule.Verdict = v
	one.say(": " + v.String())
	one.rule.Text = joinWords(one.words)
	c.maps = append(c.maps, one.rule)
}
