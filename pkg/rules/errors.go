package rules

import "errors"

// What can be wrong with the host, apart from failures of single programs. Test
// with errors.Is.
var (
	// ErrUnsupported: a program or a kernel feature is missing.
	ErrUnsupported = errors.New("not supported on this host")
	// ErrIncompatible: a table that we need holds what iptables cannot show.
	ErrIncompatible = errors.New("table is in use by nft")
	// ErrForeignOwner: somebody else's rule refers to a chain of ours.
	ErrForeignOwner = errors.New("a rule of somebody else uses our chain")
	// ErrChanged: the rules changed between our look and our change.
	ErrChanged = errors.New("the rules were changed by somebody else meanwhile")
)
