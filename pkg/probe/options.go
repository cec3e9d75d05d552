package probe

import (
	"strconv"
	"strings"
)

// Options are the TCP options of a handshake that a SYNPROXY can announce for the server behind it.
type Options struct {
	// MSS is the maximum segment size in bytes (RFC 9293, 3.7.1). Nil means that the option was not sent.
	MSS *uint16 `json:"mss"`
	// WScale is the window scale, a shift of 0 to 14 bits (RFC 7323, 2.3). Nil means that the option was not sent;
	// zero means that it was sent, with a shift of zero.
	WScale *uint8 `json:"wscale"`
	// SACKPerm tells whether selective acknowledgements were permitted (RFC 2018).
	SACKPerm bool `json:"sack_perm"`
	// Timestamps tells whether the timestamps option was sent (RFC 7323, 3.2).
	Timestamps bool `json:"timestamps"`
}

// IPTables returns the options as arguments of the iptables target SYNPROXY (iptables-extensions(8)), for example
// "--sack-perm --timestamp --mss 1460 --wscale 9". Options that were not sent are left out; without any it returns "".
func (o Options) IPTables() string {
	var words []string
	if o.SACKPerm {
		words = append(words, "--sack-perm")
	}
	if o.Timestamps {
		words = append(words, "--timestamp")
	}
	if o.MSS != nil {
		words = append(words, "--mss", strconv.Itoa(int(*o.MSS)))
	}
	if o.WScale != nil {
		words = append(words, "--wscale", strconv.Itoa(int(*o.WScale)))
	}
	return strings.Join(words, " ")
}

// NFT returns the options as they follow the word "synproxy" in a statement of nft(8), for example
// "mss 1460 wscale 9 timestamp sack-perm". Options that were not sent are left out; without any it returns "".
func (o Options) NFT() string {
	var words []string
	if o.MSS != nil {
		words = append(words, "mss", strconv.Itoa(int(*o.MSS)))
	}
	if o.WScale != nil {
		words = append(words, "wscale", strconv.Itoa(int(*o.WScale)))
	}
	if o.Timestamps {
		words = append(words, "timestamp")
	}
	if o.SACKPerm {
		words = append(words, "sack-perm")
	}
	return strings.Join(words, " ")
}

func (o Options) equal(p Options) bool {
	return same(o.MSS, p.MSS) && same(o.WScale, p.WScale) && o.SACKPerm == p.SACKPerm && o.Timestamps == p.Timestamps
}

func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
