package rules

import (
	"net/netip"

	"github.com/google/go-cmp/cmp"
)

// compareTypes lets cmp look at the package's own types as == does.
var compareTypes = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func ptr[T any](v T) *T { return &v }
