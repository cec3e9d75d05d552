// Package demo shows on the real kernel what a SYN flood does to a TCP service, and what synproxyctl does about it:
// real machines with real TCP in network namespaces (see [lab]), the same flood and the same good connections with
// and without protection, and the program itself, run on the firewall as an administrator would.
//
// Call [Run]; it returns a [Report], which is data. Every figure in it was measured in that run, and
// [Report.Faults] says where the story did not hold.
//
// The demo does not show a link that is full: a SYN flood that fills the line in front of the firewall is no
// business of a firewall. Nor does it compare speeds: its flood has a fixed, moderate rate.
package demo
