package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// errForeign says that a rule uses what this package has no type for.
var errForeign = errors.New("not one of our rules")

// ParseRule reads the words of a rule after "-A CHAIN" into matches and target.
// What it does not know is no error: the rule comes back with Foreign set.
// An unclosed quotation mark is one, and a line break outside of quotes.
func ParseRule(family Family, table Table, chain, spec string) (Rule, error) {
	rule, err := parseRule(family, table, chain, spec)
	if err != nil {
		return Rule{}, fmt.Errorf("rule %.200q: %w", spec, err)
	}
	return rule, nil
}

func parseRule(family Family, table Table, chain, spec string) (Rule, error) {
	words, err := split(spec)
	if err != nil {
		return Rule{}, err
	}
	rule := Rule{Family: family, Table: table, Chain: chain}
	p := parser{words: words, family: family, rule: &rule}
	if err := p.run(); err != nil {
		return Rule{Family: family, Table: table, Chain: chain, Foreign: spec}, nil //nolint:nilerr // foreign is an answer
	}
	rule.Matches = rule.sorted()
	return rule, nil
}

// parser reads one rule. Only the exact grammar that iptables-save prints, and
// the few synonyms that iptables(8) accepts for what we print, are known.
type parser struct {
	words  []string
	family Family
	rule   *Rule
	not    bool // a "!" came just before
	tcp    *TCP // the protocol, when "-p tcp" has come
}

func (p *parser) run() error {
	for len(p.words) > 0 {
		word := p.words[0]
		p.words = p.words[1:]
		if word == "!" {
			if p.not {
				return errForeign
			}
			p.not = true
			continue
		}
		if err := p.option(word); err != nil {
			return err
		}
		if p.not {
			return errForeign // what came does not take a negation here
		}
	}
	if p.not {
		return errForeign
	}
	if p.tcp != nil {
		return p.match(*p.tcp)
	}
	return nil
}

// next takes the value of an option.
func (p *parser) next() (string, error) {
	if len(p.words) == 0 {
		return "", errForeign
	}
	word := p.words[0]
	p.words = p.words[1:]
	return word, nil
}

// negated takes the "!" that came before.
func (p *parser) negated() bool {
	was := p.not
	p.not = false
	return was
}

// match adds a match; a kind that is there already makes the rule foreign.
func (p *parser) match(m Match) error {
	if slices.ContainsFunc(p.rule.Matches, func(o Match) bool { return o.rank() == m.rank() }) {
		return errForeign
	}
	p.rule.Matches = append(p.rule.Matches, m)
	return nil
}

func (p *parser) option(word string) error {
	switch word {
	case "-s", "--source", "-d", "--destination":
		return p.address(word)
	case "-i", "--in-interface":
		name, err := p.next()
		if err != nil {
			return err
		}
		return p.match(InInterface{name, p.negated()})
	case "-p", "--protocol":
		name, err := p.next()
		if err != nil || p.tcp != nil || (name != "tcp" && name != "6") {
			return errForeign
		}
		p.tcp = &TCP{}
		return nil
	case "-m", "--match":
		return p.extension()
	case "--sport", "--dport", "--tcp-flags", "--syn":
		return p.tcpOption(word)
	case "-j", "--jump":
		return p.target()
	}
	return errForeign
}

func (p *parser) address(word string) error {
	text, err := p.next()
	if err != nil {
		return err
	}
	prefix, err := p.prefix(text)
	if err != nil {
		return err
	}
	if strings.HasPrefix(strings.TrimLeft(word, "-"), "s") {
		return p.match(Source{prefix, p.negated()})
	}
	return p.match(Destination{prefix, p.negated()})
}

// prefix reads an address, with a length or without.
func (p *parser) prefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, errForeign
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if FamilyOf(prefix.Addr()) != p.family || prefix != prefix.Masked() {
		return netip.Prefix{}, errForeign
	}
	return prefix, nil
}

// original reads the two options of [Original], in the order of iptables-save.
func (p *parser) original() error {
	destination, err := p.value("--ctorigdst")
	if err != nil {
		return err
	}
	prefix, err := p.prefix(destination)
	if err != nil {
		return err
	}
	port, err := p.value("--ctorigdstport")
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return errForeign
	}
	return p.match(Original{prefix, uint16(n)})
}

func (p *parser) extension() error {
	name, err := p.next()
	if err != nil {
		return err
	}
	switch name {
	case "tcp":
		if p.tcp == nil {
			return errForeign
		}
		return nil // its options follow, in any place
	case "conntrack":
		if len(p.words) > 0 && p.words[0] == "--ctorigdst" {
			return p.original()
		}
		neg, value, err := p.negatable("--ctstate", true)
		if err != nil {
			return err
		}
		if value == stateDNAT {
			return p.match(Translated{neg})
		}
		if neg {
			return errForeign
		}
		set, err := splitBits(value, stateNames[:])
		if err != nil {
			return errForeign
		}
		return p.match(CTState{States(set)})
	case "addrtype":
		return p.addrType()
	case "owner":
		neg, _, err := p.negatable("--socket-exists", false)
		if err != nil {
			return err
		}
		return p.match(Socket{neg})
	case "u32":
		value, err := p.value("--u32")
		if err != nil {
			return err
		}
		return p.u32(value)
	case "set":
		return p.members()
	case "comment":
		value, err := p.value("--comment")
		if err != nil {
			return err
		}
		if !validComment(value) {
			return errForeign
		}
		return p.match(Comment{value})
	}
	return errForeign
}

// validComment reports whether a [Comment] can hold the text.
func validComment(text string) bool {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	return text != "" && len(text) <= 255 && !strings.ContainsFunc(text, control)
}

func (p *parser) members() error {
	name, err := p.value("--match-set")
	if err != nil || !strings.HasPrefix(name, SetPrefix) {
		return errForeign
	}
	which, err := p.next()
	if err != nil || which != "dst,dst" && which != "src,src" {
		return errForeign
	}
	m := Members{Set: name, Source: which == "src,src", Count: true}
	if len(p.words) > 1 && p.words[0] == "!" && p.words[1] == "--update-counters" {
		m.Count, p.words = false, p.words[2:]
	}
	return p.match(m)
}

func (p *parser) addrType() error {
	if i := slices.Index(p.words, "--dst-type"); i == 0 || i == 1 {
		neg, value, err := p.negatable("--dst-type", true)
		if err != nil || value != "LOCAL" {
			return errForeign
		}
		return p.match(DestinationType{neg})
	}
	neg, value, err := p.negatable("--src-type", true)
	if err != nil || value != "LOCAL" {
		return errForeign
	}
	return p.match(SourceType{neg})
}

// value takes exactly the given option and returns its value.
func (p *parser) value(option string) (string, error) {
	neg, value, err := p.negatable(option, true)
	if err != nil || neg {
		return "", errForeign
	}
	return value, nil
}

func (p *parser) negatable(option string, hasValue bool) (neg bool, value string, err error) {
	word, err := p.next()
	if err == nil && word == "!" {
		neg = true
		word, err = p.next()
	}
	if err != nil || word != option {
		return false, "", errForeign
	}
	if hasValue {
		value, err = p.next()
	}
	return neg, value, err
}

func (p *parser) u32(value string) error {
	location, want, ok := strings.Cut(value, "=")
	offset, mask, ok2 := strings.Cut(location, "&")
	if !ok || !ok2 {
		return errForeign
	}
	o, err1 := strconv.ParseUint(offset, 0, 8)
	m, err2 := strconv.ParseUint(mask, 0, 32)
	v, err3 := strconv.ParseUint(want, 0, 32)
	if errors.Join(err1, err2, err3) != nil {
		return errForeign
	}
	return p.match(U32{uint8(o), uint32(m), uint32(v)})
}

func (p *parser) tcpOption(word string) error {
	if p.tcp == nil || p.not {
		return errForeign
	}
	switch word {
	case "--syn":
		if p.tcp.Mask != 0 {
			return errForeign
		}
		p.tcp.Mask, p.tcp.Set = FIN|SYN|RST|ACK, SYN
		return nil
	case "--tcp-flags":
		mask, err := p.flags()
		if err != nil {
			return err
		}
		set, err := p.flags()
		if err != nil || mask == 0 || set&^mask != 0 || p.tcp.Mask != 0 {
			return errForeign
		}
		p.tcp.Mask, p.tcp.Set = mask, set
		return nil
	}
	value, err := p.next()
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(value, 10, 16)
	port := &p.tcp.DstPort
	if word == "--sport" {
		port = &p.tcp.SrcPort
	}
	if err != nil || n == 0 || *port != 0 {
		return errForeign // a range among others
	}
	*port = uint16(n)
	return nil
}

func (p *parser) flags() (TCPFlags, error) {
	word, err := p.next()
	if err != nil {
		return 0, err
	}
	switch word {
	case "NONE":
		return 0, nil
	case "ALL":
		return FIN | SYN | RST | PSH | ACK | URG, nil
	}
	set, err := splitBits(word, flagNames[:])
	if err != nil {
		return 0, errForeign
	}
	return TCPFlags(set), nil
}
