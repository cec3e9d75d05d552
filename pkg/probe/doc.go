// Package probe asks a TCP server which options its SYN+ACK carries: the values that a SYNPROXY in front of it has to
// announce in its place.
//
// [Probe] sends a few SYN segments through a raw socket, each offering MSS, SACK, timestamps and window scaling (RFC 9293,
// RFC 2018, RFC 7323), and describes the answers as a [Result]. It never completes a handshake, unless [Config.Connect] asks
// for it: the kernel answers the server's SYN+ACK with a RST, because no socket waits for it.
//
// The package is built in three layers. [Segment] encodes and decodes the bytes, another layer turns answers into a verdict, both
// without touching the system; a thin rim owns the sockets and the clock.
//
// It needs CAP_NET_RAW. It works in the network namespace of the calling thread: a caller that has entered a namespace
// must hold its thread with [runtime.LockOSThread] for the whole call. It does not resolve names, and it does not fragment or follow redirects.
//
// Thousands of targets are asked at once, from a few ports, at a bounded rate ([Config.Rate]): the first sample of each, then the second of each, and so on. A sample that is not answered within
// half of the timeout is asked again once, as TCP does. Sending waits while the answers that have come are not read. A hundred thousand targets
// take some 50 MB, and their results as much again.
package probe
