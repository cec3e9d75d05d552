package rules

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestServiceThirdACK(t *testing.T) {
	for _, tt := range []struct {
		first   First
		cookies bool
		want    Repair
	}{
		{"", false, RepairStrip},
		{FirstUnknown, false, RepairStrip},
		{FirstServer, false, RepairStrip},
		{FirstClient, false, RepairDrop},
		{"", true, RepairNotrack},
		{FirstUnknown, true, RepairNotrack},
		{FirstServer, true, RepairNotrack},
		{FirstClient, true, RepairDrop}, // the client's data brings the right timestamps
	} {
		if got := (Service{First: tt.first, SynCookies: tt.cookies}).ThirdACK(); got != tt.want {
			t.Errorf("first %q, SYN cookies %t: repair %s, want %s", tt.first, tt.cookies, got, tt.want)
		}
	}
}

func TestServiceString(t *testing.T) {
	for destination, want := range map[string]string{
		"192.0.2.1/32":    "192.0.2.1:80",
		"192.0.2.0/24":    "192.0.2.0/24:80",
		"2001:db8::1/128": "[2001:db8::1]:80",
		"2001:db8::/64":   "[2001:db8::/64]:80",
	} {
		s := service(destination)
		if got := s.String(); got != want {
			t.Errorf("%s: %s, want %s", destination, got, want)
		}
		if six := strings.Contains(destination, "::"); (s.Family() == IPv6) != six {
			t.Errorf("%s: family %s", destination, s.Family())
		}
	}
}

func TestParseHook(t *testing.T) {
	for _, h := range []Hook{Input, Forward} {
		if got, err := ParseHook(string(h)); got != h || err != nil {
			t.Errorf("ParseHook(%s) = %s, %v", h, got, err)
		}
	}
	for _, s := range []string{"", "INPUT", "auto", "forward "} {
		if h, err := ParseHook(s); err == nil {
			t.Errorf("ParseHook(%q) = %s, want an error", s, h)
		}
	}
}

// service returns a service without faults.
func service(destination string) Service {
	return Service{Destination: pfx(destination), Port: 80, Hook: Forward}
}

func TestPolicyValid(t *testing.T) {
	all := Service{
		Name: "any name", Destination: pfx("192.0.2.8/29"), Port: 65535, Hook: Input,
		Interfaces: []string{"eth0", "fifteen-bytes-x", "br-0.1@x", "a+b", "#"}, First: FirstServer, SynCookies: true,
		Options: Options{MSS: ptr[uint16](88), WScale: ptr[uint8](14), SACKPerm: true, Timestamps: true},
	}
	other := all
	other.Port = 1
	for _, p := range []Policy{
		{},
		{Services: []Service{all}},
		{Services: []Service{all, other}},
		{Services: []Service{service("192.0.2.1/32"), service("192.0.2.2/31"), service("2001:db8::/64"), service("fd00::1/128")}},
		{Services: []Service{service("169.254.0.1/32")}},
	} {
		if err := p.Validate(); err != nil {
			t.Errorf("%v: %v", p.Services, err)
		}
	}
}

func TestPolicyFaults(t *testing.T) {
	at := func(destination string) func(*Service) {
		return func(s *Service) { s.Destination = pfx(destination) }
	}
	to := func(target string) func(*Service) {
		return func(s *Service) { s.To, s.Mode = netip.MustParseAddrPort(target), ModeNotrack }
	}
	on := func(names ...string) func(*Service) {
		return func(s *Service) { s.Interfaces = names }
	}
	for _, tt := range []struct {
		change func(*Service)
		want   string
	}{
		{func(s *Service) { *s = Service{Port: 80, Hook: Input} }, "destination is missing or not valid"},
		{at("192.0.2.1/24"), "service 192.0.2.1/24:80: destination has bits set beyond its prefix length; 192.0.2.0/24 is meant?"},
		{at("2001:db8::1/64"), "service [2001:db8::1/64]:80: destination has bits set beyond its prefix length; 2001:db8::/64 is meant?"},
		{at("::ffff:192.0.2.1/128"), "destination is an IPv4-mapped IPv6 address; write it as IPv4"},
		{at("0.0.0.0/0"), "not an address of a host"},
		{at("::/0"), "not an address of a host"},
		{at("127.0.0.1/32"), "not an address of a host"},
		{at("::1/128"), "not an address of a host"},
		{at("224.0.0.1/32"), "not an address of a host"},
		{at("ff02::1/128"), "not an address of a host"},
		{at("255.255.255.255/32"), "not an address of a host"},
		{at("fe80::1/128"), "service [fe80::1]:80: destination is link-local, which SYNPROXY cannot route"},
		{func(s *Service) { s.Port = 0 }, "service 192.0.2.1:0: port 0 is not a port of a service"},
		{func(s *Service) { s.Hook = "" }, `service 192.0.2.1:80: hook "": neither input nor forward`},
		{func(s *Service) { s.Hook = "output" }, `hook "output": neither input nor forward`},
		{on(""), `interface "": a name has 1 to 15 bytes`},
		{on("sixteen-bytes-xx"), `interface "sixteen-bytes-xx": a name has 1 to 15 bytes`},
		{on("."), `interface ".": not a name`},
		{on(".."), `interface "..": not a name`},
		{on("a/b"), `interface "a/b": not a name`},
		{on("eth0:1"), `interface "eth0:1": not a name`},
		{on("!"), `interface "!": not a name`},
		{on(`a"b`), `interface "a\"b": not a name`},
		{on("a'b"), `interface "a'b": not a name`},
		{on(`a\b`), `interface "a\\b": not a name`},
		{on("a b"), `interface "a b": white space`},
		{on("a\nb"), `interface "a\nb": white space`},
		{on("a\x00b"), `interface "a\x00b": white space`},
		{on("a\x7f"), `interface "a\x7f": white space`},
		{on("grün"), `interface "grün": white space, control or non-ASCII bytes`},
		{on("eth+"), `interface "eth+": a trailing + means a wildcard`},
		{on("lo"), `interface "lo": local traffic is never proxied`},
		{on("eth0", "eth1", "eth0"), `service 192.0.2.1:80: interface "eth0" is named twice`},
		{func(s *Service) { s.Mode = "fast" }, `service 192.0.2.1:80: mode "fast": neither tracked nor notrack`},
		{to("192.0.2.2:0"), "target 192.0.2.2:0: port 0 is not a port of a service"},
		{to("127.0.0.1:80"), "target 127.0.0.1:80: a loopback address cannot be reached"},
		{to("[2001:db8::1]:80"), "target [2001:db8::1]:80: not of the family of the destination"},
		{to("0.0.0.0:80"), "target 0.0.0.0:80: not an address of a host"},
		{to("192.0.2.1:80"), "target 192.0.2.1:80: is the destination itself"},
		{func(s *Service) { to("192.0.2.2:80")(s); s.Mode = "" }, "address translation needs the mode notrack"},
		{func(s *Service) { s.Published = true }, "address translation needs the mode notrack"},
		{func(s *Service) { to("192.0.2.2:80")(s); s.Destination = pfx("192.0.2.0/30") }, "a network cannot be translated"},
		{func(s *Service) { s.First = "both" }, `first speaker "both": neither client nor server`},
		{func(s *Service) { s.Options.MSS = ptr[uint16](87) }, "service 192.0.2.1:80: mss 87: less than 88"},
		{func(s *Service) { s.Options.WScale = ptr[uint8](15) }, "service 192.0.2.1:80: wscale 15: more than 14 (RFC 7323)"},
	} {
		s := service("192.0.2.1/32")
		tt.change(&s)
		err := Policy{Services: []Service{s}}.Validate()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: error %v, want one with %q", s, err, tt.want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: more than one fault: %v", s, err)
		}
	}
}

// Every fault is told, and each names its service.
func TestPolicyFaultsJoined(t *testing.T) {
	bad := service("192.0.2.1/32")
	bad.Port, bad.Hook, bad.Interfaces = 0, "x", []string{"lo", "eth+"}
	bad.Options = Options{MSS: ptr[uint16](1), WScale: ptr[uint8](99)}
	network, inside := service("198.51.100.0/24"), service("198.51.100.7/32")
	twice := service("198.51.100.7/32")
	twice.Hook = Input
	got := strings.Split(Policy{Services: []Service{bad, inside, network, twice}}.Validate().Error(), "\n")
	want := []string{
		"service 192.0.2.1:0: port 0 is not a port of a service",
		`service 192.0.2.1:0: hook "x": neither input nor forward`,
		`service 192.0.2.1:0: interface "lo": local traffic is never proxied`,
		`service 192.0.2.1:0: interface "eth+": a trailing + means a wildcard to xtables`,
		"service 192.0.2.1:0: mss 1: less than 88",
		"service 192.0.2.1:0: wscale 99: more than 14 (RFC 7323)",
		"service 198.51.100.7:80: overlaps with 198.51.100.0/24:80",
		"service 198.51.100.7:80: overlaps with 198.51.100.0/24:80",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A policy is kept in the undo record and in users' files.
func TestPolicyJSON(t *testing.T) {
	p := goldenPolicies()["many"]
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var got Policy
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if want, have := fmt.Sprint(p.Rules(NFT)), fmt.Sprint(got.Rules(NFT)); want != have {
		t.Errorf("the rules after reading %s are\n%s\nwant\n%s", text, have, want)
	}
}
