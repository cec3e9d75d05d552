// Package docs has the tests of the pages beside it.
package docs

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// Every block of Go in go-api.md is part of a file of examples, which the compiler has seen.
func TestGoBlocksAreExamples(t *testing.T) {
	files, err := filepath.Glob("../pkg/*/example_test.go")
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	var examples strings.Builder
	for _, name := range append(files, "example_test.go") {
		examples.WriteString(flat(read(t, name)))
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```").FindAllStringSubmatch(read(t, "go-api.md"), -1)
	if len(blocks) < 5 {
		t.Fatalf("only %d blocks of Go: the search is broken", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(examples.String(), flat(b[1])) {
			t.Errorf("this block of go-api.md is in no example:\n%s", b[1])
		}
	}
}

// flat takes the indentation away, which a function in a page has less of.
func flat(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimLeft(lines[i], "\t ")
	}
	return strings.Join(lines, "\n")
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What the page does works on the real kernel, in a namespace that vanishes, with each backend.
func TestExamplesInTheKernel(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, fs.ErrPermission) && os.Getenv("CI") == "" {
		t.Skip("a network namespace needs CAP_SYS_ADMIN")
	} else if err != nil {
		t.Fatal(err)
	}
	mss := uint16(1460)
	policy := rules.Policy{Services: []rules.Service{{
		Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: 443, Hook: rules.Forward, Options: rules.Options{MSS: &mss, Timestamps: true},
	}}}
	done, err := set()
	if err != nil || len(done) != 1 {
		t.Fatal(done, err, advise(err))
	}
	for _, name := range []string{rules.NFTables, rules.NFT, rules.Legacy} {
		backend, err := rules.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []rules.Policy{policy, policy, {}} {
			if err := put(context.Background(), backend, p); err != nil {
				t.Errorf("%s: %v (%s)", name, err, advise(err))
			}
		}
	}
	outcomes, err := sysctl.Default.Restore(done)
	if err != nil || outcomes[0].State != sysctl.Restored {
		t.Error(outcomes, err)
	}
	results, err := ask(context.Background(), []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")})
	if err != nil || len(results) != 1 || results[0].Verdict.Usable() {
		t.Error(results, err)
	}
}

// The table of how-it-works.md has each chain that rules of ours can be in.
func TestChainsAreTold(t *testing.T) {
	page := read(t, "how-it-works.md")
	table := page[strings.Index(page, "### What stands where"):strings.Index(page, "## The states")]
	var services []rules.Service
	for i, hook := range []rules.Hook{rules.Input, rules.Forward} {
		for j, mode := range []rules.Mode{rules.ModeTracked, rules.ModeNotrack} {
			s := rules.Service{Destination: netip.MustParsePrefix("192.0.2.1/32"), Port: uint16(1 + 10*i + j), Hook: hook, Mode: mode, SynCookies: j == 0}
			if mode == rules.ModeNotrack {
				s.To = netip.MustParseAddrPort("198.51.100.1:80")
			}
			plain := s
			plain.Port, plain.To = s.Port+5, netip.AddrPort{}
			services = append(services, s, plain)
		}
	}
	policy := rules.Policy{Services: services, Window: true}
	if err := policy.Validate(); err != nil {
		t.Fatal(err)
	}
	told := func(name string) {
		if !regexp.MustCompile("[ `]" + name + "[ `|,]").MatchString(table) {
			t.Errorf("how-it-works.md does not say what stands in %s", name)
		}
	}
	for _, r := range policy.Rules(rules.NFT) {
		if jump, ok := r.Target.(rules.Jump); ok && jump.Chain != "" {
			if !regexp.MustCompile(`(?m)^\|[^|]*\| ` + string(r.Table) + ` [^|]*` + r.Chain + `[^|]*\| [^|]*` + jump.Chain).MatchString(table) {
				t.Errorf("how-it-works.md has no row for %s %s, %s", r.Table, r.Chain, jump.Chain)
			}
			continue
		}
		told(r.Chain)
	}
	for _, r := range policy.Rules(rules.NFTables) {
		if r.Table != rules.Objects {
			told(r.NFTName())
		}
	}
}
