package probe

// Verdict is what the answers to a target's samples amount to.
type Verdict string

// The verdicts of [Result.Verdict]. Only [Direct] and [Proxied] are usable answers.
const (
	// Direct means that a TCP server answered with a SYN+ACK.
	Direct Verdict = "direct"
	// Proxied means that a SYNPROXY, or another program that holds no window open before the handshake is done,
	// answered with a SYN+ACK.
	Proxied Verdict = "proxied"
	// Refused means that the answer was a RST: nothing listens there, or a firewall says so.
	Refused Verdict = "refused"
	// Unreachable means that an ICMP error came back, or that this machine itself had no way to send; see [Result.Reason].
	Unreachable Verdict = "unreachable"
	// NoReply means that nothing came back within the timeout.
	NoReply Verdict = "no-reply"
)

// Usable tells whether the verdict stands for a SYN+ACK, whose options can be announced.
func (v Verdict) Usable() bool {
	return v == Direct || v == Proxied
}

// Speaks tells which side of a connection sends the first byte.
type Speaks string

// The values of [Result.Speaks].
const (
	// Server means that the server sends data before it has received any, as SSH, SMTP, FTP and MySQL do.
	Server Speaks = "server"
	// Client means that the server waits for the client, as HTTP and TLS do.
	Client Speaks = "client"
)

// A Variant is one of several different answers that came from one target.
type Variant struct {
	// Verdict is Direct, Proxied, Refused or Unreachable.
	Verdict Verdict `json:"verdict"`
	// Reason is set when Verdict is Unreachable, as in [Result.Reason].
	Reason string `json:"reason,omitempty"`
	// Options are the options of the SYN+ACK exactly as it carried them, not limited by any MTU.
	Options Options `json:"options"`
	// Window is the window of the first such SYN+ACK, not scaled, in bytes. Nil if it was no SYN+ACK.
	Window *uint16 `json:"window"`
	// Count is the number of samples that were answered this way, at least 1.
	Count int `json:"count"`
}

// A Result is what one target answered. Its JSON form is an element of "results" in the output of "synproxyctl probe".
type Result struct {
	// Target is [Target.Name].
	Target string `json:"target"`
	// Address is the address that was asked, with the zone if it has one.
	Address string `json:"address"`
	// Port is the port that was asked.
	Port uint16 `json:"port"`
	// Family is "ipv4" or "ipv6".
	Family string `json:"family"`
	// Verdict sums the samples up.
	Verdict Verdict `json:"verdict"`
	// Reason says why the target is unreachable, in words joined by hyphens ("host-unreachable", "port-unreachable",
	// "admin-prohibited", "no-route", ...). It is empty for every other verdict.
	Reason string `json:"reason,omitempty"`
	// Options are the values that are safe to announce for every server that answered: the smallest MSS, limited by the MTU of the
	// route (or, for an address of this machine, of the interface through which clients come in); the largest window scale, if all sent one; SACK and
	// timestamps, if all sent them. It is empty unless the verdict is usable.
	Options Options `json:"options"`
	// MSSAnswered is the smallest MSS that was really answered, in bytes, where the MTU made Options.MSS smaller. Zero otherwise.
	MSSAnswered uint16 `json:"mss_answered,omitempty"`
	// Window is the window of the first SYN+ACK that bears Verdict out, in bytes and never scaled (RFC 7323, 2.2). Nil without a SYN+ACK.
	Window *uint16 `json:"window"`
	// TTL is the time to live, or hop limit, with which the first answer arrived. Nil if nothing was answered.
	TTL *uint8 `json:"ttl"`
	// RTTMicros is the shortest round trip in microseconds. Nil if nothing was answered.
	RTTMicros *int64 `json:"rtt_us"`
	// Samples is the number of answers, at most Sent.
	Samples int `json:"samples"`
	// Sent is the number of samples that were asked. One that was asked again, since nothing came, counts once.
	Sent int `json:"sent"`
	// Consistent is false when samples were answered differently: then Variants lists the answers.
	Consistent bool `json:"consistent"`
	// Variants lists the distinct answers, the most frequent first. It is empty, never nil, when Consistent is true.
	Variants []Variant `json:"variants"`
	// Connected tells whether a connection to the server stood, not only one to a proxy before it. Nil if it was not asked for
	// ([Config.Connect]), or if no answer was usable.
	Connected *bool `json:"connected"`
	// Speaks is nil if it was not asked for ([Config.Connect]) or could not be found.
	Speaks *Speaks `json:"speaks"`
	// SYNCookies is true when the server itself is answering with SYN cookies (tcp_syncookies=2, or its queue is full).
	SYNCookies bool `json:"syn_cookies,omitempty"`
	// Local is true when the address belongs to this machine, so that the answer came through the loopback interface.
	Local bool `json:"local,omitempty"`
	// Notes are remarks for a person: malformed options, lost samples, limits that were applied.
	Notes []string `json:"notes,omitempty"`
	// IPTables is [Options.IPTables] of Options, empty unless the verdict is usable.
	IPTables string `json:"iptables"`
	// NFT is [Options.NFT] of Options, empty unless the verdict is usable.
	NFT string `json:"nft"`
}
