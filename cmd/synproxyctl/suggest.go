package main

import "github.com/synproxyctl/synproxyctl/internal/spell"

// suggest returns a hint that names what was probably meant, dashes included,
// if one of the names is near; else the fallback.
func suggest(word, dashes string, names []string, fallback string) string {
	best := spell.Nearest(word, names)
	if best == "" {
		return fallback
	}
	return "did you mean " + dashes + best + "?"
}
