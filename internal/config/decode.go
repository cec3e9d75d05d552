package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/synproxyctl/synproxyctl/internal/spell"
)

// decoder walks a tree and collects what is wrong with it.
type decoder struct {
	name   string
	faults Faults
}

// at returns where a value begins.
func (d *decoder) at(n ast.Node) Place {
	switch v := n.(type) {
	case *ast.MappingNode:
		if len(v.Values) > 0 && !v.IsFlowStyle {
			return tokenPlace(d.name, v.Values[0].Key.GetToken())
		}
	case *ast.MappingValueNode:
		return tokenPlace(d.name, v.Key.GetToken())
	}
	return tokenPlace(d.name, n.GetToken())
}

func (d *decoder) fault(at Place, code, advice, format string, args ...any) {
	d.faults.add(&Fault{Place: at, Code: code, Problem: fmt.Sprintf(format, args...), Advice: advice})
}

func (d *decoder) wrongType(n ast.Node, key, want string) {
	d.fault(d.at(n), "wrong-type", "write "+want, "%s is %s", key, kindOf(n))
}

// A key is one that a mapping may have.
type key struct {
	name string
	read func(n ast.Node)
}

// mapping reads a mapping whose keys are among those that are known. What is
// said of the mapping in messages is its name. It returns where each key stands.
func (d *decoder) mapping(n ast.Node, what, example string, keys []key) map[string]Place {
	var values []*ast.MappingValueNode
	switch v := n.(type) {
	case *ast.MappingNode:
		values = v.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{v}
	default:
		d.wrongType(n, what, example)
		return nil
	}
	seen := map[string]Place{}
	for _, v := range values {
		word := v.Key.GetToken().Value
		at := tokenPlace(d.name, v.Key.GetToken())
		i := slices.IndexFunc(keys, func(k key) bool { return k.name == word })
		before, twice := seen[word]
		switch {
		case i < 0:
			d.fault(at, "unknown-key", adviseKey(word, keys), "unknown key %s in %s", quote(word), what)
		case twice:
			d.fault(at, "double-key", "keep one of them", "%s is given twice; first at %s", word, before)
		case isNull(v.Value):
			d.fault(at, "no-value", "give it a value, or take the line out", "%s has no value", word)
		default:
			keys[i].read(v.Value)
		}
		if !twice {
			seen[word] = at
		}
	}
	return seen
}

func isNull(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return n == nil || null
}

// adviseKey tells what was probably meant by a key that is not known here.
func adviseKey(word string, keys []key) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	if strings.Contains(word, ":") {
		return "put a space behind the colon"
	}
	word = strings.ReplaceAll(strings.ToLower(word), "-", "_")
	if near := spell.Nearest(word, names); near != "" {
		return "did you mean " + strconv.Quote(near) + "?"
	}
	for place, known := range homes {
		if slices.Contains(known, word) {
			return "write it " + place
		}
	}
	return "known are " + strings.Join(names, ", ")
}

// homes tells where keys belong that people write elsewhere.
var homes = map[string][]string{
	"under options:":                   {"mss", "wscale", "sack_perm", "timestamps"},
	"under defaults:":                  {"backend", "warmup", "rate"},
	"under defaults:, or in a service": {"interface", "interfaces", "hook", "mode", "first", "options"},
	"in a service":                     {"name", "destination", "destinations", "target", "targets", "port", "ports", "to", "probe_at"},
	"at the left margin":               {"version", "services", "include"},
}

// list returns the values of a list; a single value is a list of one.
func list(n ast.Node) []ast.Node {
	if s, ok := n.(*ast.SequenceNode); ok {
		return s.Values
	}
	return []ast.Node{n}
}

// filled is [list] for lists that must not be empty.
func (d *decoder) filled(n ast.Node, key, want string) []ast.Node {
	values := list(n)
	if len(values) == 0 {
		d.fault(d.at(n), "no-value", want+", or take the line out", "%s is an empty list", key)
	}
	return values
}

// text reads a text; ok is false if it is none.
func (d *decoder) text(n ast.Node, key, want string) (text string, ok bool) {
	s, ok := n.(*ast.StringNode)
	if !ok {
		d.wrongType(n, key, want)
		return "", false
	}
	return s.Value, true
}

// texts reads texts, each with its place.
func (d *decoder) texts(values []ast.Node, key, want string, take func(at Place, text string)) {
	for _, v := range values {
		if text, ok := d.text(v, key, want); ok {
			take(d.at(v), text)
		}
	}
}

// number reads a whole decimal number within limits; ok is false if it is none.
func (d *decoder) number(n ast.Node, key string, least, most int) (value int, ok bool) {
	want := fmt.Sprintf("a number from %d to %d", least, most)
	i, isInt := n.(*ast.IntegerNode)
	if !isInt {
		d.wrongType(n, key, want)
		return 0, false
	}
	return d.decimal(d.at(n), i.GetToken().Value, key, want, least, most)
}

// decimal reads a word as a whole decimal number. Other forms that YAML knows,
// such as 0x50, are more often a mistake than meant.
func (d *decoder) decimal(at Place, word, key, want string, least, most int) (value int, ok bool) {
	digits := strings.TrimPrefix(word, "-")
	plain := digits != "" && strings.Trim(digits, "0123456789") == "" && (digits == "0" || digits[0] != '0')
	if !plain {
		d.fault(at, "wrong-type", "write "+want, "%s is %s, not a plain decimal number", key, quote(word))
		return 0, false
	}
	value, err := strconv.Atoi(word)
	if err != nil || value < least || value > most {
		d.fault(at, "out-of-range", "write "+want, "%s %s is out of range", key, quoteNumber(word))
		return 0, false
	}
	return value, true
}

// quoteNumber shortens a number of hostile length.
func quoteNumber(word string) string {
	const longest = 20
	if len(word) > longest {
		return word[:longest] + "..."
	}
	return word
}

// oneOf reads a text that is one of a few words; ok is false if it is none.
func (d *decoder) oneOf(n ast.Node, key string, words ...string) (word string, ok bool) {
	want := strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
	word, ok = d.text(n, key, want)
	if !ok {
		return "", false
	}
	if !slices.Contains(words, word) {
		advice := "write " + want
		if near := spell.Nearest(word, words); near != "" {
			advice = "did you mean " + strconv.Quote(near) + "? It is one of " + want
		}
		d.fault(d.at(n), "unknown-value", advice, "%s is %s", key, quote(word))
		return "", false
	}
	return word, true
}
