package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/protect"
)

// A Look is what a comparison of the kernel with the record has shown.
type Look struct {
	State    protect.State // of the record: [protect.Absent], [protect.Draining] or [protect.Active]
	OnTrial  bool          // a change awaits its confirmation
	Busy     bool          // another instance was at work: nothing was compared
	Findings []protect.Finding
	Err      error // why nothing was seen; nil: it was
}

// Rules decides about drift of rules and settings. What is seen once is looked
// at again before it is told or mended.
type Rules struct {
	Mend   bool // else drift is only told
	Temper Temper

	state    string                     // as told last
	failure  string                     // of looking, as told last
	seen     map[string]bool            // codes, in the last look
	told     map[string]protect.Finding // by code, and not over
	fighting bool                       // told that mending does not last
	failed   string                     // of mending, as told last
}

// A Verdict is what to do about a [Look].
type Verdict struct {
	Events []Event
	Again  bool // look again soon: something is new
	Mend   bool
}

// Seen decides what to do about what was seen.
func (r *Rules) Seen(now time.Time, l Look) Verdict {
	var v Verdict
	if l.Busy {
		return v // half of something; the next look shows the whole
	}
	if l.Err != nil {
		if why := l.Err.Error(); why != r.failure {
			r.failure = why
			v.Events = append(v.Events, event(slog.LevelError, "look-failed", protect.HintOf(l.Err), "rules and settings cannot be compared: %v", l.Err))
		}
		return v
	}
	if r.failure != "" {
		r.failure = ""
		v.Events = append(v.Events, event(slog.LevelInfo, "look-works", "", "rules and settings can be compared again"))
	}
	v.Events = append(v.Events, r.enter(l)...)
	seen := byCode(l.Findings)
	mendable := false
	for _, f := range seen {
		_, told := r.told[f.Code]
		switch {
		case !told && !r.seen[f.Code]:
			v.Again = true
			continue
		case !told:
			r.told[f.Code] = f
			v.Events = append(v.Events, event(slog.LevelWarn, f.Code, f.Hint, "%s", f.Message))
		}
		mendable = mendable || f.Mendable()
	}
	r.seen = map[string]bool{}
	for _, f := range seen {
		r.seen[f.Code] = true
	}
	for _, code := range slices.Sorted(maps.Keys(r.told)) {
		if !r.seen[code] {
			v.Events = append(v.Events, event(slog.LevelInfo, code, "", "over: %s", r.told[code].Message))
			delete(r.told, code)
		}
	}
	if mendable && r.Mend && l.State == protect.Active && !l.OnTrial {
		v.Mend = r.Temper.May(now)
	}
	if len(seen) == 0 && r.fighting && r.Temper.May(now) {
		r.fighting = false
		v.Events = append(v.Events, event(slog.LevelInfo, "mending-lasts", "", "nothing undoes what was mended any more"))
	}
	return v
}

// byCode returns the findings that are worse than an information, one of each
// code: what is of one kind may be told in other words each time.
func byCode(all []protect.Finding) []protect.Finding {
	var list []protect.Finding
	at, more := map[string]int{}, []int{}
	for _, f := range all {
		if f.Severity == protect.Info || standing(f) {
			continue
		}
		i, known := at[f.Code]
		if !known {
			at[f.Code] = len(list)
			list, more = append(list, f), append(more, 0)
			continue
		}
		more[i]++
		if f.Severity == protect.Bad {
			list[i].Severity = protect.Bad
		}
	}
	for i, n := range more {
		if n > 0 {
			list[i].Message += fmt.Sprintf(" (and %d more of this kind)", n)
		}
	}
	return list
}

// standing tells findings that only repeat the state of the record.
func standing(f protect.Finding) bool { return f.Code == "not-applied" || f.Code == "draining" }

// enter tells of another state of the record.
func (r *Rules) enter(l Look) []Event {
	state := string(l.State)
	if l.State == protect.Active && l.OnTrial {
		state = "on trial"
	}
	if r.told == nil {
		r.told = map[string]protect.Finding{}
	}
	if state == r.state {
		return nil
	}
	before := r.state
	r.state, r.seen = state, nil
	clear(r.told)
	switch {
	case l.State == protect.Absent:
		return []Event{event(slog.LevelWarn, "not-applied", "use synproxyctl apply", "nothing is protected: either it was not applied yet, or a person has reverted it; it is left so")}
	case l.State == protect.Draining:
		return []Event{event(slog.LevelWarn, "draining", "apply again to protect the services", "a person has taken the protection away, and connections drain; it is left so")}
	case l.OnTrial:
		return []Event{event(slog.LevelInfo, "on-trial", "", "a change is on trial; nothing is mended until it is confirmed or goes back")}
	case before != "":
		return []Event{event(slog.LevelInfo, "applied", "", "the protection is applied")}
	}
	return nil
}

// Mended is told how mending went; changes is how much was changed.
func (r *Rules) Mended(now time.Time, changes int, backend string, err error) []Event {
	if gaveWay(err) {
		return nil // the next look tells
	}
	pause := r.Temper.Made(now)
	var events []Event
	switch {
	case err != nil:
		if why := err.Error(); why != r.failed || pause > 0 {
			r.failed = why
			events = append(events, event(slog.LevelError, "mend-failed", protect.HintOf(err), "the rules could not be mended%s: %v", waits(pause), err))
		}
		return events
	case changes > 0:
		events = append(events, event(slog.LevelWarn, "mended", "", "mended: %s by %s, read back and right", count(changes, "change"), backend))
	}
	r.failed, r.seen = "", nil
	for _, f := range r.told {
		if f.Mendable() {
			delete(r.told, f.Code)
		}
	}
	if pause > 0 {
		r.fighting = true
		events = append(events, event(slog.LevelError, "mending-undone", "find out who changes the rules, as with: nft monitor; until then see synproxyctl status",
			"what is mended does not last: something on this host undoes it%s", waits(pause)))
	}
	return events
}

// gaveWay reports whether nothing was tried since a person was faster, or another
// instance is at work.
func gaveWay(err error) bool {
	return err != nil && (protect.CodeOf(err) == protect.NotApplied || errors.Is(err, protect.ErrBusy))
}

func waits(pause time.Duration) string {
	if pause == 0 {
		return ""
	}
	return fmt.Sprintf("; the next attempt waits %v", pause)
}

// Open lists what is wrong and not mended.
func (r *Rules) Open() []protect.Finding {
	var list []protect.Finding
	if r.failure != "" {
		list = append(list, protect.Finding{Severity: protect.Bad, Code: "look-failed", Message: r.failure})
	}
	switch protect.State(r.state) {
	case protect.Absent:
		list = append(list, protect.Finding{Severity: protect.Bad, Code: "not-applied", Message: "nothing is protected", Hint: "use synproxyctl apply"})
	case protect.Draining:
		list = append(list, protect.Finding{Severity: protect.Bad, Code: "draining", Message: "the protection was taken away; connections drain", Hint: "apply again to protect the services"})
	}
	for _, code := range slices.Sorted(maps.Keys(r.told)) {
		list = append(list, r.told[code])
	}
	return list
}
