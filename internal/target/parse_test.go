package target

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sameSpec compares what callers see; netip's types compare with ==.
var sameSpec = cmp.Options{
	cmpopts.IgnoreUnexported(Spec{}, Target{}),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestParse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for text, want := range map[string]Spec{
		"192.0.2.42:80":              {Prefix: prefix("192.0.2.42/32"), Ports: []uint16{80}},
		"192.0.2.42:443,80,65535,1":  {Prefix: prefix("192.0.2.42/32"), Ports: []uint16{443, 80, 65535, 1}},
		"[2001:db8::1]:443":          {Prefix: prefix("2001:db8::1/128"), Ports: []uint16{443}},
		"[2001:DB8:0:0::1]:443":      {Prefix: prefix("2001:db8::1/128"), Ports: []uint16{443}},
		"[fe80::1%eth0.100]:22":      {Prefix: prefix("fe80::1/128"), Zone: "eth0.100", Ports: []uint16{22}},
		"[::ffff:192.0.2.42]:80":     {Prefix: prefix("192.0.2.42/32"), Ports: []uint16{80}},
		"192.0.2.0/24:443":           {Prefix: prefix("192.0.2.0/24"), Ports: []uint16{443}},
		"192.0.2.1/32:443":           {Prefix: prefix("192.0.2.1/32"), Ports: []uint16{443}},
		"[2001:db8::/32]:443,80":     {Prefix: prefix("2001:db8::/32"), Ports: []uint16{443, 80}},
		"[::ffff:192.0.2.0/120]:443": {Prefix: prefix("192.0.2.0/24"), Ports: []uint16{443}},
		"www.example.com:80":         {Name: "www.example.com", Ports: []uint16{80}},
		"www.example.com.:80":        {Name: "www.example.com.", Ports: []uint16{80}},
		"localhost:80":               {Name: "localhost", Ports: []uint16{80}},
		"3com.example:80":            {Name: "3com.example", Ports: []uint16{80}},
		"xn--bcher-kva.example:80":   {Name: "xn--bcher-kva.example", Ports: []uint16{80}},
		long + ".example:80":         {Name: long + ".example", Ports: []uint16{80}},
	} {
		want.Text = text
		got, err := Parse(text)
		if err != nil {
			t.Errorf("Parse(%q): %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got, sameSpec); diff != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", text, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	label, name := strings.Repeat("a", 64), strings.Repeat("a.", 127)+"b"
	for text, want := range map[string]string{
		"":                             "it is empty",
		"-":                            "looks like a flag",
		"--json":                       "looks like a flag",
		"-x:80":                        "looks like a flag",
		"80":                           "no port",
		"192.0.2.1":                    "no port",
		"www.example.com":              "no port",
		"[2001:db8::1]":                "no port",
		"[2001:db8::1":                 "a bracket is not closed",
		":80":                          "no host",
		"192.0.2.1:":                   "a port is empty",
		"192.0.2.1:80,":                "a port is empty",
		"192.0.2.1:,80":                "a port is empty",
		"192.0.2.1:0":                  `port "0" is out of range`,
		"192.0.2.1:65536":              `port "65536" is out of range`,
		"192.0.2.1:99999999999999999":  `port "99999999999999999" is out of range`,
		"192.0.2.1:-80":                `port "-80" is not a number`,
		"192.0.2.1:+80":                `port "+80" is not a number`,
		"192.0.2.1:080":                `port "080" is not a number`,
		"192.0.2.1:0x50":               `port "0x50" is not a number`,
		"192.0.2.1:8_0":                `port "8_0" is not a number`,
		"192.0.2.1:http":               `port "http" is not a number`,
		"192.0.2.1:80-90":              `port "80-90" is not a number`,
		"192.0.2.1:80,443,80":          "port 80 twice",
		"192.0.2.1:80/tcp":             `port "80/tcp" is not a number`,
		"192.0.2.256:80":               "neither an address nor a host name",
		"192.0.2:80":                   "neither an address nor a host name",
		"192.0.2.01:80":                "neither an address nor a host name",
		"1234:80":                      "neither an address nor a host name",
		"192.0.2.1:80:443":             "more than one colon, without brackets",
		"2001:db8::1:443":              "more than one colon, without brackets",
		"2001:db8::/32:443":            "more than one colon, without brackets",
		"http://192.0.2.1:80":          "more than one colon, without brackets",
		"[192.0.2.1]:80":               "no IPv6 address in the brackets",
		"[]:80":                        "no IPv6 address in the brackets",
		"[www.example.com]:80":         "no IPv6 address in the brackets",
		"[2001:db8::1:80":              "a bracket is not closed",
		"[2001:db8::1]80":              "no port",
		"[2001:db8::1]x]:80":           "not an IPv6 address",
		"[2001:db8::g]:80":             "not an IPv6 address",
		"[1:2:3:4:5:6:7:8:9]:80":       "not an IPv6 address",
		"[fe80::1%]:80":                "not an IPv6 address",
		"[fe80::1%eth0;reboot]:80":     `zone "eth0;reboot" is not the name`,
		"[fe80::1%a234567890123456]:1": `zone "a234567890123456" is not the name`,
		"[::ffff:192.0.2.1%eth0]:80":   "an IPv4 address has no zone",
		"192.0.2.0/33:80":              "not a prefix",
		"192.0.2.0/:80":                "not a prefix",
		"192.0.2.0/024:80":             "not a prefix",
		"192.0.2/24:80":                "not a prefix",
		"192.0.2.5/24:80":              "bits beyond the length of the prefix",
		"[2001:db8::1/32]:443":         "bits beyond the length of the prefix",
		"[2001:db8::/129]:443":         "not a prefix",
		"[::ffff:0:0/95]:443":          "prefix of IPv4-mapped addresses",
		"example.com/24:80":            "not a prefix",
		"http//example.com:80":         "not a prefix",
		"a..b:80":                      "a part of the host name is empty",
		".a:80":                        "a part of the host name is empty",
		".:80":                         "a part of the host name is empty",
		"a-.b:80":                      "begins or ends with a hyphen",
		"b.-a:80":                      "begins or ends with a hyphen",
		"under_score.example:80":       `'_' does not belong in a host name`,
		"bücher.example:80":            `'ü' does not belong in a host name`,
		"$(reboot):80":                 `'$' does not belong in a host name`,
		"`reboot`:80":                  "'`' does not belong in a host name",
		"a;reboot:80":                  `';' does not belong in a host name`,
		"a|b:80":                       `'|' does not belong in a host name`,
		"a'b:80":                       `does not belong in a host name`,
		`a"b:80`:                       `does not belong in a host name`,
		"*.example.com:80":             `'*' does not belong in a host name`,
		"user@host:80":                 `'@' does not belong in a host name`,
		"a b:80":                       "white space in it",
		"192.0.2.1:80 192.0.2.2:80":    "white space in it",
		"a\tb:80":                      "white space in it",
		"a:80\n":                       "white space in it",
		"a\u00a0b:80":                  "white space in it",
		"a\x00b:80":                    "character U+0000 in it",
		"a\x1b[31mb:80":                "character U+001B in it",
		"a\u202eb:80":                  "character U+202E in it",
		"\xff\xfe:80":                  "not UTF-8 text",
		label + ":80":                  "longer than 63 bytes",
		name + ":80":                   "more than 253 bytes",
	} {
		got, err := Parse(text)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %+v, %v; want %q", text, got, err, want)
			continue
		}
		var hinter interface{ Hint() string }
		if !errors.As(err, &hinter) || hinter.Hint() == "" {
			t.Errorf("Parse(%q): no hint", text)
		}
		if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x202e }) {
			t.Errorf("Parse(%q): control characters in %q", text, err)
		}
		if text != "" && e.Subject != text {
			t.Errorf("Parse(%q): the error is about %q", text, e.Subject)
		}
		if diff := cmp.Diff(Spec{}, got, sameSpec); diff != "" {
			t.Errorf("Parse(%q) returns more than an error: %s", text, diff)
		}
	}
}

func TestErrorCutsLongText(t *testing.T) {
	t.Parallel()
	_, err := Parse(strings.Repeat("a", 1<<20))
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.42:80,443", "[2001:db8::1]:443", "[fe80::1%eth0]:22", "192.0.2.0/24:443", "[2001:db8::/32]:443",
		"www.example.com:80", "[::ffff:192.0.2.0/120]:443", "$(reboot):80", "-x:80", "[]:80", "]:[", "\xff:1", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spec, err := Parse(text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Hint() == "" {
				t.Fatalf("Parse(%q): %v has no hint", text, err)
			}
			return
		}
		if strings.ContainsAny(text, " \t\n'\"`$;|&<>\\(){}") {
			t.Fatalf("Parse took shell text: %q", text)
		}
		if (spec.Name == "") == (spec.Prefix == netip.Prefix{}) || len(spec.Ports) == 0 {
			t.Fatalf("Parse(%q) = %+v", text, spec)
		}
		if spec.Name != "" {
			return
		}
		// What is printed of it reads back as the same.
		for _, port := range spec.Ports {
			target := Target{Prefix: spec.Prefix, Zone: spec.Zone, Port: port}
			again, err := Parse(target.String())
			if err != nil || again.Prefix != spec.Prefix || again.Zone != spec.Zone || again.Ports[0] != port {
				t.Fatalf("Parse(%q) prints as %q, which reads as %+v, %v", text, target, again, err)
			}
		}
	})
}
