// Package firewall answers what the rules of others on this host do to a
// packet of a given kind. It knows the rules of iptables-nft, iptables-legacy
// and nft, reads their conditions as far as it can, and says of a class of
// packets that all of them pass, that none does, or that it depends, and which
// rule decides.
//
// On top of that it answers the two questions of this product: what of the
// host's rules would break SYNPROXY for a service ([Firewall.Blockers]), and
// do the rules speak about who may reach it ([Firewall.Restricts])?
//
// Only [Read] asks the kernel; it changes nothing there. Routing, interfaces
// and settings are no business of this package, and neither is what bridge and
// netdev chains do, beyond that they are there and may drop.
package firewall
