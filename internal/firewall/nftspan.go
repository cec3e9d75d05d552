package firewall

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"
)

// span is an element of a set: keys from one to the other.
type span struct {
	Range
	verdict *Verdict
}

// spans returns the elements of a set as intervals, and apart from them the one
// that catches all others.
func (s *nftSet) spans() (all []span, rest *nftElement) {
	elements := slices.Clone(s.elements)
	elements = slices.DeleteFunc(elements, func(e nftElement) bool {
		if e.flags&setCatchAll != 0 {
			rest = &e
			return true
		}
		return e.key == nil
	})
	if s.flags&unix.NFT_SET_INTERVAL == 0 || slices.ContainsFunc(elements, func(e nftElement) bool { return e.keyEnd != nil }) {
		for _, e := range elements {
			end := e.keyEnd
			if end == nil {
				end = e.key
			}
			all = append(all, span{Range{e.key, end}, e.verdict})
		}
		return all, rest
	}
	return intervals(elements), rest
}

// intervals joins the elements that begin an interval with those that end one:
// an end is the first key that does not belong to it.
func intervals(elements []nftElement) []span {
	isEnd := func(e nftElement) bool { return e.flags&unix.NFT_SET_ELEM_INTERVAL_END != 0 }
	slices.SortStableFunc(elements, func(a, b nftElement) int {
		if c := bytes.Compare(a.key, b.key); c != 0 {
			return c
		}
		if isEnd(a) && !isEnd(b) {
			return -1
		}
		return 0
	})
	var all []span
	for i, e := range elements {
		if isEnd(e) {
			continue
		}
		to := bytes.Repeat([]byte{0xff}, len(e.key))
		if i+1 < len(elements) {
			to = previous(elements[i+1].key)
		}
		all = append(all, span{Range{e.key, to}, e.verdict})
	}
	return all
}
