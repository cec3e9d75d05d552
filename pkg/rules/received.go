package rules

// Received returns how many SYNs each service has been sent since its rules were
// made, in the order of the services; 0 where the rules are not there. A rule or
// a set that is made anew counts anew.
func (rs Ruleset) Received(services []Service) []uint64 {
	type key struct {
		member Member
		table  Table
	}
	count := map[key]uint64{}
	for _, s := range rs.sets {
		if !s.Counted {
			continue
		}
		for _, m := range s.Members {
			count[key{Member{Prefix: m.Prefix, Port: m.Port}, Sets}] += m.Packets
		}
	}
	for id, list := range rs.chains {
		for _, r := range list {
			if m, ok := r.counts(); ok {
				count[key{m, id.table}] += r.Packets
			}
		}
	}
	received := make([]uint64, len(services))
	for i, s := range services {
		m := Member{Prefix: s.Destination, Port: s.Port}
		// A SYN that is not tracked meets two rules.
		received[i] = max(count[key{m, Sets}], count[key{m, Raw}], count[key{m, Security}], count[key{m, Mangle}])
	}
	return received
}

// counts reports whether the rule takes the SYNs of one service, and of which.
func (r Rule) counts() (Member, bool) {
	var m Member
	syn := false
	for _, match := range r.Matches {
		switch match := match.(type) {
		case Destination:
			m.Prefix = match.Prefix
		case TCP:
			m.Port, syn = match.DstPort, match.Mask == handshake && match.Set == SYN
		}
	}
	_, answers := r.Target.(SYNPROXY)
	return m, syn && m.Prefix.IsValid() && (answers || r.Table == Raw)
}
