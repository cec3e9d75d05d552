package watch

import (
	"log/slog"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// Backends decides about the answers of backends. One odd answer only makes it
// ask that backend again; see docs/watch.md for what makes it believe.
type Backends struct {
	Follow  bool          // else a change is only told
	Confirm int           // how many answers make a change believable; at least 2
	Spacing time.Duration // the first distance between questions that confirm

	known map[place]*backend
	mute  bool // told that none answers
}

// silent is what is told of a backend that gives no usable answer.
const silent = "silent"

// A Conclusion is what to do about answers.
type Conclusion struct {
	Events []Event
	// Follow are changes that the rules shall follow.
	Follow []protect.Renewed
	// Answers are those of the services in Follow, in the same order.
	Answers []protect.Answer
}

// Heard decides what to do about answers; total is how many services could have
// been asked.
func (bs *Backends) Heard(now time.Time, answers []protect.Answer, total int) Conclusion {
	var c Conclusion
	var quiet, back, differ []Event
	hushed := 0
	for i := range answers {
		a := &answers[i]
		b := bs.of(&a.Service)
		if a.Result.Verdict != probe.Direct {
			hushed++
			if b == nil {
				b = bs.remember(&a.Service)
			}
			quiet = append(quiet, bs.hush(now, b, a)...)
			continue
		}
		t := answered(a)
		if b == nil {
			if t == announced(&a.Service) {
				continue
			}
			b = bs.remember(&a.Service)
		}
		if b.told == silent {
			b.asked = 0
			back, b.told = append(back, event(slog.LevelInfo, "backend-answers", "", "%s: the backend answers again", &a.Service)), ""
		}
		want := b.hear(now, t, bs.Confirm)
		switch {
		case want != b.announced && bs.Follow && a.Service.Follows():
			b.ask = time.Time{}
			c.Follow = append(c.Follow, protect.Renewed{Was: a.Service, Options: want.options(), SynCookies: want.cookies})
			c.Answers = append(c.Answers, *a)
		case want != b.announced:
			b.ask = time.Time{}
			if told := "differs: " + want.String(); b.told != told {
				b.told = told
				differ = append(differ, bs.differs(a, want))
			}
		case b.run.n > 0 && b.run.n < bs.Confirm:
			b.again(now, bs.Spacing, bs.Confirm)
		case b.run.n > 0:
			b.ask = time.Time{} // held; it is asked with the others
		case b.told != "":
			b.told = ""
			back = append(back, event(slog.LevelInfo, "options-same", "", "%s: the backend answers as the rules announce again", &a.Service))
		}
		if b.calm(now) {
			delete(bs.known, placeOf(&a.Service))
		}
	}
	c.Events = append(bs.allSilent(len(answers), hushed, total, quiet, back), shorten(differ)...)
	return c
}

// hush takes an answer that says nothing of options, and tells of it when it has
// come often enough.
func (bs *Backends) hush(now time.Time, b *backend, a *protect.Answer) []Event {
	b.hush(a.Result.Verdict)
	if b.silence < bs.Confirm {
		b.again(now, bs.Spacing, bs.Confirm)
		return nil
	}
	b.ask = time.Time{}
	if b.told == silent {
		return nil
	}
	b.told = silent
	why := string(a.Result.Verdict)
	if a.Result.Reason != "" {
		why += " (" + a.Result.Reason + ")"
	}
	return []Event{event(slog.LevelWarn, "backend-"+string(a.Result.Verdict), "look after the server; the rules stay as they are",
		"%s: the backend's answer is %s", &a.Service, why)}
}

// differs tells of a change that is not followed.
func (bs *Backends) differs(a *protect.Answer, want traits) Event {
	hint := "run synproxyctl apply again, or let watch follow: --options follow"
	if !a.Service.Follows() {
		hint = "its options were given: change them where they stand, and apply"
	}
	return event(slog.LevelWarn, "options-drift", hint, "%s: the backend answers %q, the rules announce %q", &a.Service, want, announced(&a.Service))
}

// allSilent tells of one cause for what would be told of each backend.
func (bs *Backends) allSilent(asked, hushed, total int, quiet, back []Event) []Event {
	const few = 2 // of which it could be chance
	switch {
	case bs.mute && hushed == asked:
		return nil
	case bs.mute:
		bs.mute = false
		events := []Event{event(slog.LevelInfo, "backends-answer", "", "%d of %d backends answer again", asked-hushed, asked)}
		return append(events, shorten(quiet)...)
	case len(quiet) > 0 && asked == total && hushed == asked && asked >= few:
		bs.mute = true
		return []Event{event(slog.LevelError, "all-silent", "look at this host's links, routes and firewall; the rules stay as they are",
			"none of %d backends answers any more: it is rather this host's network than all of them", total)}
	}
	return append(shorten(quiet), shorten(back)...)
}

// of returns what is known of a service's backend; nil if that is nothing, or
// if the rules announce something else than what it is about.
func (bs *Backends) of(s *protect.Service) *backend {
	b := bs.known[placeOf(s)]
	if b != nil && b.announced != announced(s) {
		delete(bs.known, placeOf(s)) // a person has applied it anew
		return nil
	}
	return b
}

func (bs *Backends) remember(s *protect.Service) *backend {
	if bs.known == nil {
		bs.known = map[place]*backend{}
	}
	b := &backend{announced: announced(s), family: s.Family()}
	bs.known[placeOf(s)] = b
	return b
}

// made returns what of it has come to be: a person may have been faster.
func (c Conclusion) made(services []protect.Service) Conclusion {
	is := make(map[place]*protect.Service, len(services))
	for i := range services {
		is[placeOf(&services[i])] = &services[i]
	}
	var follow []protect.Renewed
	for _, f := range c.Follow {
		if s := is[placeOf(&f.Was)]; s != nil && announced(s) == traitsOf(f.Options, f.SynCookies) {
			follow = append(follow, f)
		}
	}
	return Conclusion{Follow: follow}
}

// Followed is told that the rules follow.
func (bs *Backends) Followed(now time.Time, c Conclusion) []Event {
	var events []Event
	for i := range c.Follow {
		f := &c.Follow[i]
		t := traitsOf(f.Options, f.SynCookies)
		if b := bs.of(&f.Was); b != nil {
			b.followed(now, t)
		}
		events = append(events, event(slog.LevelWarn, "followed", "", "%s: the backend has other options now: the rules announce %q instead of %q", &f.Was, t, announced(&f.Was)))
	}
	return shorten(events)
}

// Keep forgets what is known of services that are no more.
func (bs *Backends) Keep(services []protect.Service) {
	if len(bs.known) == 0 {
		return
	}
	there := make(map[place]bool, len(bs.known))
	for i := range services {
		if p := placeOf(&services[i]); bs.known[p] != nil {
			there[p] = true
		}
	}
	for p := range bs.known {
		if !there[p] {
			delete(bs.known, p)
		}
	}
}

// Due tells which of the services are to be asked alone by now.
func (bs *Backends) Due(now time.Time, services []protect.Service) []protect.Service {
	var list []protect.Service
	for i := range services {
		if b := bs.known[placeOf(&services[i])]; b != nil && !b.ask.IsZero() && !now.Before(b.ask) {
			b.ask = time.Time{} // if it cannot be asked now, then with the others
			list = append(list, services[i])
		}
	}
	return list
}

// Next is when the next backend is to be asked alone; zero: none is.
func (bs *Backends) Next() time.Time {
	var next time.Time
	for _, b := range bs.known {
		if !b.ask.IsZero() && (next.IsZero() || b.ask.Before(next)) {
			next = b.ask
		}
	}
	return next
}

// Open tells how many backends were told to differ, and how many to be silent.
func (bs *Backends) Open() (differ, mute int) {
	for _, b := range bs.known {
		switch b.told {
		case "":
		case silent:
			mute++
		default:
			differ++
		}
	}
	return differ, mute
}
