package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const loose = "net.netfilter.nf_conntrack_tcp_loose"

// snapshot is everything on the firewall that the tool could have changed.
type snapshot struct {
	programs []string // those that rules were dumped by
	rules    []string // lines, each with the program's name
	settings []string // key=value
	loose    string
}

// snapshot dumps the firewall.
func (s *stage) snapshot(ctx context.Context) (snapshot, error) {
	var shot snapshot
	for _, name := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		path := findProgram(name)
		if !filepath.IsAbs(path) {
			continue
		}
		text, err := s.topo.Firewall.Run(ctx, path)
		if err != nil {
			return shot, err
		}
		shot.programs = append(shot.programs, name)
		shot.rules = append(shot.rules, dumpLines(name, text)...)
	}
	var err1, err2 error
	shot.settings, err1 = s.settings()
	shot.loose, err2 = s.topo.Firewall.Sysctl(loose)
	return shot, errors.Join(err1, err2)
}

var chainCounters = regexp.MustCompile(`\[\d+:\d+\]$`)

// dumpLines takes comments, which carry the time, and counters out of a dump.
func dumpLines(program, text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == ':' {
			line = chainCounters.ReplaceAllString(line, "")
		}
		lines = append(lines, program+": "+line)
	}
	return lines
}

// settings lists every setting below /proc/sys/net as the firewall sees it; nf_conntrack_count is a reading.
func (s *stage) settings() ([]string, error) {
	const root = "/proc/sys/net"
	var lines []string
	err := s.topo.Firewall.Do(func() error {
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "nf_conntrack_count" {
				return err
			}
			value, err := os.ReadFile(path)
			switch {
			case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EIO), errors.Is(err, unix.EINVAL):
				return nil // only for writing (route/flush), or not set (stable_secret)
			case err != nil:
				return err
			}
			lines = append(lines, strings.TrimPrefix(path, root+"/")+"="+strings.TrimSpace(string(value)))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("settings of the firewall: %w", err)
	}
	return lines, nil
}

// differences lists the lines that are only in s, with "-", or only in after, with "+". If it is the order alone
// that differs, it says so.
func (s snapshot) differences(after snapshot) []string {
	diff := []string{}
	old, now := append(slices.Clone(s.rules), s.settings...), append(slices.Clone(after.rules), after.settings...)
	if slices.Equal(old, now) {
		return diff
	}
	count := map[string]int{}
	for _, line := range now {
		count[line]++
	}
	for _, line := range old {
		if count[line]--; count[line] < 0 {
			diff = append(diff, "- "+line)
		}
	}
	for _, line := range now {
		if count[line] > 0 {
			count[line]--
			diff = append(diff, "+ "+line)
		}
	}
	if len(diff) == 0 {
		diff = append(diff, "the order of the lines")
	}
	return diff
}
