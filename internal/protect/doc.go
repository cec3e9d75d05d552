// Package protect holds the sequences: how the protection of a network namespace
// is applied, verified, shown and taken away, in an order and with an undo
// record that leave nothing half done, whatever fails.
//
// A [Host] stands for the network namespace of the calling thread. Its methods
// read the kernel, compare that with what is wanted, and change the difference.
// They print nothing and never exit; what people should know comes back as
// [Finding]s, and each error tells by its [Code] what it means for the caller.
package protect
