package config

import (
	"bytes"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/synproxyctl/synproxyctl/internal/target"
)

// Version is the only version of the form of configurations.
const Version = 1

// A Config is what one file asks for.
type Config struct {
	// Backend is who makes the rules: auto or the name of a backend; empty if
	// the file does not say.
	Backend string
	// Warmup is how long to watch before the protection begins; nil if the file
	// does not say.
	Warmup *time.Duration
	// Rate is how many SYNs a second a probe sends; 0 if the file does not say.
	Rate int
	// Services are in the order of the file; those of include: come last.
	Services []*Service

	name string
}

// Parse reads a configuration. The name is that of the file, for messages. It
// opens no file: what is included is named in the result, and read by [Load].
// The error is a [*Faults].
func Parse(name string, text []byte) (*Config, error) {
	if line := listLine(text); line > 0 {
		return nil, alone(Place{name, line, 1}, "wrong-type", "apply takes it as @FILE; or name it in a configuration: include: FILE", "this is a list of targets, not a configuration")
	}
	root, err := tree(name, text)
	if err != nil {
		return nil, err
	}
	d := &decoder{name: name}
	c := d.config(root)
	if err := d.faults.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// config reads the whole. Defaults come first, wherever they stand.
func (d *decoder) config(root ast.Node) *Config {
	const (
		maxRate   = 1_000_000
		maxWarmup = 24 * time.Hour
	)
	c := &Config{name: d.name}
	var base Service
	var services, include, version ast.Node
	hold := func(into *ast.Node) func(ast.Node) { return func(n ast.Node) { *into = n } }
	seen := d.mapping(root, "the file", "version: 1, and services: below it", []key{
		{"version", hold(&version)},
		{"defaults", func(n ast.Node) {
			d.mapping(n, "defaults", "keys and values, such as {interfaces: [eth0]}", append([]key{
				{"ports", func(n ast.Node) { base.ports = d.ports(n) }},
				{"backend", func(n ast.Node) { c.Backend, _ = d.oneOf(n, "backend", backends...) }},
				{"warmup", func(n ast.Node) { c.Warmup = d.duration(n, "warmup", maxWarmup) }},
				{"rate", func(n ast.Node) { c.Rate, _ = d.number(n, "rate", 1, maxRate) }},
			}, d.settings(&base.Settings)...))
		}},
		{"services", hold(&services)},
		{"include", hold(&include)},
	})
	if seen == nil {
		return c
	}
	start := Place{d.name, 1, 1}
	if _, ok := seen["version"]; !ok {
		d.fault(start, "no-version", "begin with version: 1", "no version")
	}
	if version != nil {
		if v, ok := d.number(version, "version", 1, 1<<31-1); ok && v != Version {
			d.fault(d.at(version), "version", "write version: 1, or use a newer synproxyctl", "version %d is not known to this program", v)
		}
	}
	if services != nil {
		d.services(services, base, c)
	}
	if include != nil {
		const want = `names of files in quotes, such as ["fleet.txt"]`
		d.texts(d.filled(include, "include", "write "+want), "include", want, func(at Place, text string) {
			s := base
			s.Place, s.toSaid = at, at
			if len(text) > 1 && text[0] == '@' {
				text = text[1:]
			}
			d.include(&s, at, text)
			c.Services = append(c.Services, &s)
		})
	}
	if len(c.Services) == 0 && len(d.faults.List) == 0 {
		d.fault(start, "no-service", "give it services:, or include: with lists of targets; to take a protection away use synproxyctl revert", "nothing to protect")
	}
	return c
}

// listLine returns the line in which a list of targets begins; 0 if the text is
// no such list. What begins like one cannot be a configuration.
func listLine(text []byte) int {
	number := 0
	for line := range bytes.Lines(text[:min(len(text), maxText)]) {
		number++
		word, _, _ := strings.Cut(string(line), "#")
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		if _, err := target.Parse(word); err != nil {
			return 0
		}
		return number
	}
	return 0
}

var backends = []string{auto, "iptables", "iptables-nft", "iptables-legacy", "nftables"}

// services reads the list of services. Their names are unique.
func (d *decoder) services(n ast.Node, base Service, c *Config) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.wrongType(n, "services", "a list: a line with a dash for each service")
		return
	}
	named := map[string]Place{}
	for _, v := range s.Values {
		one := d.service(v, base)
		if one == nil {
			continue
		}
		if before, twice := named[one.Name]; twice && one.Name != "" {
			d.fault(one.Place, "double-name", "give each service a name of its own", "the name %s is taken: %s", one.Name, before)
		}
		named[one.Name] = one.Place
		c.Services = append(c.Services, one)
	}
}
