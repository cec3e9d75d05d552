package firewall

import (
	"strings"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// xtablesHooks are the built-in chains of each table, with their priorities.
var xtablesHooks = map[string]map[string]int32{
	"raw":      {"PREROUTING": PriorityRaw, "OUTPUT": PriorityRaw},
	"mangle":   {"PREROUTING": PriorityMangle, "INPUT": PriorityMangle, "FORWARD": PriorityMangle, "OUTPUT": PriorityMangle, "POSTROUTING": PriorityMangle},
	"nat":      {"PREROUTING": PriorityDNAT, "INPUT": PrioritySNAT, "OUTPUT": PriorityDNAT, "POSTROUTING": PrioritySNAT},
	"filter":   {"INPUT": PriorityFilter, "FORWARD": PriorityFilter, "OUTPUT": PriorityFilter},
	"security": {"INPUT": PrioritySecurity, "FORWARD": PrioritySecurity, "OUTPUT": PrioritySecurity},
}

// FromDump returns the chains of what iptables-save printed. Conditions that
// this package does not know make their rules obscure; nothing is an error.
func FromDump(origin Origin, d rules.Dump) []Chain {
	family := IP
	if d.Family == rules.IPv6 {
		family = IP6
	}
	names := map[string]bool{} // "table chain"
	for _, c := range d.Chains {
		names[string(c.Table)+" "+c.Name] = true
	}
	var chains []Chain
	for _, c := range d.Chains {
		if ours("", c.Name) {
			continue // which may hold thousands of rules
		}
		chain := Chain{Origin: origin, Family: family, Table: string(c.Table), Name: c.Name, Drops: c.Policy == "DROP"}
		if priority, ok := xtablesHooks[chain.Table][c.Name]; ok && c.Policy != "-" {
			chain.Hook, chain.Priority, chain.Type = Hook(strings.ToLower(c.Name)), priority, "filter"
			if chain.Table == "nat" {
				chain.Type = "nat"
			}
		}
		isChain := func(name string) bool { return names[chain.Table+" "+name] }
		for i, r := range c.Rules {
			rule := parseXtables(d.Family, r.String(), isChain)
			rule.Where, rule.Position = chain.String(), i+1
			rule.Text = "-A " + c.Name + " " + r.String()
			chain.Rules = append(chain.Rules, rule)
		}
		chains = append(chains, chain)
	}
	return chains
}

// splitWords breaks a line of iptables-save into words: double quotes hold
// white space together, and a backslash inside them takes the next byte as it is.
func splitWords(line string) []string {
	var words []string
	var word []byte
	inWord, inQuotes := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case inQuotes && c == '\\' && i+1 < len(line):
			i++
			word = append(word, line[i])
		case c == '"':
			inQuotes, inWord = !inQuotes, true
		case !inQuotes && (c == ' ' || c == '\t' || c == '\n'):
			if inWord {
				words = append(words, string(word))
			}
			word, inWord = word[:0], false
		default:
			word, inWord = append(word, c), true
		}
	}
	if inWord {
		words = append(words, string(word))
	}
	return words
}

// xtablesParser reads the words of one rule.
type xtablesParser struct {
	words   []string
	family  rules.Family
	rule    Rule
	isChain func(string) bool
	module  string // the match that was loaded last
	not     bool   // a "!" came just before
}

// parseXtables reads a rule as iptables-save prints it, from the matches on.
func parseXtables(family rules.Family, spec string, isChain func(string) bool) Rule {
	p := xtablesParser{words: splitWords(spec), family: family, isChain: isChain}
	for len(p.words) > 0 {
		word := p.next()
		switch word {
		case "!":
			p.not = true
			continue
		case "-j", "--jump", "-g", "--goto":
			p.target(p.next(), word == "-g" || word == "--goto")
			return p.rule
		case "-m", "--match":
			p.load(p.next())
		default:
			if !p.option(word) {
				p.rule.Obscure = true
			}
		}
		p.not = false
	}
	return p.rule
}

// next takes a word; after the last one come empty ones.
func (p *xtablesParser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	word := p.words[0]
	p.words = p.words[1:]
	return word
}

// value takes the value of an option, before which a "!" may stand, as older
// versions wrote it.
func (p *xtablesParser) value() string {
	word := p.next()
	if word == "!" {
		p.not = !p.not
		word = p.next()
	}
	return word
}

// add adds a condition, negated if a "!" came.
func (p *xtablesParser) add(c Condition, ok bool) bool {
	if ok {
		c.Not = c.Not != p.not
		p.rule.Conditions = append(p.rule.Conditions, c)
	}
	return ok
}

// load takes note of a match. Of those that are known, an option that is not
// makes the rule obscure; the others do so by themselves.
func (p *xtablesParser) load(module string) {
	p.module = module
	switch module {
	case "tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmp6", "multiport", "conntrack", "state", "addrtype",
		"mark", "comment", "iprange", "owner":
	case "rpfilter":
		p.reversePath()
	default:
		p.rule.Obscure = true
	}
}

// reversePath reads the options of rpfilter: it matches what passes the test.
func (p *xtablesParser) reversePath() {
	c := where(ReversePath, exactly(1))
	for len(p.words) > 0 {
		switch p.words[0] {
		case "--invert":
			c.Not = true
		case "--loose", "--validmark", "--accept-local":
		default:
			p.rule.Conditions = append(p.rule.Conditions, c)
			return
		}
		p.next()
	}
	p.rule.Conditions = append(p.rule.Conditions, c)
}

// owner reads whose socket it must be, which no [Packet] tells. A packet
// without one is nobody's (owner_mt in net/netfilter/xt_owner.c, Linux 6.18).
func (p *xtablesParser) owner() bool {
	p.value()
	if !p.not {
		p.add(where(Owned, exactly(1)), true)
	}
	return false
}

// option reads one option and its values; false if it is not understood.
func (p *xtablesParser) option(word string) bool {
	switch word {
	case "-s", "--source", "--src":
		return p.add(p.addresses(Source, p.value()))
	case "-d", "--destination", "--dst":
		return p.add(p.addresses(Destination, p.value()))
	case "--src-range":
		return p.add(addressRange(Source, p.value()))
	case "--dst-range":
		return p.add(addressRange(Destination, p.value()))
	case "-i", "--in-interface":
		return p.add(interfaceNamed(InInterface, p.value()))
	case "-o", "--out-interface":
		return p.add(interfaceNamed(OutInterface, p.value()))
	case "-p", "--protocol":
		return p.add(protocolNamed(p.value()))
	case "--sport", "--source-port", "--dport", "--destination-port",
		"--sports", "--source-ports", "--dports", "--destination-ports", "--ports":
		return p.ports(word)
	case "--tcp-flags":
		return p.add(tcpFlags(p.value(), p.next()))
	case "--syn":
		return p.add(tcpFlags("FIN,SYN,RST,ACK", "SYN"))
	case "--ctstate", "--state":
		return p.add(states(p.value()))
	case "--src-type":
		return p.add(addressTypes(SourceType, p.value()))
	case "--dst-type":
		return p.add(addressTypes(DestinationType, p.value()))
	case "--mark":
		return p.module == "mark" && p.add(markValue(p.value()))
	case "--socket-exists":
		return p.add(where(Owned, exactly(1)), true)
	case "--uid-owner", "--gid-owner":
		return p.owner()
	case "--comment":
		p.next()
		return true
	}
	return false
}
