// Package rules says what the kernel should hold, and puts it there.
//
// A [Policy] (services and the TCP options of their backends) becomes typed
// xtables rules by the pure function [Policy.Rules]. Each [Rule] prints to
// iptables arguments and to a line of iptables-restore(8), and [ParseSave]
// reads the same types back from iptables-save(8), so that asking "is the
// kernel as it should be?" is a comparison of values. [Plan] turns the
// difference of two rule sets into [Step]s, each of which is one transaction of
// one table, ordered so that no packet ever meets half a protection. A
// [Backend] executes steps.
//
// Everything that this package makes has a chain of its own, whose name begins
// with [ChainPrefix]; the only thing it adds to a chain that is not its own is
// a jump. It never flushes, changes or reorders a rule of anybody else, and it
// never changes a policy of a chain.
//
// The rule set differs from the recipe of iptables-extensions(8) in what makes
// it work with current kernels: see [Service] for the repairs and why they are
// there. It does not read or write sysctls: a complete protection also needs
// net.netfilter.nf_conntrack_tcp_loose=0.
package rules
