// Package accel answers SYNs by a BPF program in front of the kernel's SYNPROXY, with the same cookies and byte for byte
// the same SYN+ACKs, at a fraction of the price.
//
// [Load] brings the program and its maps into the kernel, [Program.Update] says which services it answers for, and
// [Program.Read] reads that back, so that asking whether both layers agree is a comparison of values. [Entries] makes
// those values of the same services that pkg/rules makes rules of. The program has two forms: XDP and tc ingress.
//
// It answers only what is plainly a SYN to one of the services, and drops nothing: whatever else comes, and whatever
// fails, goes to netfilter as it came. So the order of changes does not matter as long as the rules are there first and
// go last, and a service that the map does not have is merely slower. The client's final ACK always meets netfilter.
//
// It does not read rules, and it knows nothing of access lists: a source that the host's filters deny would get its
// SYN+ACK. Who fills the map must leave such services out. It does not ask for routes: the answer leaves by the
// interface, and to the neighbour, that the SYN came from. Checksums of SYNs are not judged, since on virtual links
// there may be none yet: netfilter drops a SYN whose checksum is wrong, and this answers it.
//
// The kernel must be 6.0 or newer. What the program does is in bpf/synproxy.c; `make generate` compiles it.
package accel
