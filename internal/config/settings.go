package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Settings are what can be said of a service, and under defaults of all.
type Settings struct {
	Interfaces []string       // empty: all but lo
	Hook       rules.Hook     // empty: by the routes
	Mode       rules.Mode     // empty: by the host's own filters
	First      rules.First    // empty: found by connecting
	To         netip.AddrPort // not valid: at the destination
	ProbeAt    netip.AddrPort // not valid: the destination
	MSS        *uint16        // nil: probed, as the others
	WScale     *uint8
	SACKPerm   *bool
	Timestamps *bool
}

// Complete reports whether all options are given, so that no probe is needed.
func (s *Settings) Complete() bool {
	return s.MSS != nil && s.WScale != nil && s.SACKPerm != nil && s.Timestamps != nil
}

const auto = "auto"

// keys returns the keys that set s.
func (d *decoder) settings(s *Settings) []key {
	return []key{
		{"interfaces", func(n ast.Node) { s.Interfaces = d.interfaces(n) }},
		{"hook", func(n ast.Node) {
			if word, ok := d.oneOf(n, "hook", auto, string(rules.Input), string(rules.Forward)); ok {
				s.Hook = rules.Hook(strings.TrimPrefix(word, auto))
			}
		}},
		{"mode", func(n ast.Node) {
			if word, ok := d.oneOf(n, "mode", auto, string(rules.ModeTracked), string(rules.ModeNotrack)); ok {
				s.Mode = rules.Mode(strings.TrimPrefix(word, auto))
			}
		}},
		{"first", func(n ast.Node) {
			if word, ok := d.oneOf(n, "first", auto, string(rules.FirstClient), string(rules.FirstServer)); ok {
				s.First = rules.First(strings.TrimPrefix(word, auto))
			}
		}},
		{"to", func(n ast.Node) { s.To = d.addrPort(n, "to") }},
		{"probe_at", func(n ast.Node) { s.ProbeAt = d.addrPort(n, "probe_at") }},
		{"options", func(n ast.Node) { d.options(n, s) }},
	}
}

// options reads the TCP options, or the word that has them all probed.
func (d *decoder) options(n ast.Node, s *Settings) {
	const want = `the options that are known, such as {mss: 1460, wscale: 7, sack_perm: true, timestamps: true}, or the word probe`
	if word, isText := n.(*ast.StringNode); isText {
		if word.Value != "probe" {
			d.wrongType(n, "options", want)
			return
		}
		s.MSS, s.WScale, s.SACKPerm, s.Timestamps = nil, nil, nil, nil
		return
	}
	d.mapping(n, "options", want, []key{
		{"mss", func(n ast.Node) {
			if v, ok := d.number(n, "mss", 88, 65495); ok {
				mss := uint16(v)
				s.MSS = &mss
			}
		}},
		{"wscale", func(n ast.Node) {
			if v, ok := d.number(n, "wscale", 0, 14); ok {
				shift := uint8(v)
				s.WScale = &shift
			}
		}},
		{"sack_perm", func(n ast.Node) { d.yesNo(n, "sack_perm", &s.SACKPerm) }},
		{"timestamps", func(n ast.Node) { d.yesNo(n, "timestamps", &s.Timestamps) }},
	})
}

func (d *decoder) yesNo(n ast.Node, key string, into **bool) {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		d.wrongType(n, key, "true or false")
		return
	}
	*into = &b.Value
}

// interfaces reads names of interfaces; an empty list means all but lo.
func (d *decoder) interfaces(n ast.Node) []string {
	var names []string
	d.texts(list(n), "interfaces", "names of interfaces, such as [eth0]", func(at Place, name string) {
		// Whether a name can be that of an interface is known where rules are made.
		trial := rules.Service{Destination: trialAddr, Port: 1, Hook: rules.Input, Interfaces: []string{name}}
		switch err := (rules.Policy{Services: []rules.Service{trial}}).Validate(); {
		case slices.Contains(names, name):
			d.fault(at, "double", "name it once", "interface %s is named twice", quote(name))
		case err != nil:
			d.fault(at, "bad-value", "list them with: ip link", "%s", trialFault(err))
		default:
			names = append(names, name)
		}
	})
	return names
}

// trialAddr is a destination that is never at fault.
var trialAddr = netip.MustParsePrefix("192.0.2.1/32")

// trialFault returns what is wrong with a service that was made to try one
// thing, without the name that it has.
func trialFault(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	_, text, _ = strings.Cut(text, ": ")
	return text
}

// addrPort reads an address and a port.
func (d *decoder) addrPort(n ast.Node, key string) netip.AddrPort {
	const want = "an address and a port in quotes, such as \"192.0.2.1:443\" or \"[2001:db8::1]:443\""
	text, ok := d.text(n, key, want)
	if !ok {
		return netip.AddrPort{}
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil || at.Port() == 0 {
		d.fault(d.at(n), "bad-value", "write "+want, "%s is %s", key, quote(text))
		return netip.AddrPort{}
	}
	return at
}

// duration reads a time with its unit.
func (d *decoder) duration(n ast.Node, key string, most time.Duration) *time.Duration {
	want := "a time with its unit, such as 500ms, 2s or 1m, at most 24h"
	text, ok := d.text(n, key, want)
	if !ok {
		return nil
	}
	t, err := time.ParseDuration(text)
	switch {
	case err != nil:
		d.fault(d.at(n), "bad-value", "write "+want, "%s is %s", key, quote(text))
		return nil
	case t < 0 || t > most:
		d.fault(d.at(n), "out-of-range", "write "+want, "%s %s is out of range", key, quote(text))
		return nil
	}
	return &t
}
