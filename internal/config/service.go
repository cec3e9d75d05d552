package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"

	"github.com/synproxyctl/synproxyctl/internal/target"
)

// MaxTargets bounds how many targets a configuration has: each an address, or a
// prefix, and a port.
const MaxTargets = target.MaxTargets

// A Service is one entry of the list of services, or one included list.
type Service struct {
	Settings
	// Name is what the service is called; empty for an included list.
	Name string
	// Place is where it begins.
	Place Place

	destinations []spot
	ports        []uint16
	lists        []targetList
	toSaid       Place
}

// A spot is a target, or a destination without its ports yet, and where it stands.
type spot struct {
	target.Spec
	place Place
}

// A targetList is a file of targets that is named, and where it is.
type targetList struct {
	path  string // relative to the folder of the configuration, if not absolute
	place Place
	specs []target.Spec // that it holds; nil until it is read
}

const (
	nameAdvice   = "use letters, digits, dots, hyphens and underscores, at most 63"
	portAdvice   = "ports as numbers from 1 to 65535 or ranges of them, such as [80, 443, 8000-8010]"
	hostAdvice   = "addresses, names or prefixes, such as [192.0.2.1, 2001:db8::1, www.example.com, 198.51.100.0/24]"
	targetAdvice = `targets as on the command line, such as ["192.0.2.1:80", "[2001:db8::1]:443", "@FILE"]`
)

// service reads one entry of the list of services.
func (d *decoder) service(n ast.Node, base Service) *Service {
	s := base
	s.Place = d.at(n)
	before := len(d.faults.List)
	seen := d.mapping(n, "a service", "each service as {name: web, destinations: [192.0.2.1], ports: [443]}", append([]key{
		{"name", func(n ast.Node) { s.Name = d.serviceName(n) }},
		{"destinations", func(n ast.Node) { s.destinations = append(s.destinations, d.hosts(n)...) }},
		{"ports", func(n ast.Node) { s.ports = d.ports(n) }},
		{"targets", func(n ast.Node) { d.targets(n, &s) }},
	}, d.settings(&s.Settings)...))
	if len(d.faults.List) > before {
		return nil // what is missing in it may be what is wrong
	}
	_, hosts := seen["destinations"]
	_, words := seen["targets"]
	ports, said := seen["ports"]
	switch {
	case !hosts && !words:
		d.fault(s.Place, "no-destination", "give it destinations: and ports:, or targets:", "a service without destinations")
	case hosts && len(s.ports) == 0:
		d.fault(s.Place, "no-port", "give it ports:, such as [443]", "a service without ports")
	case said && !hosts && words:
		d.fault(ports, "no-destination", "targets name their ports themselves: take ports: out, or write destinations:", "ports without destinations")
	}
	s.toSaid = s.Place
	if at, ok := seen["to"]; ok {
		s.toSaid = at
	}
	// Each host gets the ports, which may be written below it.
	for i := range s.destinations {
		if len(s.destinations[i].Ports) == 0 {
			s.destinations[i].Ports = s.ports
		}
	}
	return &s
}

func (d *decoder) serviceName(n ast.Node) string {
	text, ok := d.text(n, "name", "a name, in quotes if it is a number")
	if ok && !isName(text) {
		d.fault(d.at(n), "bad-value", nameAdvice, "name is %s", quote(text))
	}
	return text
}

// isName tells whether a text is fit for the name of a service.
func isName(text string) bool {
	const longest = 63
	return text != "" && len(text) <= longest && text[0] != '.' && text[0] != '-' && !strings.ContainsFunc(text, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-", r)
	})
}

// hosts reads destinations, which get their ports later.
func (d *decoder) hosts(n ast.Node) []spot {
	var found []spot
	for _, v := range d.filled(n, "destinations", "write "+hostAdvice) {
		at := d.at(v)
		text, ok := "", false
		if s, nested := v.(*ast.SequenceNode); nested && len(s.Values) == 1 {
			// [2001:db8::1], as everywhere else, is a list to YAML.
			text, ok = d.text(s.Values[0], "destinations", hostAdvice)
		} else {
			text, ok = d.text(v, "destinations", hostAdvice)
		}
		if !ok {
			continue
		}
		spec, err := target.ParseHost(text)
		if err != nil {
			d.targetFault(at, err)
			continue
		}
		found = append(found, spot{spec, at})
	}
	return found
}

// targets reads targets as on the command line, and the names of lists of them.
func (d *decoder) targets(n ast.Node, s *Service) {
	d.texts(d.filled(n, "targets", "write "+targetAdvice), "targets", targetAdvice, func(at Place, text string) {
		if path, isList := strings.CutPrefix(text, "@"); isList {
			d.include(s, at, path)
			return
		}
		spec, err := target.Parse(text)
		if err != nil {
			d.targetFault(at, err)
			return
		}
		s.destinations = append(s.destinations, spot{spec, at})
	})
}

// include takes the name of a list.
func (d *decoder) include(s *Service, at Place, path string) {
	switch {
	case path == "":
		d.fault(at, "bad-value", "write the name of a file with one target on each line", "a list without a name")
	case strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }):
		d.fault(at, "bad-value", "rename the file", "a list with a name that cannot be printed: %s", quote(path))
	default:
		s.lists = append(s.lists, targetList{path: filepath.Clean(path), place: at})
	}
}

func (d *decoder) targetFault(at Place, err error) {
	var e *target.Error
	if errors.As(err, &e) {
		d.fault(at, "bad-target", e.Advice, "%s", e)
		return
	}
	d.fault(at, "bad-target", "write "+targetAdvice, "%s", err)
}

// ports reads numbers, and ranges of them.
func (d *decoder) ports(n ast.Node) []uint16 {
	var ports []uint16
	var seen [1 << 16]bool
	const most = 1<<16 - 1
	for _, v := range d.filled(n, "ports", "write "+portAdvice) {
		at := d.at(v)
		word := ""
		switch v := v.(type) {
		case *ast.IntegerNode:
			word = v.GetToken().Value
		case *ast.StringNode:
			word = v.Value
		default:
			d.wrongType(v, "ports", portAdvice)
			continue
		}
		from, to, ranged := strings.Cut(word, "-")
		if !ranged || from == "" {
			to = from
			if from == "" { // a negative number
				from, to = word, word
			}
		}
		low, ok := d.decimal(at, strings.TrimSpace(from), "port", portAdvice, 1, most)
		if !ok {
			continue
		}
		high, ok := d.decimal(at, strings.TrimSpace(to), "port", portAdvice, 1, most)
		switch {
		case !ok:
			continue
		case high < low:
			d.fault(at, "out-of-range", fmt.Sprintf("write %d-%d", high, low), "the range of ports %s goes down", quote(word))
			continue
		}
		for p := low; p <= high; p++ {
			if seen[p] {
				d.fault(at, "double", "name each port once", "port %s is named twice", strconv.Itoa(p))
				break
			}
			seen[p] = true
			ports = append(ports, uint16(p))
		}
	}
	return ports
}
