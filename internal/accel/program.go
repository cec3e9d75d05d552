package accel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/cilium/ebpf"
)

// ErrFull tells that a [Program] was loaded for fewer entries than are wanted now. Load another one.
var ErrFull = errors.New("more services than the program was loaded for")

// MaxEntries is the largest capacity of a [Program].
const MaxEntries = 1 << 20

// Program is the program in the kernel, in both forms, and its maps. It goes with the process, unless it is attached or
// pinned. Its methods must not be used by two goroutines at once; the kernel runs it all the while.
type Program struct {
	objects  bpfObjects
	capacity int
}

// Load brings the program and its maps into the kernel, with room for as many entries as capacity says, from 1 to
// [MaxEntries]. It answers nothing before [Program.SetMAC] and [Program.Update]. Each entry takes some 150 bytes, and 8
// more for each CPU. The error is an [fs.ErrPermission] without CAP_BPF and CAP_NET_ADMIN (CAP_SYS_ADMIN in the first
// user namespace), an [ebpf.ErrNotSupported] or an [*ebpf.VerifierError] where the kernel is too old.
func Load(capacity int) (*Program, error) {
	if capacity < 1 || capacity > MaxEntries {
		return nil, fmt.Errorf("load the BPF program: %d entries: must be from 1 to %d", capacity, MaxEntries)
	}
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("load the BPF program: %w", err)
	}
	for _, name := range []string{"services", "prefixes", "served"} {
		spec.Maps[name].MaxEntries = uint32(capacity)
	}
	p := &Program{capacity: capacity}
	if err := spec.LoadAndAssign(&p.objects, nil); err != nil {
		return nil, fmt.Errorf("load the BPF program: %w", err)
	}
	return p, nil
}

// Close gives back what the process holds. What is attached or pinned stays.
func (p *Program) Close() error { return p.objects.Close() }

// XDP returns the program's form for a driver's receive path. It takes frames in several pieces (xdp.frags).
func (p *Program) XDP() *ebpf.Program { return p.objects.SynproxyctlXdp }

// TC returns the program's form for tc ingress, clsact or tcx.
func (p *Program) TC() *ebpf.Program { return p.objects.SynproxyctlTc }

// SetMAC says which Ethernet address of 6 bytes frames must be sent to: the interface's own. Others are for others.
func (p *Program) SetMAC(mac net.HardwareAddr) error {
	if len(mac) != 6 {
		return fmt.Errorf("hardware address %q: not one of Ethernet", mac)
	}
	return p.set(func(s *bpfSettings) { s.Mac = [6]uint8(mac) })
}

func (p *Program) set(change func(*bpfSettings)) error {
	var s bpfSettings
	err := p.objects.Settings.Lookup(uint32(0), &s)
	if err == nil {
		change(&s)
		err = p.objects.Settings.Put(uint32(0), s)
	}
	if err != nil {
		return fmt.Errorf("BPF map of settings: %w", err)
	}
	return nil
}

// Update makes entries all that the program answers for. Each changes in one step, and those that stay the same keep
// their counts. Should it fail, some have changed and some have not; netfilter answers for all of them. The error is an
// [ErrFull] if they are too many; then nothing has changed.
func (p *Program) Update(entries []Entry) error {
	want, err := encode(entries)
	if err != nil {
		return err
	}
	if len(want) > p.capacity {
		return fmt.Errorf("%d entries, and room for %d: %w", len(want), p.capacity, ErrFull)
	}
	have, err := p.read()
	if err != nil {
		return err
	}
	// Before they are needed, and until they are not.
	anyPrefix := func(m map[bpfPrefix]bpfService) bool {
		for k := range m {
			if !k.single() {
				return true
			}
		}
		return false
	}
	if anyPrefix(want) {
		if err := p.set(func(s *bpfSettings) { s.Prefixes = 1 }); err != nil {
			return err
		}
	}
	// What is to go goes first, since it may hold the room.
	taken := make(map[uint32]bool, len(want))
	for k, v := range have {
		if _, ok := want[k]; ok {
			taken[v.Index] = true
		} else if err := p.remove(k); err != nil {
			return err
		}
	}
	var next uint32
	for k, v := range want {
		old, ok := have[k]
		v.Index = old.Index
		if !ok {
			for taken[next] {
				next++
			}
			v.Index, taken[next] = next, true
			if err := p.objects.Served.Put(v.Index, make([]uint64, ebpf.MustPossibleCPU())); err != nil {
				return fmt.Errorf("BPF map of counters: %w", err)
			}
		}
		if v == old {
			continue
		}
		if err := p.put(k, v); err != nil {
			return err
		}
	}
	if !anyPrefix(want) {
		return p.set(func(s *bpfSettings) { s.Prefixes = 0 })
	}
	return nil
}

// Read returns what the program answers for, as [Entries] would, sorted. It is an error if the map holds what this
// version did not write.
func (p *Program) Read() ([]Entry, error) {
	counted, err := p.Served()
	entries := make([]Entry, len(counted))
	for i, c := range counted {
		entries[i] = c.Entry
	}
	return entries, err
}

// encode brings entries into the form of the maps.
func encode(entries []Entry) (map[bpfPrefix]bpfService, error) {
	m := make(map[bpfPrefix]bpfService, len(entries))
	for _, e := range entries {
		k, err := e.key()
		if err != nil {
			return nil, err
		}
		v, err := e.service()
		if err != nil {
			return nil, err
		}
		if old, ok := m[k]; ok && old != v {
			return nil, fmt.Errorf("%s: told twice, and not the same", e)
		}
		m[k] = v
	}
	return m, nil
}

// single tells whether the key is of one address, which is a case for the hash.
func (k bpfPrefix) single() bool {
	return k.Bits == fixedBits+128 || k.Key.Family == 4 && k.Bits == fixedBits+32
}

func (p *Program) put(k bpfPrefix, v bpfService) (err error) {
	if k.single() {
		err = p.objects.Services.Put(k.Key, v)
	} else {
		err = p.objects.Prefixes.Put(k, v)
	}
	if err != nil {
		return fmt.Errorf("BPF map of services: %w", err)
	}
	return nil
}

func (p *Program) remove(k bpfPrefix) (err error) {
	if k.single() {
		err = p.objects.Services.Delete(k.Key)
	} else {
		err = p.objects.Prefixes.Delete(k)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("BPF map of services: %w", err)
	}
	return nil
}

// read returns what both maps hold.
func (p *Program) read() (map[bpfPrefix]bpfService, error) {
	m := map[bpfPrefix]bpfService{}
	var v bpfService
	var k bpfPrefix
	single := p.objects.Services.Iterate()
	for single.Next(&k.Key, &v) {
		k.Bits = fixedBits + 128
		if k.Key.Family == 4 {
			k.Bits = fixedBits + 32
		}
		m[k] = v
	}
	prefixes := p.objects.Prefixes.Iterate()
	for prefixes.Next(&k, &v) {
		m[k] = v
	}
	if err := errors.Join(single.Err(), prefixes.Err()); err != nil {
		return nil, fmt.Errorf("BPF map of services: %w", err)
	}
	return m, nil
}

// Counters are what the program has seen since it was loaded, on all CPUs.
type Counters struct {
	SYNs     uint64 // SYNs to this machine, whatever their service
	Answered uint64 // of those, by the program
	Left     uint64 // SYNs to a service that only netfilter can judge
	Failed   uint64 // SYNs to a service with which the kernel refused to help; netfilter got them
}

// Counters returns what the program has seen so far.
func (p *Program) Counters() (Counters, error) {
	var each []bpfCounters
	if err := p.objects.Totals.Lookup(uint32(0), &each); err != nil {
		return Counters{}, fmt.Errorf("BPF map of counters: %w", err)
	}
	var sum Counters
	for _, c := range each {
		sum.SYNs += c.Syns
		sum.Answered += c.Answered
		sum.Left += c.Left
		sum.Failed += c.Failed
	}
	return sum, nil
}

// Served is how many SYNs to an entry were answered.
type Served struct {
	Entry
	Answered uint64
}

// Served returns what [Program.Read] does, with counts since the entry came in.
func (p *Program) Served() ([]Served, error) {
	have, err := p.read()
	if err != nil {
		return nil, err
	}
	all := make([]Served, 0, len(have))
	for k, v := range maps.All(have) {
		e, err := entryOf(k, v)
		if err != nil {
			return nil, fmt.Errorf("BPF map of services: %w", err)
		}
		s := Served{Entry: e}
		var each []uint64
		if err := p.objects.Served.Lookup(v.Index, &each); err != nil {
			return nil, fmt.Errorf("BPF map of counters: %w", err)
		}
		for _, n := range each {
			s.Answered += n
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Served) int { return a.compare(b.Entry) })
	return all, nil
}
