package protect

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// many returns n services of one kind on addresses of their own.
func many(n int) []Service {
	mss, wscale := uint16(1460), uint8(7)
	services := make([]Service, n)
	for i := range services {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).Next(), 443)
		services[i] = Service{Source: Given, ProbeAt: at, Service: rules.Service{
			Name: at.String(), Destination: netip.PrefixFrom(at.Addr(), 32), Port: at.Port(), Hook: rules.Forward, First: rules.FirstClient,
			Interfaces: []string{"eth0", "eth1"}, Mode: rules.ModeNotrack, Options: rules.Options{MSS: &mss, WScale: &wscale, SACKPerm: true, Timestamps: true},
		}}
	}
	return services
}

var byValue = cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{})

// Whatever a service is, of the many that share a group it comes back as it was.
func TestGroups(t *testing.T) {
	services := many(40)
	for i, change := range []func(s *Service){
		func(s *Service) { s.Name = "" },
		func(s *Service) { s.Name = "web" },
		func(s *Service) { s.Name = "shop:443" },
		func(s *Service) { s.Destination = netip.MustParsePrefix("192.0.2.0/24"); s.ProbeAt = netip.AddrPort{} },
		func(s *Service) { s.Destination = netip.MustParsePrefix("2001:db8::/64"); s.Name = s.String() },
		func(s *Service) { s.Destination = netip.MustParsePrefix("2001:db8:1::1/128"); s.Name = s.String() },
		func(s *Service) { s.ProbeAt = netip.AddrPort{} },
		func(s *Service) { s.ProbeAt = netip.MustParseAddrPort("192.0.2.1:80") },
		func(s *Service) { s.To = netip.MustParseAddrPort("192.0.2.1:80") },
		func(s *Service) { s.To = netip.MustParseAddrPort("192.0.2.1:80"); s.ProbeAt = s.To },
		func(s *Service) { s.Interfaces = nil },
		func(s *Service) { s.Options.MSS = nil },
		func(s *Service) { s.Options.WScale, s.Port = nil, 65535 },
		func(s *Service) { s.Published, s.SynCookies, s.First = true, true, rules.FirstServer },
	} {
		change(&services[2*i])
	}
	sortServices(services)
	text, err := json.Marshal(grouped(services))
	if err != nil {
		t.Fatal(err)
	}
	var groups []group
	if err := json.Unmarshal(text, &groups); err != nil {
		t.Fatal(err)
	}
	got, err := ungrouped(groups)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(services, got, byValue); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !slices.EqualFunc(services, got, Service.equal) {
		t.Error("not equal")
	}
}

// No field of a service may be forgotten where services are compared or grouped.
func TestEveryField(t *testing.T) {
	at := netip.MustParseAddrPort("192.0.2.7:80")
	values := []any{
		"x", uint16(7), at, netip.PrefixFrom(at.Addr(), 32),
		[]string{"eth7"},
		true, new(uint16), new(uint8),
		rules.Forward, rules.FirstClient, rules.ModeNotrack, Probed, time.Unix(7, 0).UTC(), FixedMSS | FixedTimestamps,
	}
	var walk func(path string, s, field reflect.Value)
	walk = func(path string, s, field reflect.Value) {
		for i := range field.NumField() {
			f, name := field.Field(i), path+"."+field.Type().Field(i).Name
			if name == "Service.Received" {
				continue // what was counted is no part of it
			}
			n := slices.IndexFunc(values, func(v any) bool { return reflect.TypeOf(v) == f.Type() })
			switch {
			case n >= 0:
				f.Set(reflect.ValueOf(values[n]))
				one := s.Interface().(Service)
				if one.equal(Service{}) {
					t.Errorf("%s makes no difference", name)
				}
				text, err := json.Marshal(grouped([]Service{one, {}}))
				var groups []group
				if err == nil {
					err = json.Unmarshal(text, &groups)
				}
				var back []Service
				for _, g := range groups { // an invalid place cannot be read back
					for range len(g.Members) + len(g.Others) {
						back = append(back, g.Like)
					}
				}
				placed := path == "Service.Service" && slices.Contains([]string{"Destination", "Port", "To"}, field.Type().Field(i).Name) || name == "Service.ProbeAt"
				if !placed && (err != nil || !slices.ContainsFunc(back, func(b Service) bool { return b.equal(one) })) {
					t.Errorf("%s is lost: %v\n%s", name, err, text)
				}
				f.SetZero()
			case f.Kind() == reflect.Struct:
				walk(name, s, f)
			default:
				t.Errorf("%s: this test has no value of type %s", name, f.Type())
			}
		}
	}
	s := reflect.New(reflect.TypeFor[Service]()).Elem()
	walk("Service", s, s)
}

// A record that version 0.1 wrote is read as it was meant, with what it would go back to.
func TestRecordSchema1(t *testing.T) {
	text, err := os.ReadFile("testdata/record-1.json")
	if err != nil {
		t.Fatal(err)
	}
	rec, err := parseRecord(text)
	if err != nil {
		t.Fatal(err)
	}
	var old struct {
		Services []Service `json:"services"`
		Pending  struct {
			Before struct {
				Services []Service `json:"services"`
			} `json:"before"`
		} `json:"pending"`
	}
	if err := json.Unmarshal(text, &old); err != nil {
		t.Fatal(err)
	}
	if len(old.Services) != 3 || len(old.Pending.Before.Services) != 1 {
		t.Fatalf("%+v", old)
	}
	check := func(rec *record) {
		t.Helper()
		if diff := cmp.Diff(old.Services, rec.Services, byValue); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if diff := cmp.Diff(old.Pending.Before.Services, rec.Pending.Before.Services, byValue); diff != "" {
			t.Errorf("before: -want +got:\n%s", diff)
		}
		if len(rec.Sysctls) != 1 || rec.Backend != rules.NFT || !rec.Unfinished {
			t.Errorf("%+v", rec)
		}
	}
	check(rec)
	s := store{dir: t.TempDir(), id: rec.Namespace}
	if err := s.save(rec); err != nil {
		t.Fatal(err)
	}
	if rec, err = s.load(); err != nil {
		t.Fatal(err)
	}
	check(rec)
}

// What is neither of the two forms is refused.
func TestRecordForms(t *testing.T) {
	for name, text := range map[string]string{
		"a schema to come":      `{"schema":3}`,
		"no schema":             `{"groups":[]}`,
		"groups in schema 1":    `{"schema":1,"groups":[]}`,
		"services in schema 2":  `{"schema":2,"services":[]}`,
		"services before that":  `{"schema":2,"pending":{"before":{"schema":1,"services":[]}}}`,
		"a place of the group":  `{"schema":2,"groups":[{"like":{"port":1,"hook":"input"},"members":["192.0.2.1:1"]}]}`,
		"no port":               `{"schema":2,"groups":[{"like":{"hook":"input"},"members":["192.0.2.1"]}]}`,
		"port 0":                `{"schema":2,"groups":[{"like":{"hook":"input"},"members":["192.0.2.1:0"]}]}`,
		"a port too large":      `{"schema":2,"groups":[{"like":{"hook":"input"},"members":["192.0.2.0/24:65536"]}]}`,
		"a network without one": `{"schema":2,"groups":[{"like":{"hook":"input"},"members":["192.0.2.0/24"]}]}`,
		"bits of the host":      `{"schema":2,"groups":[{"like":{"hook":"input"},"members":["192.0.2.1/24:1"]}]}`,
		"the same twice":        `{"schema":2,"groups":[{"like":{"hook":"input"},"members":["192.0.2.1:1","192.0.2.1:1"]}]}`,
		"no hook":               `{"schema":2,"groups":[{"like":{},"members":["192.0.2.1:1"]}]}`,
	} {
		if rec, err := parseRecord([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, rec)
		}
	}
	ok := `{"schema":2,"groups":[{"like":{"hook":"input"},"members":["192.0.2.1:1"],"others":[{"at":"[2001:db8::/64]:9"}]}]}`
	rec, err := parseRecord([]byte(ok))
	if err != nil || fmt.Sprint(rec.Services[0], rec.Services[1]) != "192.0.2.1:1 [2001:db8::/64]:9" {
		t.Errorf("%+v, %v", rec, err)
	}
}

func FuzzParsePlace(f *testing.F) {
	for _, text := range []string{"192.0.2.1:443", "[2001:db8::1]:80", "192.0.2.0/24:9", "[2001:db8::/64]:65535", "[192.0.2.0/24]:1", "::/0:1", "1/2"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s Service
		var err error
		if s.Destination, s.Port, err = parsePlace(text); err != nil {
			return
		}
		written := string(s.appendPlace(nil))
		if written != s.String() {
			t.Errorf("%q and %q", written, s.String())
		}
		if p, port, err := parsePlace(written); err != nil || p != s.Destination || port != s.Port {
			t.Errorf("%q becomes %q, and then %s, %d: %v", text, written, p, port, err)
		}
	})
}
