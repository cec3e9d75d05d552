package watch

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// The kinds of answers, by the letters of a sequence: a is what the rules announce at first; c is safe for a and b;
// r and n are none.
var kinds = map[rune]traits{
	'a': {1460, 7, true, true, false},
	'b': {1400, 5, true, true, false},
	'c': {1400, 7, true, true, false},
	'd': {1460, 10, true, true, false},
	'e': {1460, 7, true, true, true},
	's': {1460, 7, false, false, false},
}

func letter(t traits) rune {
	for l, k := range kinds {
		if k == t {
			return l
		}
	}
	return '?'
}

// A scene is one service, whose backend is asked by what Backends plans.
type scene struct {
	bs      Backends
	service protect.Service
	now     time.Time
	full    time.Time // when all are asked
	changes []time.Time
	events  []Event
	asked   int
}

const everyFull = 5 * time.Minute

func newScene(confirm int) *scene {
	at := netip.MustParseAddrPort("192.0.2.1:80")
	k := kinds['a']
	return &scene{
		bs: Backends{Follow: true, Confirm: confirm, Spacing: 5 * time.Second},
		service: protect.Service{Source: protect.Probed, ProbeAt: at, Service: rules.Service{
			Destination: netip.PrefixFrom(at.Addr(), 32), Port: at.Port(), Hook: rules.Forward, Options: k.options(), SynCookies: k.cookies,
		}},
		now: time.Unix(1e9, 0), full: time.Unix(1e9, 0),
	}
}

// hear lets the backend be asked the next time, and answer so.
func (s *scene) hear(kind rune) {
	next := s.bs.Next()
	if next.IsZero() || s.full.Before(next) {
		next = s.full
	}
	s.now = next
	if s.now.Equal(s.full) {
		s.full = s.full.Add(everyFull)
	} else if due := s.bs.Due(s.now, []protect.Service{s.service}); len(due) != 1 {
		panic("nobody is due")
	}
	s.asked++
	a := protect.Answer{Service: s.service, Result: probe.Result{Verdict: probe.Direct}}
	switch kind {
	case 'r':
		a.Result.Verdict = probe.Refused
	case 'n':
		a.Result.Verdict = probe.NoReply
	default:
		t := kinds[kind]
		a.Options, a.SynCookies = t.options(), t.cookies
	}
	c := s.bs.Heard(s.now, []protect.Answer{a}, 1)
	s.events = append(s.events, c.Events...)
	for _, f := range c.Follow {
		s.service.Options, s.service.SynCookies = f.Options, f.SynCookies
		s.changes = append(s.changes, s.now)
	}
	if len(c.Follow) > 0 {
		s.events = append(s.events, s.bs.Followed(s.now, c)...)
	}
}

func (s *scene) codes() string {
	var list []string
	for _, e := range s.events {
		list = append(list, e.Code)
	}
	return strings.Join(list, " ")
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name, answers string
		then          rune
		changes       int
		codes         string
	}{
		{"as announced", "aaaa", 'a', 0, ""},
		{"one odd answer", "abaaaa", 'a', 0, ""},
		{"two odd answers", "abbaaa", 'a', 0, ""},
		{"another one each time", "abdsbdsaaa", 'a', 0, ""},
		{"a restart", "aabbb", 'b', 1, "followed"},
		{"a restart that takes a while", "arrbbb", 'b', 1, "followed"},
		{"a restart that takes long", "arrrrrbbb", 'b', 1, "backend-refused backend-answers followed"},
		{"larger buffers", "addd", 'd', 1, "followed"},
		{"SYN cookies", "aeee", 'e', 1, "followed"},
		{"no answer once", "anaana", 'a', 0, ""},
		{"no answer any more", "annnnnnnn", 'a', 0, "backend-no-reply"},
		{"no answer for a while", "annnnaaaa", 'a', 0, "backend-no-reply backend-answers"},
		{"no answer between odd ones", "abnbnb", 'b', 1, "followed"},
		// Back within the hold-down: what is safe for both.
		{"a restart, and back", "abbbaaa", 'c', 2, "followed followed"},
		{"a restart, back, and again", "abbbaaabbbaaabbb", 'c', 2, "followed followed"},
		// A pool of which one kind is rare.
		{"a rare answer, again and again", "aabaaabaaaab", 'c', 1, "followed"},
		{"a rare answer, and only the other for a while", "aabaaabaaaabaaaaaaaaa", 'c', 1, "followed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(3)
			for _, kind := range c.answers {
				s.hear(kind)
			}
			if got := letter(announced(&s.service)); got != c.then || len(s.changes) != c.changes || s.codes() != c.codes {
				t.Errorf("announced %c after %d changes, told %q; want %c, %d, %q", got, len(s.changes), s.codes(), c.then, c.changes, c.codes)
			}
		})
	}
}

// A change is believed soon, and one that is told to be none is forgotten.
func TestAnswersTime(t *testing.T) {
	s := newScene(3)
	s.hear('a')
	at := s.full
	for range 3 {
		s.hear('b')
	}
	if took := s.now.Sub(at); took != 15*time.Second {
		t.Errorf("believed after %v", took)
	}
	for range 100 {
		s.hear('b')
	}
	if len(s.bs.known) != 0 {
		t.Errorf("remembered for ever: %d", len(s.bs.known))
	}
	// What is announced is safe for both since; at last it is what it is.
	for _, kind := range "aaabbb" {
		s.hear(kind)
	}
	s.hear('b')
	for range 500 {
		s.hear('b')
	}
	if got := letter(announced(&s.service)); got != 'b' {
		t.Errorf("announced %c a day later", got)
	}
}

// Options that a person has given are told of, once, and so are all if that is the policy.
func TestAnswersTold(t *testing.T) {
	for name, change := range map[string]func(s *scene){
		"given":  func(s *scene) { s.service.Source = protect.Given },
		"config": func(s *scene) { s.service.Source = protect.Configured },
		"policy": func(s *scene) { s.bs.Follow = false },
	} {
		s := newScene(3)
		change(s)
		for _, kind := range "abbbbbbbbaaaddddd" {
			s.hear(kind)
		}
		if len(s.changes) != 0 || s.codes() != "options-drift options-same options-drift" {
			t.Errorf("%s: %d changes, told %q", name, len(s.changes), s.codes())
		}
	}
}

// TestAnswersBounded has a backend that answers at random for a month, by several kinds of chance.
func TestAnswersBounded(t *testing.T) {
	letters := []rune("abcdesrn")
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		s := newScene(2 + r.IntN(4))
		some := slices.Clone(letters)
		r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		some = some[:1+r.IntN(len(some))]
		stay := r.Float64() * 1.1 // chance that the next answer is like the last one
		kind := 'a'
		begin := s.now
		for s.now.Sub(begin) < 30*24*time.Hour {
			if r.Float64() > stay {
				kind = some[r.IntN(len(some))]
			}
			s.hear(kind)
		}
		if most := bound(s.now.Sub(begin)); len(s.changes) > most {
			t.Errorf("seed %d, %c, %.2f: %d changes, more than %d", seed, some, stay, len(s.changes), most)
		}
		if most := int(s.now.Sub(begin)/everyFull) * 13; s.asked > most {
			t.Errorf("seed %d: asked %d times", seed, s.asked)
		}
		if n := len(s.bs.known); n > 1 {
			t.Errorf("seed %d: %d are known", seed, n)
		}
	}
}

// bound is how many changes a time can have. Each that is not only towards what is safe for more doubles the time until
// the next such one, up to a day; between them, safer options are at most a chain of a few: in these tests
// of mss, window scale, SACK with timestamps, and SYN cookies.
func bound(d time.Duration) int {
	const chain = 4
	free := math.Log2(float64(longestHold/shortestHold)) + 2 + float64(d)/float64(longestHold)
	return int(free) * chain
}

// FuzzAnswers never believes one odd answer, whatever came before.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{"aabbb", "abababab", "abbbaaabbb", "rrrbbnnaadds", "eseseseseesss"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answers string) {
		s := newScene(2)
		row, last := 0, rune(0)
		seen := map[rune]int{}
		for i, kind := range answers {
			if _, known := kinds[kind]; !known && kind != 'r' && kind != 'n' {
				kind = 'n'
			}
			before := len(s.changes)
			if kind == last {
				row++
			} else {
				row, last = 1, kind
			}
			seen[kind]++
			s.hear(kind)
			if len(s.changes) > before && (seen[kind] < 2 || kind == 'r' || kind == 'n') {
				t.Fatalf("%q: a change at %d, by the first %c", answers, i, kind)
			}
		}
	})
}

// crowd is many services, each with an answer.
func crowd(n int) []protect.Answer {
	answers := make([]protect.Answer, n)
	for i := range answers {
		s := newScene(3).service
		s.ProbeAt = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80)
		s.Destination = netip.PrefixFrom(s.ProbeAt.Addr(), 32)
		k := kinds['a']
		answers[i] = protect.Answer{Service: s, Result: probe.Result{Verdict: probe.Direct}, Options: k.options()}
	}
	return answers
}

// When all are silent at once, it is us; when some are, the lines are few.
func TestManySilent(t *testing.T) {
	hush := func(answers []protect.Answer, v probe.Verdict) {
		for i := range answers {
			answers[i].Result.Verdict = v
		}
	}
	now := time.Unix(1e9, 0)
	bs := Backends{Follow: true, Confirm: 3, Spacing: time.Second}
	answers := crowd(10_000)
	var told []string
	tell := func() {
		now = now.Add(time.Minute)
		for _, e := range bs.Heard(now, answers, len(answers)).Events {
			told = append(told, fmt.Sprintf("%s: %s", e.Code, e.Message))
		}
	}
	hush(answers[:4000], probe.Refused)
	for range 5 {
		tell()
	}
	if len(told) != most+1 || !strings.Contains(told[most], "and 3990 more") {
		t.Errorf("%d lines, the last one %q", len(told), told[len(told)-1])
	}
	told = nil
	hush(answers, probe.NoReply)
	for range 5 {
		tell()
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "all-silent: none of 10000 backends") {
		t.Errorf("%q", told)
	}
	told = nil
	hush(answers, probe.Direct)
	for range 5 {
		tell()
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "backends-answer: 10000 of 10000") {
		t.Errorf("%q", told)
	}
	if differ, mute := bs.Open(); differ+mute+len(bs.known) != 0 {
		t.Errorf("%d differ, %d are silent, %d are known", differ, mute, len(bs.known))
	}
}
