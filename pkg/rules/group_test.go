package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var backendNames = []string{NFT, Legacy, NFTables}

// count returns the number of rules, less those that hold what maps lead to.
func count(rs Ruleset) int {
	n := 0
	for _, r := range rs.Rules() {
		if r.Table != Objects {
			n++
		}
	}
	return n
}

// The order of services is nobody's business but of rules that stand alone.
func TestGroupsInAnyOrder(t *testing.T) {
	for seed := range uint64(100) {
		g := generator{rand.New(rand.NewPCG(seed, 8))}
		p := g.policy()
		q := p
		q.Services, q.Closing = slices.Clone(p.Services), slices.Clone(p.Closing)
		g.Shuffle(len(q.Services), func(i, j int) { q.Services[i], q.Services[j] = q.Services[j], q.Services[i] })
		g.Shuffle(len(q.Closing), func(i, j int) { q.Closing[i], q.Closing[j] = q.Closing[j], q.Closing[i] })
		for _, name := range backendNames {
			a, b := p.Ruleset(name), q.Ruleset(name)
			for _, d := range Compare(a, b) {
				if d.Fault != RuleOrder {
					t.Errorf("%s: the same services in another order: %s", name, d)
				}
			}
		}
	}
}

// Each service is in one set, or has rules of its own, and in no set is a service
// that has other properties.
func TestGroupsHoldWhatIsAlike(t *testing.T) {
	for seed := range uint64(200) {
		g := generator{rand.New(rand.NewPCG(seed, 10))}
		p := g.policy()
		for _, name := range backendNames {
			l, seen, closing := layouts[name], map[int]int{}, map[int]int{}
			for _, f := range Families {
				for _, group := range p.groups(l, f) {
					from, times := p.Services, seen
					if group.closing {
						from, times = p.Closing, closing
					}
					if (group.set != "") != (len(group.services) > 1) {
						t.Errorf("%s: set %q for %d services", name, group.set, len(group.services))
					}
					for _, i := range group.services {
						times[i]++
						if from[i].Family() != f || from[i].groupKey(l, group.closing) != group.like.groupKey(l, group.closing) {
							t.Errorf("%s: %v and %v are in one group", name, from[i], group.like)
						}
					}
				}
			}
			if len(seen) != len(p.Services) || len(closing) != len(p.Closing) {
				t.Errorf("%s: %d of %d services are in a group", name, len(seen), len(p.Services))
			}
			for i, times := range seen {
				if times != 1 {
					t.Errorf("%s: service %d is in %d groups", name, i, times)
				}
			}
		}
	}
}

// The price of a packet must not depend on the number of services.
func TestGroupsManyServices(t *testing.T) {
	for _, name := range backendNames {
		two, all := many(2, true, func(*Service) {}).Ruleset(name), many(10000, true, func(*Service) {}).Ruleset(name)
		if count(two) != count(all) || len(two.sets) != len(all.sets) {
			t.Errorf("%s: %d rules and %d sets for 2 services, %d and %d for 10,000", name, count(two), len(two.sets), count(all), len(all.sets))
		}
		for id, s := range all.sets {
			if len(s.Members) != 10000 {
				t.Errorf("%s: %s has %d members", name, id.name, len(s.Members))
			}
		}
		// With k kinds of services there are k groups, however many services.
		kinds := func(n int) Ruleset {
			i := 0
			return many(n, true, func(s *Service) {
				s.Interfaces = []string{fmt.Sprintf("eth%d", i%7)}
				i++
			}).Ruleset(name)
		}
		if few, more := kinds(14), kinds(3000); count(few) != count(more) || len(few.sets) != len(more.sets) {
			t.Errorf("%s: 7 kinds of services: %d rules of 14, %d of 3000", name, count(few), count(more))
		}
	}
	// One map holds services with any options.
	other := func(n int) Ruleset { return many(n, false, func(*Service) {}).Ruleset(NFTables) }
	if few, more := other(2), other(300); count(few) != count(more) {
		t.Errorf("with options of their own: %d rules of 2 services, %d of 300", count(few), count(more))
	}
}

// Each property must tell groups apart, and names must fit in the kernel.
func TestGroupNames(t *testing.T) {
	const maxName = 31 // IPSET_MAXNAMELEN less its end, in linux/netfilter/ipset/ip_set.h
	with := func(change func(*Service)) Service {
		s := Service{Destination: pfx("192.0.2.1/32"), Port: 80, Hook: Forward}
		change(&s)
		return s
	}
	kinds := []Service{
		with(func(*Service) {}),
		with(func(s *Service) { s.Hook = Input }),
		with(func(s *Service) { s.Interfaces = []string{"fifteen-bytes-x"} }),
		with(func(s *Service) { s.Interfaces = []string{"fifteen-bytes-x", "fifteen-bytes-y"} }),
		with(func(s *Service) { s.Interfaces = []string{"fifteen-bytes-y", "fifteen-bytes-x"} }),
		with(func(s *Service) { s.First = FirstClient }),
		with(func(s *Service) { s.SynCookies = true }),
		with(func(s *Service) { s.Mode = ModeNotrack }),
		with(func(s *Service) { s.Mode, s.Published = ModeNotrack, true }),
		with(func(s *Service) { s.Destination = pfx("192.0.2.0/24") }),
		with(func(s *Service) { s.Options.MSS = ptr[uint16](88) }),
		with(func(s *Service) { s.Options.WScale = ptr[uint8](0) }),
		with(func(s *Service) { s.Options.SACKPerm = true }),
		with(func(s *Service) { s.Options.Timestamps = true }),
	}
	const ofOptions = 4 // the last ones, which one map holds together
	for _, name := range backendNames {
		names, groups := map[string]int{}, 0
		for i, s := range kinds {
			other := s
			other.Port = 81
			p := Policy{Services: []Service{s, other}}
			if i%2 == 0 {
				p = Policy{Services: []Service{other, s}}
			}
			for id := range p.Ruleset(name).sets {
				names[id.name]++
				longest := id.name
				if !layouts[name].native {
					longest += "_new" // while it is filled
				}
				if len(longest) > maxName {
					t.Errorf("%s: %s has %d bytes", name, longest, len(longest))
				}
			}
			groups++
		}
		want := groups
		if layouts[name].native {
			want = 2 * (groups - ofOptions)
		}
		if len(names) != want {
			t.Errorf("%s: %d names of %d kinds, want %d: %v", name, len(names), groups, want, names)
		}
	}
}

// Sets of two backends are told apart, since those of ipset belong to the namespace.
func TestGroupsOfBackends(t *testing.T) {
	p := many(2, true, func(*Service) {})
	for _, a := range backendNames {
		for _, b := range backendNames {
			for id := range p.Ruleset(a).sets {
				if _, ok := p.Ruleset(b).sets[id]; ok && a != b {
					t.Errorf("%s is of %s and of %s", id.name, a, b)
				}
			}
		}
	}
}

// alike returns n services at as many addresses of 10.0.0.0/8, all but the first
// few alike.
func alike(n int) Policy {
	p := Policy{Services: make([]Service, n)}
	for i := range p.Services {
		p.Services[i] = Service{
			Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), Port: 443, Hook: Forward, Options: stock(1460),
		}
	}
	return p
}

// pass does what an apply does before and after it changes anything: of n services
// the last is new, and the first goes.
func pass(t testing.TB, name string, n int) {
	all := alike(n + 1)
	before, after := Policy{Services: all.Services[:n]}, Policy{Services: all.Services[1:]}
	if err := after.Validate(); err != nil {
		t.Fatal(err)
	}
	have, want := before.Ruleset(name), after.Ruleset(name)
	members := 0
	for _, s := range Plan(have, want) {
		for _, c := range s.Sets {
			members += len(c.Add) + len(c.Delete)
		}
	}
	sets := len(want.sets)
	if ds := Compare(have, want); len(ds) != 2*sets || members != 2*sets {
		t.Fatalf("%d differences, and %d members of %d sets change", len(ds), members, sets)
	}
	if ds := Compare(want, want); len(ds) > 0 {
		t.Fatal(ds)
	}
	closing := before.Close(Policy{})
	if len(closing.Closing) != n {
		t.Fatalf("%d of %d services are closing", len(closing.Closing), n)
	}
	if steps := Plan(have, closing.Ruleset(name)); len(steps) == 0 {
		t.Fatal("closing takes no step")
	}
	if layouts[name].native {
		w := nftWriter{step: Plan(Ruleset{}, want)[0], batch: &batch{}}
		if w.write(); w.err != nil || len(w.buf) < n {
			t.Fatalf("%d bytes, %v", len(w.buf), w.err)
		}
	}
}

// What is not linear hangs with many services: ten times as many must not cost a
// hundred times as much. Time is that of the processor, which others want too.
func TestManyServicesLinear(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const few, factor, limit = 2000, 10, 40
	took := func(name string, n int) time.Duration {
		least := time.Hour
		for range 3 {
			began := threadTime(t)
			pass(t, name, n)
			least = min(least, threadTime(t)-began)
		}
		return least
	}
	for _, name := range backendNames {
		short := took(name, few)
		if long := took(name, factor*few); long > limit*short {
			t.Errorf("%s: %d services take %v, %d take %v: more than %d times as much", name, few, short, factor*few, long, limit)
		}
	}
	pass(t, NFTables, 100000)
}

// threadTime returns how long the calling thread has run.
func threadTime(t *testing.T) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

func BenchmarkManyServices(b *testing.B) {
	const n = 100000
	p, next := alike(n), alike(n+1)
	element, member := nftElement(members[1], false), appendIPSetMember(nil, members[1])[4:]
	next.Services = next.Services[1:]
	for _, name := range []string{NFT, NFTables} {
		have, want := p.Ruleset(name), next.Ruleset(name)
		for _, bb := range []struct {
			what string
			do   func()
		}{
			{"Ruleset", func() { p.Ruleset(name) }},
			{"Compare", func() { Compare(have, want) }},
			{"CompareEqual", func() { Compare(have, have) }},
			{"Plan", func() { Plan(have, want) }},
			{"PlanFirst", func() { Plan(Ruleset{}, want) }},
		} {
			b.Run(name+"/"+bb.what, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					bb.do()
				}
			})
		}
	}
	for _, bb := range []struct {
		what string
		do   func()
	}{
		{"Validate", func() { _ = p.Validate() }},
		{"Close", func() { p.Close(Policy{}) }},
		{"EncodeIPSet", func() {
			for _, m := range p.Ruleset(NFT).sets {
				buf := make([]byte, 0, 48*n)
				for _, m := range m.Members {
					buf = appendIPSetMember(buf, m)
				}
			}
		}},
		{"DecodeNFT", func() {
			names := map[string]string{}
			for range n {
				_, _ = readMember(element, names)
			}
		}},
		{"DecodeIPSet", func() {
			for range n {
				_, _ = decodeIPSetMember(member)
			}
		}},
		{"EncodeNFT", func() {
			w := nftWriter{step: Plan(Ruleset{}, p.Ruleset(NFTables))[0], batch: &batch{}}
			w.write()
		}},
	} {
		b.Run(bb.what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bb.do()
			}
		})
	}
}
