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
		ttl := s.ttl // a result must not hold on to the whole sample
		r.TTL = &ttl
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
	if alike(samples) {
		return
	}
	index := map[string]int{}
	var variants []Variant
	for _, s := range samples {
		if s.verdict == NoReply {
			continue
		}
		v := Variant{Verdict: s.verdict, Reason: s.reason, Count: 1}
		if s.verdict.Usable() {
			window := s.answer.Window
			v.Options, v.Window = s.answer.Options, &window
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

// alike tells of most targets, and quickly, that their samples do not differ.
func alike(samples []sample) bool {
	for i := range samples {
		a, b := &samples[0], &samples[i]
		if a.verdict != b.verdict || a.reason != b.reason || !a.answer.Options.equal(b.answer.Options) {
			return false
		}
	}
	return true
}

// announce fills in all that follows from the SYN+ACKs, of which there is at least one.
func (r *Result) announce(usable []sample, lim limit) {
	first := slices.IndexFunc(usable, func(s sample) bool { return s.verdict == r.Verdict })
	window := usable[first].answer.Window
	r.Window = &window
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
	r.tellProxy(usable)
	r.IPTables, r.NFT = r.Options.IPTables(), r.Options.NFT()
}

// tellProxy says what shows that a SYNPROXY answered.
func (r *Result) tellProxy(usable []sample) {
	switch {
	case r.Verdict == Proxied && echoesScale(usable):
		r.note("window %d and the echo of the window scale in the timestamp are a SYNPROXY's", *r.Window)
	case r.Verdict == Proxied:
		r.note("a SYN+ACK with window %d is a SYNPROXY's", *r.Window)
	}
}

// echoesScale tells whether the lowest 4 bits of all timestamps are the window scale of our SYN, where a SYNPROXY that announces
// a window scale hides it (synproxy_init_timestamp_cookie in net/netfilter/nf_synproxy_core.c). One sample would prove nothing, nor would several
// that offered the same.
func echoesScale(usable []sample) bool {
	offered := map[uint8]bool{}
	for _, s := range usable {
		scale := *s.sent.Options.WScale
		if !s.answer.Options.Timestamps || uint8(s.answer.TSVal&0x0f) != scale {
			return false
		}
		offered[scale] = true
	}
	return len(offered) > 1
}

// isCookie tells whether two SYN+ACKs to the same address and port, but to different sequence numbers, are SYN cookies of a Linux
// server. Their sequence number is a hash of addresses, ports and the minute, plus the client's sequence number
// (secure_tcp_syn_cookie in net/ipv4/syncookies.c), so that both advance by the same; any other is a hash plus a clock.
//
// The timestamps, in whose lowest 6 bits a server in that mode hides the client's options, prove less: without
// tcp_timestamps=2 an offset is added to them, which on recent kernels differs from port to port.
func isCookie(first, second sample) bool {
	return first.verdict == Direct && second.verdict == Direct && first.sent.Seq != second.sent.Seq &&
		second.answer.Seq-first.answer.Seq == second.sent.Seq-first.sent.Seq
}

// note adds a remark, once.
func (r *Result) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}
