package protect

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestServes(t *testing.T) {
	services := many(10)
	services[3].Destination = netip.MustParsePrefix("192.0.2.0/24")
	services[4].Destination = netip.MustParsePrefix("192.0.2.128/25")
	services[4].Port = 80
	services[5].Destination = netip.MustParsePrefix("2001:db8::/64")
	services[6].Destination = netip.MustParsePrefix("2001:db8::1/128")
	services[6].Port = 80
	services[7].To = netip.MustParseAddrPort("198.51.100.1:8443")
	for text, want := range map[string]bool{
		"10.0.0.1:443": true, "10.0.0.1:444": false, "10.0.0.10:443": true, "10.0.0.11:443": false, "10.0.0.4:443": false,
		"192.0.2.1:443": true, "192.0.2.200:443": true, "192.0.2.1:80": false, "192.0.2.200:80": true, "192.0.3.1:443": false,
		"[2001:db8::1]:443": true, "[2001:db8::1]:80": true, "[2001:db8::2]:80": false, "[2001:db8:0:1::]:443": false,
		"198.51.100.1:8443": false,
	} {
		if got := serves(services)(netip.MustParseAddrPort(text)); got != want {
			t.Errorf("%s is served: %t", text, got)
		}
		if got := serversOf(services)(netip.MustParseAddrPort(text)); got != (want || text == "198.51.100.1:8443") {
			t.Errorf("%s is a server: %t", text, got)
		}
	}
	if serves(nil)(netip.MustParseAddrPort("10.0.0.1:443")) {
		t.Error("nothing is served")
	}
}

func TestBegins(t *testing.T) {
	was, now := many(10), many(12)
	now[2].Port = 80
	p := &plan{old: &record{Services: was}, new: &record{Services: now}}
	begins := p.begins()
	for i, s := range now {
		if got := begins(s.itself()); got != (i == 2 || i >= 10) {
			t.Errorf("%s begins: %t", s, got)
		}
	}
	p.new.Services = was[:3]
	if p.begins() != nil {
		t.Error("something begins")
	}
	p.old.Draining = true
	if begins = p.begins(); begins == nil || !begins(was[1].itself()) || begins(was[4].itself()) {
		t.Error("after a draining, everything begins")
	}
}

func TestClosing(t *testing.T) {
	was, next := many(10), many(8)
	next[2].Port = 80
	rec := &record{Services: was}
	want := rec.policy().Close(policyOf(next)).Closing
	if diff := cmp.Diff(want, rec.closing(next), byValue); diff != "" || len(want) != 3 {
		t.Errorf("-want +got:\n%s", diff)
	}
	rec.Draining = true
	if rec.closing(next) != nil || (*record)(nil).closing(next) != nil {
		t.Error("what is not protected cannot close")
	}
}
