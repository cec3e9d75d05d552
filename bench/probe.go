package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/synproxyctl/synproxyctl/bench/report"
)

// mostHping is how many targets hping3 is asked about: it takes one at a time.
const mostHping = 1_000

// prober asks targets, which all answer: a list of ADDR:PORT or of addresses, one a line.
type prober struct {
	name    string
	most    int // targets; 0 means no limit
	slow    int // from so many targets on, only the first repetition
	command func(list, addresses string) []string
}

func probers() []prober {
	return []prober{
		// As many SYNs a second as the targets can stand is the user's to say; the default is gentle.
		{report.ToolProbe, 0, 0, func(list, _ string) []string {
			return []string{program(), "probe", "@" + list, "--count", "1", "--rate", "20000", "--json"}
		}},
		{report.ToolProbe + ", 3 samples", 0, 0, func(list, _ string) []string {
			return []string{program(), "probe", "@" + list, "--rate", "20000", "--json"}
		}},
		{report.Nmap, 0, 0, func(_, addresses string) []string {
			return []string{"nmap", "-sS", "-n", "-Pn", "-p", fmt.Sprint(servicePort), "-iL", addresses}
		}},
		// It takes one target only, so people write a loop.
		{"hping3 -S", mostHping, mostHping, func(_, addresses string) []string {
			const loop = `while read -r a; do hping3 -S -p "$1" -c 1 -q "$a" >/dev/null 2>&1 </dev/null || exit; done <"$2"`
			return []string{"sh", "-c", loop, "sh", fmt.Sprint(servicePort), addresses}
		}},
	}
}

// measureProbe times how long it takes to ask many answering targets.
func (b *bench) measureProbe(ctx context.Context) error {
	s, err := newSite(ctx, b.world, contender{name: "none"}, maxServices, servicePort, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	list, addresses := filepath.Join(dir, "probe-targets"), filepath.Join(dir, "probe-addresses")
	for _, n := range b.probeSizes {
		var with, without strings.Builder
		for i := range n {
			fmt.Fprintln(&with, addrPort(i, servicePort))
			fmt.Fprintln(&without, service(i))
		}
		err := errors.Join(os.WriteFile(list, []byte(with.String()), 0o600), os.WriteFile(addresses, []byte(without.String()), 0o600))
		if err != nil {
			return err
		}
		for rep := range b.reps {
			for _, p := range probers() {
				if !b.wants(p.name) || p.most > 0 && n > p.most || p.slow > 0 && n >= p.slow && rep > 0 {
					continue
				}
				if err := b.probe(ctx, s, p, p.command(list, addresses), n, rep); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// probe times one repetition of one prober.
func (b *bench) probe(ctx context.Context, s *site, p prober, command []string, n, rep int) error {
	before, err := s.answers()
	if err != nil {
		return err
	}
	c, err := timed(ctx, s.Client, command...)
	if err != nil {
		return fmt.Errorf("%s, %d targets: %w", p.name, n, err)
	}
	after, err := s.answers()
	if err != nil {
		return err
	}
	// Whoever is fast because he did not ask is out.
	if after-before < uint64(n) {
		return fmt.Errorf("%s: only %d of %d targets have answered", p.name, after-before, n)
	}
	b.results.Add(report.Probe, p.name, n, c.Wall.Seconds())
	b.results.Add(report.ProbeCPU, p.name, n, c.CPU.Seconds())
	b.results.Add(report.ProbeMemory, p.name, n, float64(c.Memory)/1e6)
	b.say("%-28s %6d targets, %d: %.3fs, %.0f MB", p.name, n, rep+1, c.Wall.Seconds(), float64(c.Memory)/1e6)
	return nil
}

// answers is how many packets the server has sent so far.
func (s *site) answers() (uint64, error) {
	link, err := s.Server.Netlink().LinkByName("eth0")
	if err != nil {
		return 0, err
	}
	return link.Attrs().Statistics.TxPackets, nil
}
