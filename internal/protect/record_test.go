package protect

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// example is a record as an apply writes it.
func example() *record {
	mss, wscale := uint16(1460), uint8(0)
	a := netip.MustParseAddr("2001:db8::1")
	return &record{
		Schema: recordSchema, Namespace: "cookie-7", Backend: rules.NFT,
		Services: []Service{{Source: Probed, ProbeAt: netip.AddrPortFrom(a, 443), Service: rules.Service{
			Name: "web", Destination: netip.PrefixFrom(a, 128), Port: 443, Hook: rules.Input, First: rules.FirstServer,
			Interfaces: []string{"eth0"}, Options: rules.Options{MSS: &mss, WScale: &wscale, Timestamps: true}, SynCookies: true,
		}}},
		Sysctls: []sysctl.Change{{Key: "net.netfilter.nf_conntrack_tcp_loose", Before: "1", After: "0"}},
		Base:    []rules.BaseChain{{Family: rules.IPv4, Table: rules.Filter, Chain: "INPUT"}},
	}
}

// A record that was written is read as it was, and an empty list is not an unknown one.
func TestRecordRoundTrip(t *testing.T) {
	for _, base := range [][]rules.BaseChain{nil, {}, example().Base} {
		want := example()
		want.Base = base
		s := store{dir: t.TempDir(), id: want.Namespace}
		if err := s.save(want); err != nil {
			t.Fatal(err)
		}
		got, err := s.load()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{})); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if fi, err := os.Stat(s.path()); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", fi.Mode(), err)
		}
	}
}

// What a record says is written to the kernel, so one that others could have written is refused.
func TestRecordTrust(t *testing.T) {
	for name, spoil := range map[string]func(s store) error{
		"others may write to it": func(s store) error { return os.Chmod(s.path(), 0o622) },
		`belongs to the namespace "cookie-8"`: func(s store) error {
			other := store{s.dir, "cookie-8"}
			if err := other.save(example()); err != nil {
				return err
			}
			return os.Rename(other.path(), s.path())
		},
		"net.ipv4.ip_forward=1 is not a setting": func(s store) error {
			rec := example()
			rec.Sysctls[0].Key, rec.Sysctls[0].After = "net.ipv4.ip_forward", "1"
			return s.save(rec)
		},
		"nf_conntrack_tcp_loose=1 is not a setting": func(s store) error {
			rec := example()
			rec.Sysctls[0].After = "1"
			return s.save(rec)
		},
	} {
		s := store{dir: t.TempDir(), id: "cookie-7"}
		if err := s.save(example()); err != nil {
			t.Fatal(err)
		}
		if err := spoil(s); err != nil {
			t.Fatal(err)
		}
		_, err := s.load()
		if err == nil || !strings.Contains(err.Error(), name) || CodeOf(err) != Conflict {
			t.Errorf("%s: error %v (%s)", name, err, CodeOf(err))
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	text, err := json.Marshal(example().packed())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	if text, err = os.ReadFile("testdata/record-1.json"); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"schema":2,"groups":[{"like":{"hook":"input"},"members":["192.0.2.1:1"],"others":[{"at":"[2001:db8::/64]:9"}]}]}`))
	f.Add([]byte(`{"schema":1,"sysctls":[{"key":"kernel.core_pattern","before":"|/bin/sh","after":"0"}]}`))
	f.Add([]byte(`{"schema":1,"services":[{"destination":"","port":0}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		rec, err := parseRecord(text)
		if err != nil {
			return
		}
		for _, c := range rec.Sysctls {
			if c.Key != needed[0].Key || c.After != needed[0].Value {
				t.Errorf("%+v would be written", c)
			}
		}
		for _, s := range rec.Services {
			_ = s.View()
		}
		_ = rec.policy().Ruleset(rec.Backend)
	})
}

// A guard reads a record of many services only when there is another, and never misses one.
func TestWatch(t *testing.T) {
	s := store{dir: t.TempDir(), id: "cookie-7"}
	w := watch{store: s}
	look := func(want string) {
		t.Helper()
		rec, err := w.load()
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if rec != nil && rec.Pending != nil {
			got = rec.Pending.Name
		}
		if got != want {
			t.Errorf("on trial is %q, want %q", got, want)
		}
	}
	look("")
	for _, name := range []string{"1", "2", "3", "3", "4"} {
		rec := example()
		rec.Pending = &pending{Name: name, Before: example()}
		if err := s.save(rec); err != nil {
			t.Fatal(err)
		}
		look(name)
		first := w.rec
		look(name)
		if w.rec != first || len(first.Services) > 0 {
			t.Error("it was read twice, or held whole")
		}
	}
	if err := s.put(nil); err != nil {
		t.Fatal(err)
	}
	look("")
	if err := os.Chmod(s.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.load(); err == nil {
		t.Error("a bad record is read")
	}
}

// Lists of findings are never null in JSON.
func TestAdviceIsAList(t *testing.T) {
	if found := adviseOptions(many(2)); found == nil || len(found) != 0 {
		t.Errorf("%#v", found)
	}
	services := many(3)
	services[0].Options.Timestamps, services[2].Options.Timestamps = false, false
	found := adviseOptions(services)
	if len(found) != 1 || found[0].Code != "no-timestamps" || !strings.HasSuffix(found[0].Message, "(and one more service)") {
		t.Errorf("%+v", found)
	}
}
