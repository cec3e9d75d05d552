package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// conntrackCount returns how many connections the host's kernel tracks.
func conntrackCount(t testing.TB, host *lab.Host) int {
	t.Helper()
	value, err := host.Sysctl("net.netfilter.nf_conntrack_count")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dump returns everything that the product could change on a host, for a comparison of before and after: the rules
// as seen by all four iptables programs and by nft, the ipsets, and every sysctl of the network namespace. Counters,
// time stamps, and how the kernel hashes a set at the moment are left out, and nothing else.
func dump(t testing.TB, host *lab.Host) string {
	t.Helper()
	var b strings.Builder
	for _, save := range []string{
		"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save",
	} {
		fmt.Fprintf(&b, "== %s\n%s", save, normalise(run(t, host, save)))
	}
	fmt.Fprintf(&b, "== nft list ruleset\n%s", sortElements(normalise(run(t, host, "nft", "--stateless", "list", "ruleset"))))
	fmt.Fprintf(&b, "== ipset save\n%s", setHash.ReplaceAllString(run(t, host, "ipset", "save", "-sorted"), ""))
	fmt.Fprintf(&b, "== sysctl\n%s", sysctls(t, host))
	return b.String()
}

var (
	remark   = regexp.MustCompile(`(?m)^#.*\n`)
	chainHit = regexp.MustCompile(`(?m)\[\d+:\d+\]`)
	ruleHit  = regexp.MustCompile(`counter packets \d+ bytes \d+`)
	setHash  = regexp.MustCompile(` (hashsize|bucketsize|initval) \S+| packets \d+ bytes \d+`)
)

// normalise takes the comments, which carry the time, and the counters out of a listing of rules.
func normalise(rules string) string {
	rules = remark.ReplaceAllString(rules, "")
	rules = chainHit.ReplaceAllString(rules, "[0:0]")
	return ruleHit.ReplaceAllString(rules, "counter")
}

var elements = regexp.MustCompile(`(?s)elements = \{([^{}]*)\}`)

// sortElements puts the elements of each set in order, a line each: nft shows them in that of the kernel's hash.
func sortElements(listing string) string {
	return elements.ReplaceAllStringFunc(listing, func(found string) string {
		list := strings.Split(elements.FindStringSubmatch(found)[1], ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		slices.Sort(list)
		return "elements = {\n" + strings.Join(list, "\n") + "\n}"
	})
}

// sysctls lists every setting below /proc/sys/net as the host sees it. nf_conntrack_count is a reading, not a setting.
func sysctls(t testing.TB, host *lab.Host) string {
	t.Helper()
	const root = "/proc/sys/net"
	var b strings.Builder
	err := host.Do(func() error {
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "nf_conntrack_count" {
				return err
			}
			value, err := os.ReadFile(path)
			if err != nil && !unreadable(err) {
				return err
			}
			fmt.Fprintf(&b, "%s=%s\n", strings.TrimPrefix(path, root+"/"), strings.TrimSpace(string(value)))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// unreadable tells the errors of settings that are only for writing (route/flush) or not set (stable_secret).
func unreadable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL)
}
