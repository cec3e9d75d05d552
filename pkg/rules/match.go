package rules

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Match is one condition of a rule. The types of this file are all there are:
// each prints itself, and parse.go reads each of them back.
type Match interface {
	// args returns the iptables arguments of the match.
	args() []string
	// rank orders the matches of a rule for printing; all of them must hold,
	// so their order does not change what the rule matches.
	rank() int
}

// Source matches the source address.
type Source struct {
	Prefix netip.Prefix
	Not    bool
}

// Destination matches the destination address.
type Destination struct {
	Prefix netip.Prefix
	Not    bool
}

// InInterface matches the interface that the packet came in by.
type InInterface struct {
	Name string
	Not  bool
}

// TCP matches TCP segments. The zero value matches all of them.
type TCP struct {
	SrcPort, DstPort uint16   // 0: any
	Mask, Set        TCPFlags // of the flags in Mask exactly those in Set; Mask 0: any
}

// CTState matches the connection tracking state of the packet.
type CTState struct {
	States States
}

// Translated matches packets of connections whose destination a DNAT has
// changed, or with Not all others, those that are not tracked among them.
type Translated struct {
	Not bool
}

// Original matches packets of connections whose first packet had this
// destination address and port, whatever NAT has made of it since.
type Original struct {
	Destination netip.Prefix
	Port        uint16 // 1 to 65535
}

// Members matches packets whose destination address and port, or with Source
// those that they come from, are in a [Set]. With Count the set counts them.
type Members struct {
	Set    string
	Source bool
	Count  bool
}

// SourceType matches packets whose source is, or with Not is not, an address of
// this machine (addrtype --src-type LOCAL).
type SourceType struct {
	Not bool
}

// DestinationType matches packets whose destination is, or with Not is not, an
// address of this machine (addrtype --dst-type LOCAL).
type DestinationType struct {
	Not bool
}

// Socket matches locally generated packets that belong to no socket of a
// process (owner ! --socket-exists): those that the kernel's SYNPROXY makes.
type Socket struct {
	Not bool
}

// U32 matches packets in which the 32 bits at Offset, counted from the start of
// the IP header, are Value under Mask.
type U32 struct {
	Offset      uint8
	Mask, Value uint32
}

// Comment says something to people. It holds 1 to 255 bytes without control
// characters.
type Comment struct {
	Text string
}

// TCPFlags is a set of TCP header flags, as in the header's byte 13.
type TCPFlags uint8

// The flags.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

var flagNames = [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"}

// String prints the set as iptables does: "FIN,SYN", or "NONE".
func (f TCPFlags) String() string {
	if f == 0 {
		return "NONE"
	}
	return joinBits(uint(f), flagNames[:])
}

// States is a set of connection tracking states.
type States uint8

// The states.
const (
	Invalid States = 1 << iota
	New
	Related
	Established
	Untracked
)

var stateNames = [...]string{"INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED"}

// String prints the set as iptables does: "INVALID,UNTRACKED".
func (s States) String() string { return joinBits(uint(s), stateNames[:]) }

func joinBits(set uint, names []string) string {
	var in []string
	for i, name := range names {
		if set&(1<<i) != 0 {
			in = append(in, name)
		}
	}
	return strings.Join(in, ",")
}

func splitBits(s string, names []string) (uint, error) {
	var set uint
next:
	for word := range strings.SplitSeq(s, ",") {
		for i, name := range names {
			if word == name {
				set |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("%q is not one of %s", word, strings.Join(names, ", "))
	}
	return set, nil
}

func not(yes bool, args ...string) []string {
	if yes {
		return append([]string{"!"}, args...)
	}
	return args
}

func (m Source) args() []string      { return not(m.Not, "-s", m.Prefix.String()) }
func (m Destination) args() []string { return not(m.Not, "-d", m.Prefix.String()) }
func (m InInterface) args() []string { return not(m.Not, "-i", m.Name) }

func (m TCP) args() []string {
	args := []string{"-p", "tcp"}
	if m == (TCP{}) {
		return args
	}
	args = append(args, "-m", "tcp")
	if m.SrcPort != 0 {
		args = append(args, "--sport", strconv.Itoa(int(m.SrcPort)))
	}
	if m.DstPort != 0 {
		args = append(args, "--dport", strconv.Itoa(int(m.DstPort)))
	}
	if m.Mask != 0 {
		args = append(args, "--tcp-flags", m.Mask.String(), m.Set.String())
	}
	return args
}

func (m CTState) args() []string {
	return []string{"-m", "conntrack", "--ctstate", m.States.String()}
}

func (m Translated) args() []string {
	return append([]string{"-m", "conntrack"}, not(m.Not, "--ctstate", stateDNAT)...)
}

// stateDNAT is a state of xt_conntrack that is none of connection tracking.
const stateDNAT = "DNAT"

func (m Original) args() []string {
	return []string{
		"-m", "conntrack", "--ctorigdst", hostOr(m.Destination), "--ctorigdstport", strconv.Itoa(int(m.Port)),
	}
}

func (m Members) args() []string {
	which := "dst,dst"
	if m.Source {
		which = "src,src"
	}
	args := []string{"-m", "set", "--match-set", m.Set, which}
	if !m.Count {
		args = append(args, "!", "--update-counters")
	}
	return args
}

// hostOr writes a prefix, and one address without its length, as iptables-save
// does in some matches.
func hostOr(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func (m SourceType) args() []string {
	return append([]string{"-m", "addrtype"}, not(m.Not, "--src-type", "LOCAL")...)
}

func (m DestinationType) args() []string {
	return append([]string{"-m", "addrtype"}, not(m.Not, "--dst-type", "LOCAL")...)
}

func (m Socket) args() []string {
	return append([]string{"-m", "owner"}, not(m.Not, "--socket-exists")...)
}

func (m U32) args() []string {
	return []string{"-m", "u32", "--u32", fmt.Sprintf("%d&0x%x=0x%x", m.Offset, m.Mask, m.Value)}
}

func (m Comment) args() []string { return []string{"-m", "comment", "--comment", m.Text} }

func (Source) rank() int          { return 0 }
func (Destination) rank() int     { return 1 }
func (InInterface) rank() int     { return 2 }
func (TCP) rank() int             { return 3 }
func (CTState) rank() int         { return 4 }
func (Translated) rank() int      { return 5 }
func (Original) rank() int        { return 6 }
func (Members) rank() int         { return 7 }
func (SourceType) rank() int      { return 8 }
func (DestinationType) rank() int { return 9 }
func (Socket) rank() int          { return 10 }
func (U32) rank() int             { return 11 }
func (Comment) rank() int         { return 12 }
