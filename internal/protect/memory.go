package protect

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/cache"
	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// StateDir is where the answers of backends are remembered: a directory that
// outlives a reboot.
const StateDir = "/var/lib/synproxyctl"

// Memory is what backends have answered before, and what may be made of it. A
// nil Memory knows nothing and learns nothing.
type Memory struct {
	// Only has nobody asked: what is not remembered is an error.
	Only bool
	// MaxAge is how old an answer may be that spares a question; 0: any age if
	// Only is set, else none is taken.
	MaxAge time.Duration

	dir       cache.Dir
	namespace string
	now       time.Time
	known     *cache.Cache
	learned   cache.Cache
	damaged   error // why what was remembered is not used
}

// Remember opens the memory of this network namespace. What is damaged in it, or
// could be another's, is as if it were not there, with a finding that says so.
func Remember(dir string) (*Memory, error) {
	id, err := kernel.NetNSID()
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return &Memory{dir: cache.Dir(dir), namespace: id, now: time.Now()}, nil
}

// uses reports whether answers of before may be taken.
func (m *Memory) uses() bool { return m != nil && (m.Only || m.MaxAge > 0) }

// Findings tells what of the memory could not be used.
func (m *Memory) Findings() []Finding {
	switch {
	case m == nil:
	case m.damaged != nil:
		return []Finding{finding(Warn, "cache-damaged", "nothing to do: the next answers replace it; if it is another's, remove it", "answers of before are not used: %v", m.damaged)}
	case m.known != nil && m.known.Dropped > 0:
		return []Finding{finding(Warn, "cache-damaged", "nothing to do: the next answers replace it", "answers of before, in %s: %s left out that no probe brings", m.dir.Path(), entries(m.known.Dropped))}
	}
	return nil
}

func entries(n int) string {
	if n == 1 {
		return "one entry is"
	}
	return fmt.Sprintf("%d entries are", n)
}

// Save keeps what was learned. That it cannot is no reason to fail, but told.
func (m *Memory) Save(ctx context.Context) []Finding {
	if m == nil || m.learned.Len() == 0 {
		return nil
	}
	learned := m.learned
	m.learned, m.known = cache.Cache{}, nil
	if err := m.dir.Add(ctx, &learned); err != nil {
		return []Finding{finding(Info, "cache-unwritten", "look after "+string(m.dir)+", which belongs to the user that runs synproxyctl",
			"the answers of the backends are not kept for apply --cached: %v", err)}
	}
	return nil
}

// inquiry is made of some services in the same way.
type inquiry struct {
	config probe.Config
	asked  []int
}

// way is what makes the difference between two inquiries.
type way struct {
	hook    rules.Hook
	iface   string
	connect bool
}

// load reads what is remembered, if that may be used.
func (m *Memory) load() {
	if !m.uses() || m.known != nil {
		return
	}
	if m.known, m.damaged = m.dir.Load(); m.damaged != nil {
		m.known = &cache.Cache{}
	}
}

// hook returns where packets to a service passed when its server was asked; empty
// if that is not remembered. Before the network is up, the routes do not tell.
func (m *Memory) hook(at netip.AddrPort) rules.Hook {
	if !m.uses() {
		return ""
	}
	m.load()
	return rules.Hook(m.known.Hook(m.namespace, at))
}

// recall fills in what is known of the services, and returns who must be asked.
func (m *Memory) recall(cfg probe.Config, wishes []Wish, services []Service) ([]inquiry, error) {
	m.load()
	var groups []inquiry
	at := map[way]int{}
	doors, narrow := doors{}, mtus{}
	var missing []string
	for i, w := range wishes {
		if w.complete() {
			continue
		}
		of := way{hook: services[i].Hook, connect: cfg.Connect && w.First == ""}
		mine := cfg
		mine.Connect = of.connect
		if name := doors.of(of.hook, w.Interfaces); name != "" {
			of.iface, mine.Interface = name, name
		}
		if m.uses() {
			why, err := m.answer(mine, w, &services[i], narrow)
			if err != nil {
				return nil, err
			}
			if why == "" {
				continue
			}
			if m.Only {
				missing = append(missing, w.Name+": "+why)
				continue
			}
		}
		g, known := at[of]
		if !known {
			g = len(groups)
			at[of], groups = g, append(groups, inquiry{config: mine})
		}
		groups[g].asked = append(groups[g].asked, i)
	}
	if len(missing) > 0 {
		return nil, m.unknown(missing)
	}
	return groups, nil
}

// doors are the interfaces by which servers on this machine are asked, by those
// that their clients come in by, joined. Such a server is asked through lo, but
// lo is not where its clients come in. (The way to a server behind this machine
// is another one.)
type doors map[string]string

func (d doors) of(hook rules.Hook, interfaces []string) string {
	if hook != rules.Input || len(interfaces) == 0 {
		return ""
	}
	names := strings.Join(interfaces, " ")
	if d[names] == "" {
		d[names] = cmp.Or(narrowest(interfaces).Name, interfaces[0]) // at boot they may be to come
	}
	return d[names]
}

// unknown tells which services no answer is remembered of.
func (m *Memory) unknown(missing []string) error {
	const most = 10
	if more := len(missing) - most; more > 0 {
		missing = append(missing[:most:most], fmt.Sprintf("and %d more", more))
	}
	if m.damaged != nil {
		missing = append(missing, fmt.Sprintf("answers of before are not used: %v", m.damaged))
	}
	return Errorf(No, "run apply without --cached while the servers can be reached, or give the options", "%s", strings.Join(missing, "\n"))
}

// answer puts what is remembered into the service, or says why it is not taken.
func (m *Memory) answer(cfg probe.Config, w Wish, s *Service, narrow mtus) (why string, err error) {
	a, ok := m.known.Get(m.key(cfg, s.ProbeAt))
	age := m.now.Sub(a.ProbedAt)
	switch {
	case !ok:
		return "no answer of " + s.ProbeAt.String() + " is cached", nil
	case m.MaxAge > 0 && age > m.MaxAge:
		return fmt.Sprintf("the cached answer of %s is %s old", s.ProbeAt, Age(age)), nil
	case m.MaxAge > 0 && age < 0:
		return fmt.Sprintf("the cached answer of %s is from the future: %s", s.ProbeAt, a.ProbedAt.Format(time.RFC3339)), nil
	case !m.Only && cfg.Connect && a.Speaks == cache.NotAsked:
		return "who speaks first was not asked", nil
	}
	r := probe.Result{Verdict: probe.Direct, SYNCookies: a.SYNCookies, Options: optionsOf(a)}
	if a.Speaks == cache.Client || a.Speaks == cache.Server {
		speaks := probe.Speaks(a.Speaks)
		r.Speaks = &speaks
	}
	if err := w.answered(s, r, narrow); err != nil {
		return "", err
	}
	s.Source, s.ProbedAt = Cached, a.ProbedAt
	return "", nil
}

func optionsOf(a cache.Answer) probe.Options {
	return probe.Options{MSS: a.MSS, WScale: a.WScale, SACKPerm: a.SACKPerm, Timestamps: a.Timestamps}
}

// complete says who speaks first where it could not be found this time, as on a
// lost packet or with a server that is too busy, but was before, and the server
// has the same options still. Otherwise one of ten thousand would change each time.
func (m *Memory) complete(cfg probe.Config, at netip.AddrPort, r *probe.Result) {
	if m == nil || !cfg.Connect || r.Speaks != nil || r.Verdict != probe.Direct {
		return
	}
	if m.known == nil {
		if m.known, m.damaged = m.dir.Load(); m.damaged != nil {
			m.known = &cache.Cache{}
		}
	}
	before, ok := m.known.Get(m.key(cfg, at))
	if !ok || before.Speaks != cache.Client && before.Speaks != cache.Server || !reflect.DeepEqual(optionsOf(before), r.Options) || before.SYNCookies != r.SYNCookies {
		return
	}
	speaks := probe.Speaks(before.Speaks)
	r.Speaks = &speaks
}

// learn notes an answer.
func (m *Memory) learn(cfg probe.Config, s *Service, r probe.Result) {
	if m == nil || r.Verdict != probe.Direct {
		return
	}
	a := cache.Answer{
		MSS: r.Options.MSS, WScale: r.Options.WScale, SACKPerm: r.Options.SACKPerm, Timestamps: r.Options.Timestamps,
		SYNCookies: r.SYNCookies, Hook: string(s.Hook), ProbedAt: m.now.UTC().Truncate(time.Second),
	}
	switch {
	case r.Speaks != nil:
		a.Speaks = cache.Who(*r.Speaks)
	case cfg.Connect:
		a.Speaks = cache.Nobody
	}
	m.learned.Put(m.key(cfg, s.ProbeAt), a)
}

// Renew keeps what backends have answered when they were asked again for the
// options alone. Who speaks first stays as it was known.
func (m *Memory) Renew(ctx context.Context, cfg probe.Config, answers []Answer) []Finding {
	if m == nil {
		return nil
	}
	known, err := m.dir.Load()
	if err != nil {
		known = &cache.Cache{}
	}
	cfg.Connect = false
	for _, a := range answers {
		cfg.Interface = a.through
		m.learn(cfg, &a.Service, a.Result)
		key := m.key(cfg, a.Service.ProbeAt)
		before, _ := known.Get(key)
		if now, ok := m.learned.Get(key); ok {
			now.Speaks = before.Speaks
			m.learned.Put(key, now)
		}
	}
	return m.Save(ctx)
}

func (m *Memory) key(cfg probe.Config, at netip.AddrPort) cache.Key {
	return cache.Key{Namespace: m.namespace, At: at, Interface: cfg.Interface, Source: cfg.Source}
}

// Age says how old something is, to the unit that counts.
func Age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}
