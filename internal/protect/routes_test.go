package protect

import (
	"net/netip"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// What was asked a moment ago, of this network namespace and of all the addresses, is not asked again; else it is.
func TestRoutesAreAskedOnce(t *testing.T) {
	here, err := kernel.NetNSID()
	if err != nil {
		t.Fatal(err)
	}
	services := many(2)
	for i, text := range []string{"127.0.0.1:80", "127.0.0.2:80"} {
		at := netip.MustParseAddrPort(text)
		services[i].Destination, services[i].ProbeAt = netip.PrefixFrom(at.Addr(), 32), at
	}
	known := func() *routes { // that are wrong: this is no router's address
		r := known(services)
		r.of, r.asked = here, time.Now()
		return r
	}
	for name, tt := range map[string]struct {
		change func(r *routes, s []Service)
		want   rules.Hook
	}{
		"known":       {func(*routes, []Service) {}, rules.Forward},
		"old":         {func(r *routes, _ []Service) { r.asked = r.asked.Add(-time.Minute) }, rules.Input},
		"elsewhere":   {func(r *routes, _ []Service) { r.of = "cookie-1" }, rules.Input},
		"another":     {func(_ *routes, s []Service) { s[1].Destination = netip.MustParsePrefix("127.0.0.3/32") }, rules.Input},
		"translation": {func(_ *routes, s []Service) { s[1].To = netip.MustParseAddrPort("127.0.0.3:80") }, rules.Input},
		"never":       {func(r *routes, _ []Service) { *r = routes{} }, rules.Input},
	} {
		r, asked := known(), append([]Service{}, services...)
		tt.change(r, asked)
		if err := r.ask(t.Context(), asked); err != nil {
			t.Fatal(err)
		}
		if hook, err := r.hook(services[0].Destination.Addr()); err != nil || hook != tt.want {
			t.Errorf("%s: %s, %v; want %s", name, hook, err, tt.want)
		}
	}
}

func TestSample(t *testing.T) {
	for _, tt := range []struct{ destination, at, want string }{
		{"192.0.2.1/32", "", "192.0.2.1"},
		{"2001:db8::1/128", "", "2001:db8::1"},
		{"192.0.2.0/24", "", "192.0.2.128"},
		{"192.0.2.0/31", "", "192.0.2.1"},
		{"0.0.0.0/0", "", "128.0.0.0"},
		{"2001:db8::/64", "", "2001:db8:0:0:8000::"},
		{"2001:db8::/127", "", "2001:db8::1"},
		{"2001:db8::/64", "[2001:db8::10]:80", "2001:db8::10"},
		{"2001:db8::/64", "[2001:db8:1::10]:80", "2001:db8:0:0:8000::"},
	} {
		s := Service{Service: rules.Service{Destination: netip.MustParsePrefix(tt.destination)}}
		if tt.at != "" {
			s.ProbeAt = netip.MustParseAddrPort(tt.at)
		}
		if got := s.sample(); got.String() != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
