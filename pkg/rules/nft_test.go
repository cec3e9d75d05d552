package rules

import (
	"fmt"
	"strings"
	"testing"
)

// What people are shown of the rules of nftables.
func TestNFTStringGolden(t *testing.T) {
	for name, p := range goldenPolicies() {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for _, r := range p.Rules(NFTables) {
				fmt.Fprintf(&b, "%s %s %s\n", nftFamily(r.Family), chainID{r.Family, r.Table, "", r.Chain}.nftName(), r.NFTString())
			}
			printSets(&b, p.Ruleset(NFTables))
			golden(t, "nft-"+name, b.String())
		})
	}
}
