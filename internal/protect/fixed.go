package protect

import (
	"errors"
	"fmt"
	"strings"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Fixed is a set of options that a person has given, so that no answer of a
// backend changes them. Its text is their names, as in "mss wscale".
type Fixed uint8

// The options.
const (
	FixedMSS Fixed = 1 << iota
	FixedWScale
	FixedSACKPerm
	FixedTimestamps
)

var fixedNames = []struct {
	is   Fixed
	name string
}{{FixedMSS, "mss"}, {FixedWScale, "wscale"}, {FixedSACKPerm, "sack-perm"}, {FixedTimestamps, "timestamps"}}

// MarshalText returns the names.
func (f Fixed) MarshalText() ([]byte, error) {
	var words []string
	for _, n := range fixedNames {
		if f&n.is != 0 {
			words = append(words, n.name)
		}
	}
	return []byte(strings.Join(words, " ")), nil
}

// UnmarshalText reads the names.
func (f *Fixed) UnmarshalText(text []byte) error {
	var all Fixed
	for word := range strings.FieldsSeq(string(text)) {
		known := all
		for _, n := range fixedNames {
			if n.name == word {
				known |= n.is
			}
		}
		if known == all {
			return fmt.Errorf("fixed option %q: %w", word, errors.ErrUnsupported)
		}
		all = known
	}
	*f = all
	return nil
}

// fixed tells what of the options is given.
func (w Wish) fixed() Fixed {
	var f Fixed
	for is, given := range map[Fixed]bool{
		FixedMSS: w.MSS != nil, FixedWScale: w.WScale != nil, FixedSACKPerm: w.SACKPerm != nil, FixedTimestamps: w.Timestamps != nil,
	} {
		if given {
			f |= is
		}
	}
	return f
}

// keep puts the options that are fixed in the place of those that were answered.
func (f Fixed) keep(from rules.Options, into *rules.Options) {
	if f&FixedMSS != 0 {
		into.MSS = from.MSS
	}
	if f&FixedWScale != 0 {
		into.WScale = from.WScale
	}
	if f&FixedSACKPerm != 0 {
		into.SACKPerm = from.SACKPerm
	}
	if f&FixedTimestamps != 0 {
		into.Timestamps = from.Timestamps
	}
}
