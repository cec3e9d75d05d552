package protect

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// LastVerify tells how the latest verification went, whoever made it: verify, or
// a watcher, each of whose rounds is one.
type LastVerify struct {
	Time     time.Time `json:"time"`
	OK       bool      `json:"ok"`
	Findings Graded    `json:"findings"`
	Probed   bool      `json:"probed"` // the backends were asked too
	Live     bool      `json:"live"`   // real packets were sent too
	// LastProbe is what the backends said when all of them were asked last, in
	// this verification or before; nil: never.
	LastProbe *LastProbe `json:"last_probe,omitempty"`
	// LastLive is the latest proof by real packets; nil: none.
	LastLive *LastLive `json:"last_live,omitempty"`
}

// Graded counts findings by their severity.
type Graded struct {
	Bad  int `json:"error"`
	Warn int `json:"warning"`
	Info int `json:"info"`
}

// LastProbe tells how many services have backends that announce other options
// than the rules, and how many have one that refuses or is silent.
type LastProbe struct {
	Time   time.Time `json:"time"`
	Asked  int       `json:"asked"`
	Differ int       `json:"differ"`
	Silent int       `json:"silent"`
}

// LastLive tells how many services could not be proven by real packets.
type LastLive struct {
	Time     time.Time `json:"time"`
	Services int       `json:"services"`
	Unproven int       `json:"unproven"`
}

func (s store) verifiedPath() string { return filepath.Join(s.dir, s.id+".verified") }

// lastVerify returns what was noted last; nil if nothing was, or it cannot be read.
func (s store) lastVerify() *LastVerify {
	last := &LastVerify{}
	if s.checkFolder() != nil || readNote(s.verifiedPath(), last) != nil || last.Time.IsZero() {
		return nil
	}
	return last
}

// note replaces what was noted last. Where nothing was ever applied, or nothing
// can be written, it does nothing: a verification is good without its note.
func (s store) note(ctx context.Context, change func(last *LastVerify)) {
	if _, err := os.Lstat(s.dir); err != nil {
		return
	}
	release, err := s.alone(ctx)
	if err != nil {
		return
	}
	defer release()
	last := s.lastVerify()
	if last == nil {
		last = &LastVerify{}
	}
	change(last)
	if !last.Time.IsZero() {
		_ = s.writeNote(s.verifiedPath(), last)
	}
}

// note notes what the verification has found so far, for [Status].
func (v *Verified) note(ctx context.Context) {
	if v.Busy() {
		return // nothing was compared
	}
	now := time.Now().UTC().Truncate(time.Second)
	v.store.note(ctx, func(last *LastVerify) {
		last.Time, last.OK, last.Findings = now, v.OK, graded(v.Findings)
		last.Probed, last.Live = v.probed != nil, v.Proofs != nil
		if v.probed != nil {
			last.LastProbe = v.probed
		}
		if v.Proofs != nil {
			last.LastLive = &LastLive{Time: now, Services: len(v.services), Unproven: v.unproven}
		}
	})
}

func graded(fs []Finding) Graded {
	var g Graded
	for _, f := range fs {
		switch f.Severity {
		case Bad:
			g.Bad++
		case Warn:
			g.Warn++
		case Info:
			g.Info++
		}
	}
	return g
}

// NoteProbe notes, for [Status], what the backends said when all of them were
// asked apart from a verification.
func (h *Host) NoteProbe(ctx context.Context, answers []Answer) {
	if s, err := h.open(); err == nil {
		s.note(ctx, func(last *LastVerify) { last.LastProbe = summed(answers) })
	}
}

func summed(answers []Answer) *LastProbe {
	p := &LastProbe{Time: time.Now().UTC().Truncate(time.Second), Asked: len(answers)}
	for i := range answers {
		switch a := &answers[i]; {
		case len(a.drift()) == 0:
		case a.direct():
			p.Differ++
		default:
			p.Silent++
		}
	}
	return p
}
