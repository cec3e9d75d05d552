// Package target turns what a user types for a TARGET into addresses and ports.
//
// [Parse] reads one word, [ParseList] the lines of a file, and [Read] the words
// of a command line with the lists that they name; none of them asks the
// network. [Expand] then resolves the names. What the product can do with an
// address is asked of the result, by [Target.CheckProbe] and
// [Target.CheckApply].
//
// Every fault is an [*Error] that tells in its Hint what to do next. The
// package prints nothing and knows no flags.
package target
