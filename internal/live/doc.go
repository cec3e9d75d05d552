// Package live proves on the running host that the protection works, without a
// second machine.
//
// [Prove] makes a network namespace that lives only as long as it needs, with a
// veth into the host, and is a client there: it opens real connections to the
// services through the host's real rules, has them carry data, and asks
// conntrack whether a SYNPROXY opened them; then it sends SYNs from addresses
// that nobody has, each of which the proxy must answer and none of which may
// leave an entry in the conntrack table. For services that are protected on
// some interfaces only, it redirects what the client sends into the ingress of
// each of them.
//
// It never says proven without that proof. Where a proof cannot be had, it says
// why; it changes no setting, no rule and no interface of the host for it. What
// it adds (the veth, one route for each family, one neighbour entry each, the
// filter that redirects) belongs to the veth and vanishes with it: at the end,
// and also when the process is killed, since nothing else holds the namespace.
//
// What it does not prove: that an answer finds its way to real clients, whose
// routes, filters by source address and path it does not share.
package live
