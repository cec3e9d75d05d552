// Package lab builds small networks out of network namespaces: hosts, links between them, real TCP servers
// and clients, bounded SYN floods and packet captures.
//
// A program first calls [Isolate], which runs it again in namespaces of its own. Inside, [World.NewLab] gives an
// empty network and [World.NewTopology] the usual one:
//
//	client ---- eth0 firewall eth1 ---- server
//	                 eth2
//	                  |
//	               attacker
//
// Everything that a lab makes lives in namespaces that die with the process: the machine's own interfaces,
// firewall, sysctls and /run are never touched, and no packet leaves. Each host is also known to
// `ip netns exec NAME` as long as the lab stands, seen from inside (see [Host.Namespace]).
//
// A link forwards at once and loses nothing. [World.NewTopologyOver] puts a [Relay] between the client and the
// firewall, which delays and loses packets as the Internet does, or as a test wants.
//
// The package needs Linux with network namespaces and veth; it needs no root where unprivileged user namespaces
// are allowed. It limits no link's bandwidth, and it knows nothing about SYNPROXY rules.
package lab
