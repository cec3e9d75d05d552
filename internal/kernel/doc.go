// Package kernel reads what the product needs to know of the running kernel
// and that is neither a rule nor a setting: SYNPROXY's counters, the proxied
// connections, routes, interfaces, capabilities and the identity of the
// network namespace.
//
// Everything is about the network namespace of the calling thread. A caller
// that has changed it must have called [runtime.LockOSThread] and must stay on
// that goroutine. The package only reads; it changes nothing in the kernel.
package kernel
