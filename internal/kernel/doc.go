// Package kernel knows what the product needs of the running kernel and that is
// neither a rule nor a setting: SYNPROXY's counters, the tracked connections
// and the local sockets, routes, interfaces, capabilities and the identity of
// the network namespace.
//
// Everything is about the network namespace of the calling thread. A caller
// that has changed it must have called [runtime.LockOSThread] and must stay on
// that goroutine.
//
// The package changes two things only, both entries of the conntrack table:
// [Carry] adds those of connections that began before anything was tracked, and
// [Forget] and [ForgetHalfOpen] delete those of handshakes that SYNPROXY would
// stumble over. ([Tracking] deletes the entry of its own datagram.) It sets up
// no rule and no hook, and never flushes the table.
package kernel
