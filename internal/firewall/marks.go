package firewall

import (
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// MarkChange is what a rule does to the mark of a packet or of its connection.
type MarkChange struct {
	Value, Mask uint32 // the bits that it sets, if Known
	Known       bool
	Restored    bool // the connection's mark becomes the packet's
}

// may reports whether the change can give the bits of mask the value of mark.
func (m MarkChange) may(mark, mask uint32) bool {
	if !m.Known {
		return true
	}
	common := m.Mask & mask
	return common != 0 && m.Value&common == mark&common
}

// Marking is how a mark comes to what a backend answers, on which routes may
// depend.
type Marking struct {
	Rule Rule // that gives it the mark
	// Missing tells that what SYNPROXY answers in the backend's place does not
	// get the mark; else the connection that it opens does not.
	Missing bool
}

// Marking finds out whether the host's rules give a mark to what the service
// answers to clients, or to what they send, but not to the packets that SYNPROXY
// makes. Marks that come after routing, or later than OUTPUT, make no
// difference. Behind are the interfaces that a backend elsewhere is reached by;
// none are any.
func (fw Firewall) Marking(s Service, behind []string, mark, mask uint32) (Marking, bool) {
	syn := s.toService(Prerouting, rules.SYN, rules.New)
	reply := s.answer(Output)
	reply.States = rules.Established
	if !s.toLo() {
		reply.Hook, reply.In, reply.Out, reply.Made, reply.SourceLocal = Prerouting, behind, nil, false, false
		if s.To.IsValid() {
			reply.Source, reply.SourcePort = s.translated(syn).Destination, s.To.Port()
		}
	}
	connection := fw.marks(syn, ConnMark, mark, mask)
	natural := fw.marks(reply, Mark, mark, mask)
	restores := false
	for i := len(natural) - 1; i >= 0; i-- {
		if !natural[i].act.Mark.Restored {
			continue
		}
		if restores = len(connection) > 0; restores {
			natural[i] = connection[0]
		} else {
			natural = append(natural[:i], natural[i+1:]...)
		}
	}
	if len(natural) == 0 {
		return Marking{}, false
	}
	found := Marking{Rule: *natural[0].rule, Missing: true}
	for _, e := range fw.marks(s.answer(Output), Mark, mark, mask) {
		// What is not tracked has no connection whose mark there could be.
		if !e.act.Mark.Restored || s.Tracked && len(connection) > 0 {
			found.Missing = false
		}
	}
	if !found.Missing && (!restores || len(fw.marks(s.proxied(Output), ConnMark, mark, mask)) > 0) {
		return Marking{}, false
	}
	return found, true
}

// marks returns the rules that may give packets, or their connections, a mark.
func (fw *Firewall) marks(p Packet, kind ActionKind, mark, mask uint32) []event {
	var found []event
	for _, e := range fw.actions(p, Everything, kind) {
		if e.act.Mark.may(mark, mask) {
			found = append(found, e)
		}
	}
	return found
}
