package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/synproxyctl/synproxyctl/bench/report"
)

// contender is a way to protect the services of a site, or none.
type contender struct {
	name string
	// most is how many services it is asked to protect at most; 0 means no limit. Beyond it a figure would tell nothing
	// new and take very long.
	most    int
	install func(context.Context, *site) error
}

// contenders are all of them, in the order of the tables.
func contenders() []contender {
	all := []contender{
		{name: report.None, install: func(context.Context, *site) error { return nil }},
		{name: report.StockPrefix + "iptables-legacy", most: 10_000, install: stockXtables("iptables-legacy")},
		{name: report.StockPrefix + "iptables-nft", most: 10_000, install: stockXtables("iptables-nft")},
		{name: report.StockPrefix + "nft", most: 10_000, install: stockNft},
		{name: report.FireHOL, most: 1_000, install: startFirehol},
	}
	for _, backend := range report.Backends {
		all = append(all, contender{name: report.Tool + backend.Name, install: applyTool(backend.Name)})
	}
	return all
}

// chosen are those that can protect that many services and that the options want.
func (o options) chosen(size int) []contender {
	var all []contender
	for _, c := range contenders() {
		if (c.most == 0 || size <= c.most) && o.wants(c.name) {
			all = append(all, c)
		}
	}
	return all
}

// scratch is where the files of a site are. It vanishes with the namespaces.
func (s *site) scratch() (string, error) {
	dir := filepath.Join("/run/bench", s.Firewall.Namespace())
	return dir, os.MkdirAll(dir, 0o700)
}

// feed runs a program on the firewall with a standard input.
func (s *site) feed(ctx context.Context, input, name string, args ...string) error {
	cmd := s.Firewall.Command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, tail(out))
	}
	return nil
}

// tail is the end of what a program said.
func tail(out []byte) []byte {
	out = bytes.TrimSpace(out)
	return out[max(0, len(out)-1000):]
}

// targets writes a list of services for synproxyctl.
func (s *site) targets(name string, services []int) (string, error) {
	dir, err := s.scratch()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, i := range services {
		fmt.Fprintln(&b, addrPort(i, s.port))
	}
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(b.String()), 0o600)
}

// applyArgs is the command line that protects a list of targets. The options are those that the server has.
func (s *site) applyArgs(backend, list string) []string {
	first := "client"
	if s.port == bannerPort {
		first = "server"
	}
	return []string{
		"apply", "@" + list, "--backend", backend, "--mss", "1460", "--wscale", serverScale, "--sack-perm", "--timestamps",
		"--first", first, "--hook", "forward", "--warmup", "0s",
	}
}

// applyTool protects the services by synproxyctl.
func applyTool(backend string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		list, err := s.targets("targets", s.services())
		if err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, installLimit)
		defer cancel()
		err = s.feed(limited, "", program(), s.applyArgs(backend, list)...)
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit) && exit.ExitCode() == exitUnsupported:
			return fmt.Errorf("not supported in this version: %w", errLeftOut)
		case limited.Err() != nil && ctx.Err() == nil:
			return fmt.Errorf("not ready after %v: %w", installLimit, errLeftOut)
		}
		return err
	}
}

// exitUnsupported is the exit status of synproxyctl for what it cannot do here.
const exitUnsupported = 5

// installLimit is how long a contender may take to protect the services of a site before it is left out.
const installLimit = 5 * time.Minute
