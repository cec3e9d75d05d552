package accel

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

func ptr[T any](v T) *T { return &v }

// someServices has both families, addresses and networks, and all kinds of options.
func someServices() []rules.Service {
	full := rules.Options{MSS: ptr[uint16](1460), WScale: ptr[uint8](10), SACKPerm: true, Timestamps: true}
	return []rules.Service{
		{Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: 80, Options: full},
		{Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: 443, Options: rules.Options{MSS: ptr[uint16](88)}},
		{Destination: netip.MustParsePrefix("192.0.2.0/24"), Port: 80, Options: rules.Options{WScale: ptr[uint8](0), Timestamps: true}},
		{Destination: netip.MustParsePrefix("0.0.0.0/0"), Port: 80},
		{Destination: netip.MustParsePrefix("2001:db8::1/128"), Port: 65535, Options: full},
		{Destination: netip.MustParsePrefix("2001:db8::/32"), Port: 1, Options: rules.Options{SACKPerm: true}},
	}
}

var someLink = Link{
	TTL: 64, HopLimit: 255, OpenWindow: true,
	VLANs: []VLAN{{}, {Outer: 1}, {Outer: 4094 | Provider}, {Outer: 2, Inner: 2 | Provider}},
}

var byValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

// TestEntriesComeBack turns services into the maps' form and back, without a map.
func TestEntriesComeBack(t *testing.T) {
	entries := Entries(someServices(), someLink)
	if want := len(someServices()) * len(someLink.VLANs); len(entries) != want {
		t.Fatalf("%d entries, want %d", len(entries), want)
	}
	keys := map[bpfPrefix]bool{}
	for _, e := range entries {
		k, err := e.key()
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.service()
		if err != nil {
			t.Fatal(err)
		}
		keys[k] = true
		got, err := entryOf(k, v)
		if err != nil {
			t.Errorf("%s: %v", e, err)
		}
		if d := cmp.Diff(e, got, byValue); d != "" || !e.Equal(got) {
			t.Errorf("%s (-want +got):\n%s", e, d)
		}
		if e.Equal(Entry{}) {
			t.Errorf("%s is equal to nothing", e)
		}
	}
	if len(keys) != len(entries) {
		t.Errorf("%d entries have %d keys", len(entries), len(keys))
	}
}

func TestServicesComeBack(t *testing.T) {
	want := someServices()
	for i, e := range Entries(want, Link{TTL: 64, HopLimit: 64}) {
		j := slices.IndexFunc(want, func(s rules.Service) bool { return s.Destination == e.Destination && s.Port == e.Port })
		if d := cmp.Diff(want[j], e.Service(), byValue); d != "" {
			t.Errorf("%d (-want +got):\n%s", i, d)
		}
	}
}

func TestEntriesThatAreNone(t *testing.T) {
	good := Entries(someServices()[:1], someLink)[0]
	for says, spoil := range map[string]func(*Entry){
		"port 0":            func(e *Entry) { e.Port = 0 },
		"window scale 15":   func(e *Entry) { e.Options.WScale = ptr[uint8](15) },
		"time to live 0":    func(e *Entry) { e.TTL = 0 },
		"not an address":    func(e *Entry) { e.Destination = netip.Prefix{} },
		"192.0.2.1/24: not": func(e *Entry) { e.Destination = netip.MustParsePrefix("192.0.2.1/24") },
		"::ffff:1.2.3.4":    func(e *Entry) { e.Destination = netip.MustParsePrefix("::ffff:1.2.3.4/128") },
		"no such VLAN":      func(e *Entry) { e.VLAN = VLAN{Outer: 4095} },
		"in VLAN 0.1":       func(e *Entry) { e.VLAN = VLAN{Inner: 1} },
	} {
		e := good
		spoil(&e)
		if _, err := encode([]Entry{e}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
	other := good
	other.TTL++
	if _, err := encode([]Entry{good, other}); err == nil || !strings.Contains(err.Error(), "told twice") {
		t.Errorf("twice: %v", err)
	}
	if _, err := encode([]Entry{good, good}); err != nil {
		t.Errorf("twice the same: %v", err)
	}
}

// loaded returns the program in the kernel, which it is attached nowhere in.
func loaded(t testing.TB, capacity int) *Program {
	t.Helper()
	p, err := Load(capacity)
	if errors.Is(err, fs.ErrPermission) && os.Getenv("CI") == "" {
		t.Skip("BPF programs need the rights of the machine's own root: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// holds checks what the program answers for.
func holds(t *testing.T, p *Program, want []Entry) {
	t.Helper()
	got, err := p.Read()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, byValue); d != "" {
		a, _ := json.Marshal(want)
		t.Errorf("want %s (-want +got):\n%s", a, d)
	}
}

// TestUpdate goes from one set of services to another and back, in a program that has no room for both.
func TestUpdate(t *testing.T) {
	services := someServices()
	for i := range services {
		services[i].Port ^= 0x5555
	}
	a, b := Entries(someServices(), someLink), Entries(services, someLink)
	p := loaded(t, len(a))
	holds(t, p, []Entry{})
	changed := slices.Clone(a)
	for i := range changed {
		changed[i].Options = rules.Options{MSS: ptr(uint16(1000 + i))}
	}
	for _, want := range [][]Entry{a, a, b, a, changed, a[:1], {}, b} {
		if err := p.Update(want); err != nil {
			t.Fatal(err)
		}
		holds(t, p, want)
	}
	if err := p.Update(append(slices.Clone(a), b...)); !errors.Is(err, ErrFull) {
		t.Errorf("too many: %v", err)
	}
	holds(t, p, b)
	if err := p.Update([]Entry{{}}); err == nil {
		t.Error("an entry that is none was taken")
	}
	holds(t, p, b)
}

func TestForeignEntries(t *testing.T) {
	p := loaded(t, 4)
	e := Entries(someServices(), someLink)[:1]
	if err := p.Update(e); err != nil {
		t.Fatal(err)
	}
	k, _ := e[0].key()
	v, _ := e[0].service()
	v.Access = 1 // of a later version
	if err := p.put(k, v); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Read(); err == nil {
		t.Errorf("read %v", got)
	}
	if err := p.Update(e); err != nil {
		t.Fatal(err)
	}
	holds(t, p, e)
}

func TestLoadRefuses(t *testing.T) {
	for _, n := range []int{-1, 0, MaxEntries + 1} {
		if _, err := Load(n); err == nil || !strings.Contains(err.Error(), "must be from 1") {
			t.Errorf("%d: %v", n, err)
		}
	}
	if err := loaded(t, 1).SetMAC(net.HardwareAddr{1}); err == nil {
		t.Error("an address of one byte was taken")
	}
}
