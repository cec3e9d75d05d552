package probe

// The families of [Result.Family].
const (
	familyIPv4 = "ipv4"
	familyIPv6 = "ipv6"
)

// defaultMSS is what a client assumes if the SYN+ACK has no MSS option (RFC 9293, 3.7.1).
func defaultMSS(family string) uint16 {
	if family == familyIPv6 {
		return 1220
	}
	return 536
}

// headers is the size of the smallest IP and TCP headers together, in bytes: what the MSS leaves of the MTU.
func headers(family string) int {
	if family == familyIPv6 {
		return ipv6Header + minHeader
	}
	return ipv4Header + minHeader
}

// Common returns the options that may be announced for all of several servers, or for one that has had several, as
// [Result.Options] are those for all samples. Of none, it returns none.
func Common(ipv6 bool, answers ...Options) Options {
	if len(answers) == 0 {
		return Options{}
	}
	family := familyIPv4
	if ipv6 {
		family = familyIPv6
	}
	return mergeOptions(answers, family)
}

// mergeOptions returns the options that may be announced for all servers of a pool, whichever of them a connection reaches.
//
//   - The smallest MSS, for none must get larger segments than it asked for. A server without the option counts with the
//     default of RFC 9293.
//   - The largest window scale, because a value that is too large costs little and one that is too small throttles. But none at all if
//     any server sent none: that server would read the client's scaled windows as they stand, and the connection would stall, whereas
//     a server that could scale does without when its client does not offer it.
//   - SACK and timestamps only if all sent them, for the same reason.
func mergeOptions(answers []Options, family string) Options {
	all := Options{SACKPerm: true, Timestamps: true}
	someMSS, allScale := false, true
	smallest, largest := uint16(0xffff), uint8(0)
	for _, o := range answers {
		all.SACKPerm = all.SACKPerm && o.SACKPerm
		all.Timestamps = all.Timestamps && o.Timestamps
		mss := defaultMSS(family)
		if o.MSS != nil {
			mss, someMSS = *o.MSS, true
		}
		smallest = min(smallest, mss)
		if o.WScale == nil {
			allScale = false
		} else {
			largest = max(largest, *o.WScale)
		}
	}
	if someMSS {
		all.MSS = &smallest
	}
	if allScale {
		all.WScale = &largest
	}
	return all
}
