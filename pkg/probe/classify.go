package probe

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// sample is one SYN and what came back for it.
type sample struct {
	sent    Segment
	verdict Verdict // of this answer alone; NoReply until one came

	// These are set when a segment came back.
	answer   Segment
	problems []string
	// These are set when any packet came back.
	ttl uint8
	rtt time.Duration

	// reason is set when verdict is Unreachable. Local is true if this machine itself refused to send.
	reason string
	local  bool
}

// limit is the largest packet that reaches the clients of a target, and whose it is.
type limit struct {
	mtu  int    // bytes; zero means unknown
	what string // for the note: "the MTU of eth0"
}

// proxyWindow is the largest window of a SYN+ACK that is taken for a SYNPROXY's. It sends 0 (net/netfilter/nf_synproxy_core.c);
// a firewall may have made that 1 so that the client probes again when a packet was lost. No server offers so little: Linux does
// not let a receive buffer become smaller than a packet.
const proxyWindow = 1

// judge turns the header of an answer into the verdict of its sample.
func judge(s Segment) Verdict {
	switch {
	case s.Flags&RST != 0:
		return Refused
	case s.Window <= proxyWindow:
		return Proxied
	default:
		return Direct
	}
}

// classify sums the samples of one target up. The caller adds who was asked, and whether it was this machine.
func classify(samples []sample, family string, lim limit) Result {
	r := Result{Family: family, Verdict: NoReply, Consistent: true, Variants: []Variant{}}
	var usable []sample
	for _, s := range samples {
		if !s.local {
			r.Sent++
		}
		if s.verdict.Usable() {
			usable = append(usable, s)
		}
		r.count(s)
	}
	r.vary(samples)
	if r.Verdict.Usable() {
		r.announce(usable, lim)
	}
	if r.Samples > 0 && r.Samples < r.Sent {
		r.note("%d of %d samples were answered", r.Samples, r.Sent)
	}
	return r
}

// rank orders verdicts by what they tell: one SYN+ACK shows a server, whatever else came, and one that came from a proxy
// shows that a proxy is in the path.
func rank(v Verdict) int {
	return slices.Index([]Verdict{NoReply, Unreachable, Refused, Direct, Proxied}, v)
}

// count adds one sample to the figures.
func (r *Result) count(s sample) {
	if rank(s.verdict) > rank(r.Verdict) {
		r.Verdict, r.Reason = s.verdict, s.reason
	}
	if s.verdict == NoReply || s.local {
		return
	}
	r.Samples++
	if r.TTL == nil {
		r.TTL = &s.ttl
	}
	if micros := s.rtt.Microseconds(); r.RTTMicros == nil || micros < *r.RTTMicros {
		r.RTTMicros = &micros
	}
	for _, problem := range s.problems {
		r.note("malformed answer: %s", problem)
	}
}

// vary finds the distinct answers. Windows, TTLs and round trips may differ without any harm.
func (r *Result) vary(samples []sample) {
	index := map[string]int{}
	var variants []Variant
	for _, s := range samples {
		if s.verdict == NoReply {
			continue
		}
		v := Variant{Verdict: s.verdict, Reason: s.reason, Count: 1}
		if s.verdict.Usable() {
			v.Options, v.Window = s.answer.Options, &s.answer.Window
		}
		key := fmt.Sprint(v.Verdict, v.Reason, v.Options.NFT())
		if i, seen := index[key]; seen {
			variants[i].Count++
			continue
		}
		index[key] = len(variants)
		variants = append(variants, v)
	}
	if len(variants) < 2 {
		return
	}
	slices.SortStableFunc(variants, func(a, b Variant) int { return cmp.Compare(b.Count, a.Count) })
	r.Consistent, r.Variants = false, variants
}

// announce fills in all that follows from the SYN+ACKs, of which there is at least one.
func (r *Result) announce(usable []sample, lim limit) {
	first := slices.IndexFunc(usable, func(s sample) bool { return s.verdict == r.Verdict })
	r.Window = &usable[first].answer.Window
	answers := make([]Options, 0, len(usable))
	for _, s := range usable {
		answers = append(answers, s.answer.Options)
		if s.answer.Options.Timestamps && s.answer.TSEcr != s.sent.TSVal {
			r.note("the timestamp echo is wrong: Linux clients answer with RST")
		}
	}
	r.Options = mergeOptions(answers, r.Family)
	if r.Options.MSS == nil {
		r.note("no mss option: clients assume %d", defaultMSS(r.Family))
	} else if fits := lim.mtu - headers(r.Family); lim.mtu > 0 && int(*r.Options.MSS) > fits && fits > 0 {
		r.MSSAnswered = *r.Options.MSS
		mss := uint16(fits) // below the MSS that was answered, so it fits
		r.Options.MSS = &mss
		r.note("mss %d was answered, limited to %d by %s", r.MSSAnswered, mss, lim.what)
	}
	r.tellCookies(usable)
	r.IPTables, r.NFT = r.Options.IPTables(), r.Options.NFT()
}

// tellCookies looks for SYN cookies in the timestamps. Both Linux servers (cookie_init_timestamp in
// net/ipv4/syncookies.c) and SYNPROXY (synproxy_init_timestamp_cookie) hide the client's window scale and SACK in the lowest bits of TSval.
func (r *Result) tellCookies(usable []sample) {
	shifts := map[uint8]bool{}
	echoes, stamps := 0, 0
	for _, s := range usable {
		if !s.answer.Options.Timestamps {
			continue
		}
		stamps++
		if echoesOptions(s) {
			echoes++
			shifts[*s.sent.Options.WScale] = true
		}
	}
	// A clock shows the right bits by chance, but not for two window scales in a row.
	echoed := len(shifts) >= 2 && echoes == stamps
	switch {
	case r.Verdict == Proxied && echoed:
		r.note("window %d and the echo of the window scale in the timestamp are a SYNPROXY's", *r.Window)
	case r.Verdict == Proxied:
		r.note("a SYN+ACK with window %d is a SYNPROXY's", *r.Window)
	case echoed:
		r.SYNCookies = true
		r.note("the server is answering with SYN cookies")
	}
}

// echoesOptions tells whether the low bits of TSval are the options of our SYN. A SYNPROXY leaves the bit of SACK out if it
// does not announce SACK, so only the bits of the window scale are looked at there; it puts 15 if it announces no window scale.
func echoesOptions(s sample) bool {
	offered := s.sent.Options
	if offered.WScale == nil {
		return false
	}
	shift := uint32(*offered.WScale)
	if s.verdict == Proxied {
		return s.answer.TSVal&0x0f == shift
	}
	want := shift
	if s.answer.Options.WScale == nil {
		want = 0x0f
	}
	if s.answer.Options.SACKPerm {
		want |= 1 << 4
	}
	return s.answer.TSVal&0x3f == want
}

// note adds a remark, once.
func (r *Result) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}
