package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/synproxyctl/synproxyctl/internal/target"
)

// maxList bounds a list of targets, in bytes: 100,000 of them with comments.
const maxList = 32 << 20

// Load reads a configuration and the lists that it names, which lie relative to
// its own folder. The path "-" is in; its lists lie relative to the working
// directory. The error is a [*Faults].
func Load(path string, in io.Reader) (*Config, error) {
	return reader{}.load(path, in)
}

// NameOf returns what the configuration of a path is called in messages.
func NameOf(path string) string {
	if path == "-" {
		return Stdin
	}
	return path
}

func (r reader) load(path string, in io.Reader) (*Config, error) {
	name, dir := NameOf(path), filepath.Dir(path)
	var text []byte
	var err error
	if path == "-" {
		dir = ""
		text, err = stream(in, name, maxText)
	} else {
		text, err = r.file(path, maxText)
	}
	if err != nil {
		return nil, err
	}
	c, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	if err := r.lists(c, dir); err != nil {
		return nil, err
	}
	return c, nil
}

// lists reads the lists that a configuration names.
func (r reader) lists(c *Config, dir string) error {
	var faults Faults
	first := map[string]Place{}
	total := 0
	for _, s := range c.Services {
		for i := range s.lists {
			l := &s.lists[i]
			path := l.path
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			if before, twice := first[path]; twice {
				faults.add(&Fault{Place: l.place, Code: "double", Problem: fmt.Sprintf("the list %s is named twice; first at %s", quote(path), before), Advice: "name each list once"})
				continue
			}
			first[path] = l.place
			specs, err := r.list(path)
			if err != nil {
				faults.adopt(err, l.place)
				continue
			}
			if total += len(specs); total > MaxTargets {
				return alone(l.place, "too-many", "give prefixes instead of single addresses", "more than %d targets", MaxTargets)
			}
			l.path, l.specs = path, specs
		}
	}
	return faults.err()
}

func (r reader) list(path string) ([]target.Spec, error) {
	text, err := r.file(path, maxList)
	if err != nil {
		return nil, err
	}
	return target.ParseList(bytes.NewReader(text), path)
}

// adopt takes the faults of a list that is named at a place.
func (fs *Faults) adopt(err error, named Place) {
	var own *Faults
	var one *target.Error
	joined, several := err.(interface{ Unwrap() []error })
	switch {
	case errors.As(err, &own):
		for _, f := range own.List {
			if f.Line == 0 {
				f.Problem += "; named at " + named.String()
			}
			fs.add(f)
		}
		fs.More += own.More
	case several:
		for _, e := range joined.Unwrap() {
			fs.adopt(e, named)
		}
	case errors.As(err, &one):
		file, problem := one.Where, *one
		if one.Line > 0 {
			file = file[:len(file)-len(fmt.Sprintf(":%d", one.Line))]
		}
		problem.Where = ""
		fs.add(&Fault{Place: Place{File: file, Line: one.Line}, Code: "bad-target", Problem: problem.Error(), Advice: one.Advice, Err: one.Err})
	default:
		fs.add(&Fault{Place: named, Code: "bad-target", Problem: err.Error(), Advice: "correct the list", Err: err})
	}
}
