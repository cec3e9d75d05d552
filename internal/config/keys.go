package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Key is a key of configurations, for people.
type Key struct {
	// Where is what it stands in: empty for the file itself, defaults, services
	// or options.
	Where string
	Name  string
	Takes string // such as "auto | input | forward"; empty if its description says it
	About string
}

// member is a member of a JSON object.
type member struct {
	name  string
	value node
}

// node is a part of the schema.
type node struct {
	Ref         string          `json:"$ref"`
	Description string          `json:"description"`
	Type        string          `json:"type"`
	Const       json.RawMessage `json:"const"`
	Enum        []string        `json:"enum"`
	Minimum     *int            `json:"minimum"`
	Maximum     *int            `json:"maximum"`
	AnyOf       []node          `json:"anyOf"`
	Properties  json.RawMessage `json:"properties"`
	Defs        map[string]node `json:"$defs"`
}

// Keys returns every key that there is, in the order of the schema, which is
// their documentation.
func Keys() ([]Key, error) {
	var root node
	if err := json.Unmarshal([]byte(Schema), &root); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	service, options := root.Defs["service"], node{}
	for _, form := range root.Defs["options"].AnyOf {
		if form.Properties != nil {
			options = form
		}
	}
	top, err := members(root.Properties)
	if err != nil {
		return nil, err
	}
	var defaults node
	for _, m := range top {
		if m.name == "defaults" {
			defaults = m.value
		}
	}
	var keys []Key
	for _, part := range []struct {
		where string
		of    node
	}{{"", root}, {"defaults", defaults}, {"services", service}, {"options", options}} {
		list, err := members(part.of.Properties)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			n := root.resolve(m.value)
			keys = append(keys, Key{Where: part.where, Name: m.name, Takes: n.takes(), About: n.Description})
		}
	}
	return keys, nil
}

// resolve follows a reference, whose own description counts for less.
func (n node) resolve(of node) node {
	name, ok := strings.CutPrefix(of.Ref, "#/$defs/")
	if !ok {
		return of
	}
	to := n.resolve(n.Defs[name])
	if of.Description != "" {
		to.Description = of.Description
	}
	return to
}

// takes says in short what values there are; empty if there are too many.
func (n node) takes() string {
	switch {
	case n.Const != nil:
		return string(n.Const)
	case len(n.Enum) > 0:
		return strings.Join(n.Enum, " | ")
	case n.Type == "boolean":
		return "true | false"
	case n.Type == "integer" && n.Minimum != nil && n.Maximum != nil:
		return fmt.Sprintf("%d to %d", *n.Minimum, *n.Maximum)
	}
	return ""
}

// members returns what an object has in the order in which it is written.
func members(object json.RawMessage) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	var list []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("schema: %w", err)
		}
		m := member{name: fmt.Sprint(name)}
		if err := d.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("schema: %s: %w", m.name, err)
		}
		list = append(list, m)
	}
	return list, nil
}
