package main

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/target"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

// targetHelp explains TARGET, wherever it is taken.
const targetHelp = `TARGET is HOST:PORT[,PORT...]; HOST is an IPv4 address, [IPv6], or a name (all its addresses).
@FILE, or - for standard input, reads one target a line; # starts a comment.`

// readTargets reads the targets of a command line and resolves their names.
func readTargets(ctx context.Context, e env, words []string, check func(target.Target) error) ([]target.Target, error) {
	if len(words) == 0 {
		return nil, protect.Errorf(protect.Usage, "for example 192.0.2.1:443, or @FILE", "no target")
	}
	specs, err := target.Read(words, e.in)
	if err != nil {
		return nil, usage(err)
	}
	targets, err := target.Expand(ctx, e.resolver, specs)
	if err != nil {
		return nil, usage(err)
	}
	for _, t := range targets {
		if err := check(t); err != nil {
			return nil, usage(err)
		}
	}
	return targets, nil
}

// usage gives an error the code for bad usage, unless it is an interrupt, or a
// name server's that may do better next time.
func usage(err error) error {
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &dns) && !dns.IsNotFound:
		return protect.Errorf(protect.Failed, protect.HintOf(err), "%w", err)
	}
	return protect.Errorf(protect.Usage, protect.HintOf(err), "%w", err)
}

// probeFlags are the flags that say how to probe.
func probeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "count", Value: 3, Usage: "samples for each target, 1 to 64"},
		&cli.DurationFlag{Name: "timeout", Value: defaultTimeout, Usage: "how long to wait for each answer, at most 1m"},
		&cli.StringFlag{Name: "source", Usage: "ask from this `IP` of the machine: the answer may depend on the route back to it"},
		&cli.IntFlag{Name: "rate", DefaultText: "500 to 15000, so that all take 3 seconds", Usage: "SYNs a second over all targets, 1 to 1000000"},
	}
}

// probeConfig reads them.
func probeConfig(c *cli.Context, iface string, b *bar) (probe.Config, error) {
	cfg := probe.Config{
		Count: c.Int("count"), Timeout: c.Duration("timeout"), Interface: iface, Rate: c.Int("rate"), Stage: b.show,
	}
	switch {
	case cfg.Count < 1 || cfg.Count > 64:
		return cfg, outOfRange("count", cfg.Count, "1 to 64")
	case cfg.Timeout <= 0 || cfg.Timeout > maxTimeout:
		return cfg, outOfRange("timeout", cfg.Timeout, "1ms to 1m")
	case c.IsSet("rate") && (cfg.Rate < 1 || cfg.Rate > maxRate):
		return cfg, outOfRange("rate", cfg.Rate, "1 to 1000000")
	}
	if c.IsSet("source") {
		a, err := netip.ParseAddr(c.String("source"))
		if err != nil {
			return cfg, protect.Errorf(protect.Usage, "give an IPv4 or IPv6 address of this machine", "--source %s: not an address", quote(c.String("source")))
		}
		cfg.Source = a.Unmap()
	}
	return cfg, nil
}

// checkSource refuses services that can never be asked from the source address.
func checkSource(source netip.Addr, wishes []protect.Wish) error {
	if !source.IsValid() {
		return nil
	}
	for _, w := range wishes {
		if w.ProbeAt.IsValid() || w.Destination.Addr().Is4() == source.Is4() {
			continue
		}
		return otherFamily(source, w.Name)
	}
	return nil
}

func otherFamily(source netip.Addr, name string) error {
	return protect.Errorf(protect.Usage, "give a source of the target's family, or ask the target without --source",
		"--source %s: target %s is of the other family", source, name)
}

func outOfRange(flag string, value any, limits string) error {
	return protect.Errorf(protect.Usage, "give a value of "+limits, "--%s %v: out of range", flag, value)
}
