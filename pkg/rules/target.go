package rules

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Target is what a rule does with a packet that matches. The types of this file
// are all there are.
type Target interface {
	// args returns the iptables arguments of the target, "-j" first.
	args() []string
}

// Verdict ends the packet's way through the table.
type Verdict string

// The verdicts.
const (
	Accept Verdict = "ACCEPT"
	Drop   Verdict = "DROP"
)

// Jump continues in another chain of the same table.
type Jump struct {
	Chain string
}

// Notrack keeps connection tracking away from the packet (CT --notrack).
type Notrack struct{}

// SYNPROXY answers SYNs with a cookie, and opens the connection to the backend
// when the cookie comes back (net/netfilter/nf_synproxy_core.c). It announces
// the given options.
type SYNPROXY struct {
	Options Options
}

// Lookup is SYNPROXY with the options that a map of nft holds for the packet's
// destination address and port. A packet that is not in it goes on.
type Lookup struct {
	Map string // the name of a [Set] whose members have objects
}

// DNAT sends a connection to another address and port (nat table only).
type DNAT struct {
	To netip.AddrPort
}

// TCPOptStrip overwrites TCP options with no-operations.
type TCPOptStrip struct {
	Kinds []uint8 // TCP option kinds (IANA), 2 to 255, ascending
}

// KindTimestamps is the kind of the timestamps option (RFC 7323).
const KindTimestamps = 8

// optionNames are the words that TCPOPTSTRIP knows beside numbers
// (iptables-extensions(8)).
var optionNames = map[string]uint8{"mss": 2, "wscale": 3, "sack-permitted": 4, "sack": 5, "timestamp": KindTimestamps, "md5": 19}

func (t Verdict) args() []string { return []string{"-j", string(t)} }
func (t Jump) args() []string    { return []string{"-j", t.Chain} }
func (Notrack) args() []string   { return []string{"-j", "CT", "--notrack"} }

func (t SYNPROXY) args() []string {
	return append([]string{"-j", "SYNPROXY"}, t.Options.args()...)
}

func (t Lookup) args() []string { return []string{"-j", "SYNPROXY", "--map", t.Map} }

func (t DNAT) args() []string { return []string{"-j", "DNAT", "--to-destination", t.To.String()} }

func (o Options) args() []string {
	var args []string
	if o.SACKPerm {
		args = append(args, "--sack-perm")
	}
	if o.Timestamps {
		args = append(args, "--timestamp")
	}
	if o.WScale != nil {
		args = append(args, "--wscale", strconv.Itoa(int(*o.WScale)))
	}
	if o.MSS != nil {
		args = append(args, "--mss", strconv.Itoa(int(*o.MSS)))
	}
	return args
}

func (t TCPOptStrip) args() []string {
	words := make([]string, len(t.Kinds))
	for i, kind := range t.Kinds {
		words[i] = strconv.Itoa(int(kind))
	}
	return []string{"-j", "TCPOPTSTRIP", "--strip-options", strings.Join(words, ",")}
}

func parseKinds(s string) ([]uint8, error) {
	var kinds []uint8
	for word := range strings.SplitSeq(s, ",") {
		kind, ok := optionNames[word]
		if !ok {
			n, err := strconv.ParseUint(word, 10, 8)
			if err != nil {
				return nil, err
			}
			kind = uint8(n)
		}
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds), nil
}
