package e2e

import (
	"flag"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

var full = flag.Bool("full", false, "run every test with every combination of backend, place and mode; else with as many as it takes for each two to meet")

var backends = []string{rules.NFT, rules.Legacy, rules.NFTables}

// turnOf returns the backend whose turn the n-th case of a test is.
func turnOf(n int) string { return backends[n%len(backends)] }

// A combination is how, where and in which mode something is protected.
type combination struct {
	backend string
	place
	mode rules.Mode
}

func (c combination) String() string {
	if c.mode == "" {
		return c.backend + "-" + c.place.String()
	}
	return c.backend + "-" + c.place.String() + "-" + string(c.mode)
}

// combinations returns six in which each two values of backend, hook, family and mode meet, and with -full all.
func combinations() []combination {
	modes := []rules.Mode{rules.ModeTracked, rules.ModeNotrack}
	var list []combination
	for b, backend := range backends {
		for i, p := range places {
			hook, family := i/2, i%2
			for m, mode := range modes {
				if *full || family == (b+hook)%2 && m == (b/2+hook)%2 {
					list = append(list, combination{backend, p, mode})
				}
			}
		}
	}
	return list
}

// stands returns the combinations without the mode.
func stands() []combination {
	var list []combination
	for _, c := range combinations() {
		if c.mode = ""; len(list) == 0 || list[len(list)-1] != c {
			list = append(list, c)
		}
	}
	return list
}
