package firewall

import (
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// xtablesVerdicts are the targets of iptables that end a chain, or do something
// that is of interest here.
var xtablesVerdicts = map[string]VerdictKind{
	"ACCEPT": Accept, "DROP": Drop, "REJECT": Reject, "RETURN": Return,
	"QUEUE": Queue, "NFQUEUE": Queue, "TARPIT": Drop, "STEAL": Drop, "DELUDE": Reject, "CHAOS": Drop,
	"SYNPROXY": Synproxy, "TPROXY": Queue,
	"DNAT": Accept, "SNAT": Accept, "MASQUERADE": Accept, "REDIRECT": Accept, "NETMAP": Accept,
}

// xtablesContinue are the targets after which the next rule is asked.
var xtablesContinue = map[string]bool{
	"LOG": true, "NFLOG": true, "ULOG": true, "TRACE": true, "AUDIT": true,
	"MARK": true, "CONNMARK": true, "CLASSIFY": true, "TOS": true, "DSCP": true, "TTL": true, "HL": true, "ECN": true,
	"TCPMSS": true, "TCPOPTSTRIP": true, "CHECKSUM": true, "CT": true, "NOTRACK": true,
	"SET": true, "TEE": true, "IDLETIMER": true, "LED": true, "RATEEST": true, "SECMARK": true, "CONNSECMARK": true,
	"HMARK": true, "ACCOUNT": true, "SYSRQ": true, "DNETMAP": true,
}

// target reads what follows -j or -g; its options are the rest of the words.
func (p *xtablesParser) target(name string, isGoto bool) {
	switch {
	case isGoto:
		p.rule.Verdict = Verdict{Kind: Goto, Chain: name}
		return
	case p.isChain(name):
		p.rule.Verdict = Verdict{Kind: Jump, Chain: name}
		return
	case !xtablesContinue[name]:
		kind, ok := xtablesVerdicts[name]
		if !ok {
			kind = Other
		}
		p.rule.Verdict.Kind = kind
	}
	switch name {
	case "NOTRACK":
		p.act(Action{Kind: Notrack})
	case "CT":
		p.conntrackTarget()
	case "MARK":
		p.act(Action{Kind: Mark, Mark: p.markSet()})
	case "CONNMARK":
		p.connMark()
	case "SYNPROXY":
		p.act(Action{Kind: AnySynproxy})
	case "DNAT":
		p.act(Action{Kind: Translate, To: dnatTarget(p.optionValue("--to-destination"))})
	case "REDIRECT":
		port, many := firstPort(p.optionValue("--to-ports"))
		p.act(Action{Kind: Translate, To: Target{Port: port, Many: many}})
	case "NETMAP":
		p.act(Action{Kind: Translate, To: Target{Many: true}})
	}
}

func (p *xtablesParser) act(a Action) { p.rule.Actions = append(p.rule.Actions, a) }

// conntrackTarget reads the options of CT. Zone 0 is what packets have anyway.
func (p *xtablesParser) conntrackTarget() {
	for i, word := range p.words {
		switch word {
		case "--notrack":
			p.act(Action{Kind: Notrack})
		case "--zone", "--zone-orig", "--zone-reply":
			if i+1 < len(p.words) && p.words[i+1] != "0" {
				p.act(Action{Kind: Zone})
			}
		}
	}
}

// connMark reads the options of CONNMARK: restoring sets the packet's mark.
func (p *xtablesParser) connMark() {
	for _, word := range p.words {
		if word == "--restore-mark" {
			p.act(Action{Kind: Mark, Mark: MarkChange{Restored: true}})
			return
		}
	}
	p.act(Action{Kind: ConnMark, Mark: p.markSet()})
}

// markSet reads "--set-xmark value/mask", as which iptables-save prints every
// way to set a mark.
func (p *xtablesParser) markSet() MarkChange {
	value, mask, hasMask := strings.Cut(p.optionValue("--set-xmark"), "/")
	v, err1 := strconv.ParseUint(value, 0, 32)
	m, err2 := uint64(math.MaxUint32), error(nil)
	if hasMask {
		m, err2 = strconv.ParseUint(mask, 0, 32)
	}
	return MarkChange{Value: uint32(v), Mask: uint32(m | v), Known: err1 == nil && err2 == nil}
}

// optionValue returns the value of an option of the target.
func (p *xtablesParser) optionValue(name string) string {
	for i, word := range p.words {
		if word == name && i+1 < len(p.words) {
			return p.words[i+1]
		}
	}
	return ""
}

// dnatTarget reads "[address[-address]][:port[-port]]", IPv6 in brackets if
// there is a port.
func dnatTarget(text string) Target {
	host, ports := text, ""
	switch i := strings.LastIndexByte(text, ':'); {
	case strings.HasPrefix(text, "["):
		host, ports, _ = strings.Cut(text[1:], "]")
		ports = strings.TrimPrefix(ports, ":")
	case i >= 0 && strings.Count(text, ":") == 1:
		host, ports = text[:i], text[i+1:]
	}
	first, last, isRange := strings.Cut(host, "-")
	t := Target{Many: isRange && first != last}
	if host != "" {
		a, err := netip.ParseAddr(first)
		if err != nil {
			return Target{Many: true}
		}
		t.Addr = a
	}
	port, many := firstPort(ports)
	t.Port, t.Many = port, t.Many || many
	return t
}

// firstPort reads "port[-port]"; nothing is 0.
func firstPort(text string) (port uint16, many bool) {
	if text == "" {
		return 0, false
	}
	first, last, isRange := strings.Cut(text, "-")
	n, err := strconv.ParseUint(first, 10, 16)
	return uint16(n), err != nil || isRange && first != last
}
