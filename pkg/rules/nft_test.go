package rules

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
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

// nftPolicies returns random policies, and those whose rules are the longest.
func nftPolicies() []Policy {
	var all []Policy
	for seed := range uint64(100) {
		all = append(all, generator{rand.New(rand.NewPCG(seed, 3))}.policy())
	}
	longest := Service{
		Destination: pfx("2001:db8:1111:2222:3333:4444:5555:6666/128"), Port: 65535, Interfaces: []string{"fifteen-bytes-x", "#ifteen-bytes-x"},
		Options: Options{MSS: ptr[uint16](65535), WScale: ptr[uint8](14), SACKPerm: true, Timestamps: true},
	}
	for _, hook := range []Hook{Input, Forward} {
		for _, mode := range []Mode{ModeTracked, ModeNotrack} {
			for _, first := range []First{FirstClient, FirstServer} {
				for _, cookies := range []bool{false, true} {
					s := longest
					s.Hook, s.Mode, s.First, s.SynCookies = hook, mode, first, cookies
					network, another := s, s
					network.Destination = pfx("2001:db8:1111:2222:3333:4444:5555:4444/126")
					another.Port = 65534
					all = append(all, Policy{Services: []Service{s}}, Policy{Services: []Service{network}}, Policy{Services: []Service{s, another}})
					if mode == ModeNotrack {
						s.To = netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:7777]:65535")
						all = append(all, Policy{Services: []Service{s}})
					}
				}
			}
		}
	}
	return all
}

// encoded returns the attributes of a rule as they are sent.
func encoded(t *testing.T, r Rule) []byte {
	t.Helper()
	list, err := r.expressions()
	if err != nil {
		t.Fatalf("%s: %v", r, err)
	}
	return appendAttrs(nil, list)
}

// Each rule must come back from what the kernel holds of it, or verify would call
// it missing.
func TestNFTRulesComeBack(t *testing.T) {
	const maxUserdata = 256 // NFT_USERDATA_MAXLEN in linux/netfilter/nf_tables.h
	longest := 0
	for _, p := range nftPolicies() {
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Rules(NFTables) {
			if r.Table == Objects {
				if o, err := optionsNamed(r.Chain); err != nil || !cmp.Equal(r.Target, Target(SYNPROXY{o})) {
					t.Errorf("object %s: %v, %v", r.Chain, o, err)
				}
				continue
			}
			said := comment(r.String())
			longest = max(longest, len(said))
			if len(said) > maxUserdata || commented(said) != r.String() {
				t.Errorf("%s: a comment of %d bytes comes back as %q", r, len(said), commented(said))
			}
			id := chainID{r.Family, r.Table, "", r.Chain}
			if back := nftID(r.Family, id.nftName()); back != id {
				t.Errorf("chain %v is named %s, which is %v", id, id.nftName(), back)
			}
			got := readRule(id, said, encoded(t, r), 7)
			if diff := cmp.Diff(r, got, compareTypes); diff != "" {
				t.Errorf("%s: -want +got:\n%s", r, diff)
			}
		}
	}
	t.Logf("the longest comment has %d of %d bytes", longest, maxUserdata)
}

// leaves returns where the values and the kinds of attributes are in their
// encoding: whatever says something. The counts of a counter say nothing, nor
// does what fills up.
func leaves(list []attr, begin int) (at []int) {
	for _, a := range list {
		size := len(appendAttrs(nil, []attr{a}))
		at = append(at, begin+2)
		switch {
		case isCounter(a.nested):
			at = append(at, leaves(a.nested[:1], begin+4)...)
		case a.nested != nil:
			at = append(at, leaves(a.nested, begin+4)...)
		default:
			for i := range a.data {
				at = append(at, begin+4+i)
			}
		}
		begin += size
	}
	return at
}

// A rule that somebody has changed in a single byte is not ours any more,
// whatever its comment says.
func TestNFTRulesChanged(t *testing.T) {
	seen := map[string]bool{}
	for i, p := range nftPolicies() {
		for _, r := range p.Rules(NFTables) {
			// Of the rules that differ only in their numbers, a few.
			kind := string(r.Table) + r.Chain + fmt.Sprintf("%T", r.Target)
			for _, m := range r.Matches {
				kind += fmt.Sprintf("%T", m)
			}
			if kind = fmt.Sprint(kind, i%2); r.Table == Objects || seen[kind] {
				continue
			}
			seen[kind] = true
			list, err := r.expressions()
			if err != nil {
				t.Fatal(err)
			}
			id, said, bytes := chainID{r.Family, r.Table, "", r.Chain}, comment(r.String()), encoded(t, r)
			for _, at := range leaves(list, 0) {
				for _, flip := range []byte{1, 2, 0x80} {
					changed := slices.Clone(bytes)
					changed[at] ^= flip
					if got := readRule(id, said, changed, 7); got.Foreign != "a rule of somebody else (handle 7)" {
						t.Fatalf("%s\nwith byte %d changed from %#x to %#x is taken for %s, %q", r, at, bytes[at], changed[at], got, got.Foreign)
					}
				}
			}
			for name, changed := range map[string][]byte{"nothing": nil, "half": bytes[:len(bytes)/8*4], "twice": append(slices.Clone(bytes), bytes...)} {
				if got := readRule(id, said, changed, 7); got.String() == r.String() {
					t.Errorf("%s is read from %s", r, name)
				}
			}
		}
	}
}

// The kernel adds attributes that it has defaults for, and counts.
func TestNFTRuleAsTheKernelTells(t *testing.T) {
	rules := goldenPolicies()["alike"].Rules(NFTables)
	r := rules[slices.IndexFunc(rules, func(r Rule) bool { return r.Foreign == "" })]
	list, err := r.expressions()
	if err != nil {
		t.Fatal(err)
	}
	id, said := chainID{r.Family, r.Table, "", r.Chain}, comment(r.String())
	for _, tt := range []struct {
		name string
		more attr
		ours bool
	}{
		{"a default", leaf(77, make([]byte, 4)), true},
		{"what is not the default", leaf(77, be32(1)), false},
		{"another expression", expression("counter"), false},
	} {
		inner := slices.Clone(list)
		if tt.name == "another expression" {
			inner = append(inner, tt.more)
		} else {
			inner[0] = nest(inner[0].kind, append(slices.Clone(inner[0].nested), tt.more)...)
		}
		if got := readRule(id, said, appendAttrs(nil, inner), 7); (got.Foreign == "") != tt.ours {
			t.Errorf("%s: foreign %q", tt.name, got.Foreign)
		}
	}
	i := slices.IndexFunc(list, func(a attr) bool { return isCounter(a.nested) })
	counted := slices.Clone(list)
	counted[i] = expression("counter", leaf(unix.NFTA_COUNTER_BYTES, binary.BigEndian.AppendUint64(nil, 1e9)), leaf(unix.NFTA_COUNTER_PACKETS, binary.BigEndian.AppendUint64(nil, 1e6)))
	if got := readRule(id, said, appendAttrs(nil, counted), 7); got.Foreign != "" {
		t.Errorf("counted: foreign %q", got.Foreign)
	}
}

func TestCommented(t *testing.T) {
	for _, data := range [][]byte{nil, {0}, {0, 0}, {0, 1}, {1, 2, 'x', 0}, {0, 9, 'x', 0}, {0, 1, 0, 0}} {
		if got := commented(data); got != "" {
			t.Errorf("commented(%v) = %q", data, got)
		}
	}
}
