package config

import (
	"strings"
)

// A sample is a configuration and what is wrong with it.
type sample struct {
	name, text string
	// want are the faults, as LINE:COLUMN: and a part of the message; empty: none.
	want []string
	// beyond tells that a JSON Schema cannot see it: it is of the text, of what
	// targets mean, or of several places at once.
	beyond bool
}

// in puts lines under services:.
func in(lines ...string) string {
	return "version: 1\nservices:\n  - " + strings.Join(lines, "\n    ") + "\n"
}

const given = "options: {mss: 1460, wscale: 7, sack_perm: true, timestamps: true}"

// corpus is what parser and schema must agree on, and what only the parser sees.
var corpus = []sample{
	{name: "least", text: in("targets: 192.0.2.1:80")},
	{name: "hosts", text: in("destinations: [192.0.2.1, 2001:db8::1, [2001:db8::2], '[2001:db8::3]', www.example.com]", "ports: 80")},
	{name: "braces in a row", text: "version: 1\nservices: [{destinations: [192.0.2.1, 2001:db8::10, ::7, fd00::], ports: 80}, {targets: [192.0.2.1:81, 192.0.2.2:80], to: 10.0.0.1:80}]\n"},
	{name: "ports", text: in("destinations: 192.0.2.1", "ports: [80, '443', 8000-8010, 9000 - 9001]")},
	{name: "all keys", text: in("name: web-1.x_y", "destinations: 192.0.2.1", "ports: 80", "targets: ['192.0.2.2:443']", "interfaces: [eth0, eth1]",
		"hook: forward", "mode: notrack", "first: client", "to: 10.0.0.1:8080", "probe_at: '10.0.0.1:8080'", given)},
	{name: "words", text: in("targets: 192.0.2.1:80", "interfaces: []", "hook: auto", "mode: auto", "first: auto", "options: probe")},
	{name: "some options", text: in("targets: 192.0.2.1:80", "options: {mss: 1400}")},
	{name: "no options", text: in("targets: 192.0.2.1:80", "options: {}")},
	{name: "one interface", text: in("targets: 192.0.2.1:80", "interfaces: eth0")},
	{name: "defaults", text: "defaults: {interfaces: [eth0], hook: input, mode: tracked, first: server, options: probe, ports: [80], probe_at: '192.0.2.1:80', backend: iptables-nft, warmup: 1m30s, rate: 500}\n" + in("destinations: 192.0.2.1")},
	{name: "default to", text: "defaults: {to: '10.0.0.1:80'}\n" + in("targets: 192.0.2.1:80")},
	{name: "include", text: "version: 1\ninclude: [fleet.txt, '@other.txt']\n"},
	{name: "include one", text: "version: 1\ninclude: fleet.txt\n"},
	{name: "list", text: in("targets: '@fleet.txt'")},
	{name: "both", text: in("targets: '@fleet.txt'") + "include: fleet.txt\n"},
	{name: "braces", text: `{"version": 1, "services": [{"targets": ["192.0.2.1:80"]}]}`},
	{name: "start", text: "---\n" + in("targets: 192.0.2.1:80") + "...\n"},
	{name: "comments", text: "# a\n\nversion: 1 # b\nservices: # c\n  # d\n  - targets: 192.0.2.1:80 # e\n# f"},
	{name: "Windows", text: "\ufeff" + strings.ReplaceAll(in("targets: 192.0.2.1:80"), "\n", "\r\n")},
	{name: "dashes at the margin", text: "version: 1\nservices:\n- targets: 192.0.2.1:80\n- targets: 192.0.2.2:80\n"},
	{name: "prefix", text: in("destinations: [192.0.2.0/24, 2001:db8::/32]", "ports: 80", given)},

	{name: "nothing", text: "", want: []string{"1:1: the file is empty"}},
	{name: "comment alone", text: "# a\n", want: []string{"1:1: the file is empty"}},
	{name: "a word", text: "web\n", want: []string{`1:1: the file is the text "web"`}},
	{name: "a list of targets", text: "192.0.2.1:80 # web\nwww.example.com:443\n", want: []string{"1:1: this is a list of targets, not a configuration (apply takes it as @FILE"}},
	{name: "one target", text: "192.0.2.1:80\n", want: []string{"1:1: this is a list of targets"}},
	{name: "a list", text: "- web\n", want: []string{"1:1: the file is a list"}},
	{name: "no version", text: "services: [{targets: 192.0.2.1:80}]\n", want: []string{"1:1: no version"}},
	{name: "version 2", text: "version: 2\nservices: [{targets: 192.0.2.1:80}]\n", want: []string{"1:10: version 2 is not known"}},
	{name: "version text", text: "version: '1'\nservices: [{targets: 192.0.2.1:80}]\n", want: []string{`1:10: version is the text "1"`}},
	{name: "no services", text: "version: 1\n", want: []string{"1:1: nothing to protect"}},
	{name: "empty services", text: "version: 1\nservices: []\n", want: []string{"1:1: nothing to protect"}},
	{name: "null services", text: "version: 1\nservices:\n", want: []string{"2:1: services has no value"}},
	{name: "services a mapping", text: "version: 1\nservices:\n  targets: 192.0.2.1:80\n", want: []string{"3:3: services is a mapping"}},
	{name: "a service a word", text: "version: 1\nservices: [web]\n", want: []string{`2:12: a service is the text "web"`}},
	{name: "a service nothing", text: "version: 1\nservices:\n  -\n", want: []string{"3:5: a service is nothing"}},
	{name: "empty include", text: "version: 1\ninclude: []\n", want: []string{"2:10: include is an empty list"}},
	{name: "include a number", text: "version: 1\ninclude: 3\n", want: []string{"2:10: include is the number 3"}},
	{name: "unknown key", text: in("targets: 192.0.2.1:80", "options: {wscal: 3}"), want: []string{`4:15: unknown key "wscal" in options`}},
	{name: "unknown keys", text: "version: 1\nservice: []\ndefaults: {mss: 3}\nservices: [{targets: 192.0.2.1:80, port: 3, sack-perm: true}]\n", want: []string{
		`2:1: unknown key "service" in the file (did you mean "services"?)`, `3:12: unknown key "mss" in defaults (write it under options:)`,
		`4:36: unknown key "port" in a service (did you mean "ports"?)`, `4:45: unknown key "sack-perm" in a service (write it under options:)`,
	}},
	{name: "no space", text: "version: 1\nservices: [{name:web, targets: 192.0.2.1:80}]\n", want: []string{`2:13: unknown key "name:web" in a service (put a space behind the colon)`}},
	{name: "no space, JSON", text: `{"version":1,"services":[{"targets":["192.0.2.1:80"],"hook":outside}]}`, want: []string{`1:61: hook is "outside"`}},
	{name: "no destination", text: in("name: web"), want: []string{"3:5: a service without destinations"}},
	{name: "no ports", text: in("destinations: 192.0.2.1"), want: []string{"3:5: a service without ports"}, beyond: true}, // defaults may have them
	{name: "ports of targets", text: in("targets: 192.0.2.1:80", "ports: 443"), want: []string{"4:5: ports without destinations"}},
	{name: "empty lists", text: in("destinations: []", "ports: []", "targets: []"), want: []string{"3:19: destinations is an empty list", "4:12: ports is an empty list", "5:14: targets is an empty list"}},
	{name: "nulls", text: in("targets: 192.0.2.1:80", "name:", "hook: ~", "to: null"), want: []string{"4:5: name has no value", "5:5: hook has no value", "6:5: to has no value"}},
	{name: "port 0", text: in("destinations: 192.0.2.1", "ports: 0"), want: []string{"4:12: port 0 is out of range"}},
	{name: "port 65536", text: in("destinations: 192.0.2.1", "ports: [65536]"), want: []string{"4:13: port 65536 is out of range"}, beyond: false},
	{name: "negative port", text: in("destinations: 192.0.2.1", "ports: -80"), want: []string{"4:12: port -80 is out of range"}},
	{name: "ports of other kinds", text: in("destinations: 192.0.2.1", "ports: [true, 1.5, [80], http]"), want: []string{
		"4:13: ports is true or false", "4:19: ports is the number 1.5", "4:24: ports is a list", `4:30: port is "http", not a plain decimal number`,
	}},
	{name: "hexadecimal port", text: in("destinations: 192.0.2.1", "ports: 0x50"), want: []string{`4:12: port is "0x50", not a plain`}, beyond: true},
	{name: "octal port", text: in("destinations: 192.0.2.1", "ports: 0o17"), want: []string{`4:12: port is "0o17", not a plain`}, beyond: true},
	{name: "ports twice", text: in("destinations: 192.0.2.1", "ports: [80, 80]"), want: []string{"4:17: port 80 is named twice"}},
	{name: "ports in a range too", text: in("destinations: 192.0.2.1", "ports: [80-90, 85]"), want: []string{"4:20: port 85 is named twice"}, beyond: true},
	{name: "range down", text: in("destinations: 192.0.2.1", "ports: 90-80"), want: []string{`4:12: the range of ports "90-80" goes down`}, beyond: true},
	{name: "range of three", text: in("destinations: 192.0.2.1", "ports: 1-2-3"), want: []string{`4:12: port is "2-3", not a plain`}},
	{name: "range from 0", text: in("destinations: 192.0.2.1", "ports: 0-3"), want: []string{"4:12: port 0 is out of range"}},
	{name: "ports with commas", text: in("destinations: 192.0.2.1", "ports: 80,443"), want: []string{`4:12: port is "80,443", not a plain`}},
	{name: "bad hosts", text: in("destinations: [192.0.2.1:80, 192.0.2.1/24, '', 'a b', 3]", "ports: 80"), want: []string{
		`3:20: target "192.0.2.1:80": more than a host`, `3:34: target "192.0.2.1/24": the address has bits beyond`, "3:48: it is empty", `3:52: target "a b": white space`, "3:59: destinations is the number 3",
	}},
	{name: "host with a port", text: in("destinations: '[2001:db8::1]:80'", "ports: 80"), want: []string{`3:19: target "[2001:db8::1]:80": more than a host`}, beyond: true},
	{name: "bad target", text: in("targets: [192.0.2.1]"), want: []string{`3:15: target "192.0.2.1": no port`}, beyond: true},
	{name: "list without a name", text: in("targets: '@'"), want: []string{"3:14: a list without a name"}, beyond: true},
	{name: "bad name", text: in("targets: 192.0.2.1:80", "name: a web server"), want: []string{`4:11: name is "a web server"`}},
	{name: "number for a name", text: in("targets: 192.0.2.1:80", "name: 3"), want: []string{"4:11: name is the number 3"}},
	{name: "long name", text: in("targets: 192.0.2.1:80", "name: "+strings.Repeat("a", 64)), want: []string{"4:11: name is"}},
	{name: "same name", text: in("targets: 192.0.2.1:80", "name: a") + "  - {name: a, targets: 192.0.2.2:80}\n", want: []string{"5:5: the name a is taken: FILE:3:5"}, beyond: true},
	{name: "bad words", text: in("targets: 192.0.2.1:80", "hook: output", "mode: track", "first: both"), want: []string{`4:11: hook is "output"`, `5:11: mode is "track" (did you mean "tracked"?`, `6:12: first is "both"`}},
	{name: "word of another kind", text: in("targets: 192.0.2.1:80", "hook: [input]"), want: []string{"4:11: hook is a list"}},
	{name: "bad options", text: in("targets: 192.0.2.1:80", "options: {mss: 87, wscale: 15, sack_perm: yes, timestamps: 1}"), want: []string{
		"4:20: mss 87 is out of range", "4:32: wscale 15 is out of range", `4:47: sack_perm is the text "yes"`, "4:64: timestamps is the number 1",
	}},
	{name: "options a word", text: in("targets: 192.0.2.1:80", "options: none"), want: []string{`4:14: options is the text "none"`}},
	{name: "large mss", text: in("targets: 192.0.2.1:80", "options: {mss: 65496}"), want: []string{"4:20: mss 65496 is out of range"}},
	{name: "bad interfaces", text: in("targets: 192.0.2.1:80", "interfaces: [lo, sixteen-bytes-xx, '', eth0, eth0]"), want: []string{
		`4:18: interface "lo"`, `4:22: interface "sixteen-bytes-xx"`, `4:40: interface ""`, `4:50: interface "eth0" is named twice`,
	}},
	{name: "wild card", text: in("targets: 192.0.2.1:80", "interfaces: eth+"), want: []string{`4:17: interface "eth+"`}, beyond: true},
	{name: "bad places", text: in("targets: 192.0.2.1:80", "to: 10.0.0.1", "probe_at: www.example.com:80"), want: []string{`4:9: to is "10.0.0.1"`, `5:15: probe_at is "www.example.com:80"`}},
	{name: "to port 0", text: in("targets: 192.0.2.1:80", "to: 10.0.0.1:0"), want: []string{`4:9: to is "10.0.0.1:0"`}},
	{name: "bad defaults", text: "defaults: {backend: iptable, warmup: 10, rate: 0}\n" + in("targets: 192.0.2.1:80"), want: []string{
		`1:21: backend is "iptable" (did you mean "iptables"?`, "1:38: warmup is the number 10", "1:48: rate 0 is out of range",
	}},
	{name: "bad warmup", text: "defaults: {warmup: soon}\n" + in("targets: 192.0.2.1:80"), want: []string{`1:20: warmup is "soon"`}},
	{name: "long warmup", text: "defaults: {warmup: 25h}\n" + in("targets: 192.0.2.1:80"), want: []string{`1:20: warmup "25h" is out of range`}, beyond: true},
	{name: "defaults a list", text: "defaults: [a]\n" + in("targets: 192.0.2.1:80"), want: []string{"1:11: defaults is a list"}},

	{name: "key twice", text: "version: 1\nservices: [{targets: 192.0.2.1:80}]\nversion: 1\n", want: []string{"3:1: version is given twice; first at FILE:1:1"}, beyond: true},
	{name: "tab", text: "version: 1\nservices:\n\t- targets: a:80\n", want: []string{"3:1: a tab in the indentation"}, beyond: true},
	{name: "second document", text: in("targets: a:80") + "---\nversion: 1\n", want: []string{"4:1: a second document begins here"}, beyond: true},
	{name: "anchor", text: "version: &one 1\n", want: []string{"1:10: an anchor"}, beyond: true},
	{name: "alias", text: "version: *one\n", want: []string{"1:10: an alias"}, beyond: true},
	{name: "merge", text: "version: 1\n<<: {}\n", want: []string{"2:1: a merge key"}, beyond: true},
	{name: "tag", text: "version: !!int 1\n", want: []string{"1:10: a tag"}, beyond: true},
	{name: "block", text: in("name: |", "  web"), want: []string{"3:11: a block of text"}, beyond: true},
	{name: "directive", text: "%YAML 1.2\n---\nversion: 1\n", want: []string{"1:1: a directive"}, beyond: true},
	{name: "at sign", text: in("targets: @fleet.txt"), want: []string{"3:14: '@' is a reserved character"}, beyond: true},
	{name: "open quote", text: in(`name: "web`), want: []string{"3:11: could not find end character"}, beyond: true},
	{name: "open bracket", text: in("destinations: [192.0.2.1", "ports: 80"), want: []string{"4:5: not YAML"}, beyond: true},
	{name: "indentation", text: "version: 1\nservices:\n  - name: web\n  ports: 80\n", want: []string{"4:3: not YAML"}, beyond: true},
	{name: "UTF-16", text: "\xff\xfev\x00", want: []string{"1:1: UTF-16 text"}, beyond: true},
	{name: "binary", text: "version: 1\n\x7fELF\x00", want: []string{"2:1: a byte or character that text does not have"}, beyond: true},
	{name: "Latin-1", text: "version: 1\n# caf\xe9\n", want: []string{`2:6: a byte or character that text does not have: "\xe9"`}, beyond: true},
	{name: "escape", text: "version: 1\n# \x1b[2J\n", want: []string{`2:3: a byte or character that text does not have: "\x1b"`}, beyond: true},
	{name: "too deep", text: strings.Repeat("[", 100), want: []string{"1:17: nested deeper than 16"}, beyond: true},
	{name: "dashes", text: strings.Repeat("- ", 100_000), want: []string{"1:33: nested deeper than 16"}, beyond: true},
	{name: "colons", text: strings.Repeat("a: ", 1000), want: []string{"nested deeper than 16"}, beyond: true},
	{name: "very many keys", text: strings.Repeat("a: 1\n", 1000), want: []string{"33:2: more than 32 keys"}, beyond: true},
	{name: "brackets", text: strings.Repeat("{}", 1000), want: []string{"1:3: not YAML"}, beyond: true},
	{name: "too large", text: "#" + strings.Repeat(" ", maxText), want: []string{"1:1: more than 1048576 bytes"}, beyond: true},
	{name: "too many words", text: "[" + strings.Repeat("a,", maxTokens/2) + "]", want: []string{"more than 300000 words"}, beyond: true},
}
