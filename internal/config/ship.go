package config

import _ "embed"

// Example is a complete configuration with comments, which [Parse] takes.
//
//go:embed example.yaml
var Example string

// Schema is the JSON Schema of configurations, for editors. It knows their form,
// not what a target is nor whether two of them overlap.
//
//go:embed schema.json
var Schema string
