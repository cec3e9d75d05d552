package rules

import (
	"net/netip"
	"strconv"
)

func (p *parser) target() error {
	name, err := p.next()
	if err != nil || p.rule.Target != nil {
		return errForeign
	}
	switch name {
	case string(Accept), string(Drop):
		p.rule.Target = Verdict(name)
	case "NOTRACK":
		p.rule.Target = Notrack{}
	case "CT":
		if len(p.words) != 1 || p.words[0] != "--notrack" {
			return errForeign
		}
		p.words, p.rule.Target = nil, Notrack{}
	case "SYNPROXY":
		return p.synproxy()
	case "DNAT":
		value, err := p.value("--to-destination")
		if err != nil {
			return err
		}
		to, err := netip.ParseAddrPort(value)
		if err != nil || to.Port() == 0 || to.Addr().Zone() != "" || FamilyOf(to.Addr()) != p.family {
			return errForeign
		}
		p.rule.Target = DNAT{to}
	case "TCPOPTSTRIP":
		value, err := p.value("--strip-options")
		if err != nil {
			return err
		}
		kinds, err := parseKinds(value)
		if err != nil {
			return errForeign
		}
		p.rule.Target = TCPOptStrip{kinds}
	default:
		// Only a chain of ours is surely a chain: a name might be an extension.
		if !ours(name) {
			return errForeign
		}
		p.rule.Target = Jump{name}
	}
	return nil
}

func (p *parser) synproxy() error {
	if len(p.words) == 2 && p.words[0] == "--map" { // ours, in comments of nft
		p.rule.Target, p.words = Lookup{p.words[1]}, nil
		return nil
	}
	var o Options
	for len(p.words) > 0 {
		word, _ := p.next()
		switch word {
		case "--sack-perm":
			o.SACKPerm = true
		case "--timestamp":
			o.Timestamps = true
		case "--wscale", "--mss":
			value, err := p.next()
			if err != nil {
				return err
			}
			n, err := strconv.ParseUint(value, 10, 16)
			switch {
			case err != nil:
				return errForeign
			case word == "--mss" && o.MSS == nil:
				mss := uint16(n)
				o.MSS = &mss
			case word == "--wscale" && o.WScale == nil && n <= 0xff:
				shift := uint8(n)
				o.WScale = &shift
			default:
				return errForeign
			}
		default:
			return errForeign // --ecn among others
		}
	}
	p.rule.Target = SYNPROXY{o}
	return nil
}
