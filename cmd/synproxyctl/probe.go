package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/target"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

const (
	defaultTimeout = time.Second
	maxTimeout     = time.Minute
	maxRate        = 1_000_000
)

var probeCommand = command{
	name: "probe", usage: "ask a backend for its TCP options by a SYN", args: "TARGET...",
	help: "Sends SYNs from a raw socket and tells what the SYN+ACK says: the values that SYNPROXY must announce.\n" + targetHelp,
	flags: append(probeFlags(),
		&cli.StringFlag{Name: "interface", Usage: "send through this interface; for an address of this machine: where clients come in"},
		&cli.StringFlag{Name: "expect", Usage: "fail (exit 3) unless every answer is this: direct or proxied"},
		&cli.BoolFlag{Name: "connect", DisableDefaultText: true, Usage: "also connect, to find out who speaks first"}),
	do: runProbe,
}

type probed struct {
	Results []probe.Result `json:"results"`
}

func runProbe(e env, c *cli.Context) (*answer, error) {
	expect := probe.Verdict(c.String("expect"))
	if c.IsSet("expect") && !expect.Usable() {
		return nil, protect.Errorf(protect.Usage, "give direct or proxied", "--expect %q: not an answer", expect)
	}
	cfg, err := probeConfig(c, c.String("interface"), progress(e.err, "probing"))
	if err != nil {
		return nil, err
	}
	cfg.Connect = c.Bool("connect")
	targets, err := readTargets(c.Context, e, c.Args().Slice(), target.Target.CheckProbe)
	if err != nil {
		return nil, err
	}
	if err := checkInterface(cfg.Interface); err != nil {
		return nil, err
	}
	if err := kernel.Require(kernel.NetRaw); err != nil {
		return nil, protect.Errorf(protect.Permission, "run it as root (sudo), or: setcap cap_net_raw+ep synproxyctl", "probing needs a raw socket: %w", err)
	}
	asked := make([]probe.Target, len(targets))
	for i, t := range targets {
		asked[i] = probe.Target{Name: nameOf(t), Addr: t.AddrPort()}
	}
	results, err := probe.Probe(c.Context, cfg, asked)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	return &answer{
		result: probed{results},
		text:   func(w io.Writer, p paint) { writeProbe(w, p, results) },
		no: slices.ContainsFunc(results, func(r probe.Result) bool {
			return !r.Verdict.Usable() || expect != "" && r.Verdict != expect
		}),
	}, nil
}

// nameOf is how results name a target: by the user's name for the host.
func nameOf(t target.Target) string {
	if t.Name == "" {
		return t.String()
	}
	return t.Name + ":" + strconv.Itoa(int(t.Port))
}

func checkInterface(name string) error {
	if name == "" {
		return nil
	}
	there, err := kernel.InterfaceExists(name)
	switch {
	case errors.Is(err, kernel.ErrInterfaceName):
		return protect.Errorf(protect.Usage, "list them with: ip link", "--interface: %w", err)
	case err != nil:
		return err
	case !there:
		return protect.Errorf(protect.Usage, "list them with: ip link", "--interface %s: %w", name, fs.ErrNotExist)
	}
	return nil
}

func writeProbe(w io.Writer, p paint, results []probe.Result) {
	rows := [][]string{{"TARGET", "ADDRESS", "VERDICT", "MSS", "WSCALE", "SACK", "TIMESTAMPS", "TTL", "RTT", "FIRST"}}
	for _, r := range results {
		verdict := string(r.Verdict)
		if r.Reason != "" {
			verdict += " (" + r.Reason + ")"
		}
		rows = append(rows, []string{
			r.Target, r.Address, verdict, orDash(r.Options.MSS), orDash(r.Options.WScale), yesNo(r, r.Options.SACKPerm),
			yesNo(r, r.Options.Timestamps), orDash(r.TTL), rtt(r), first(r),
		})
	}
	table(w, rows...)
	for _, r := range results {
		if r.Verdict.Usable() {
			fmt.Fprintf(w, "\n%s\n  iptables  -j SYNPROXY %s\n  nft       synproxy %s\n", p.good(r.Target), r.IPTables, r.NFT)
		}
		for _, v := range r.Variants {
			fmt.Fprintf(w, "  variant   %d x %s %s %s\n", v.Count, v.Verdict, v.Reason, v.Options.IPTables())
		}
		for _, n := range r.Notes {
			fmt.Fprintf(w, "  note      %s: %s\n", r.Target, printable(n))
		}
	}
}

func orDash[T uint8 | uint16](v *T) string {
	if v == nil {
		return "-"
	}
	return strconv.Itoa(int(*v))
}

func yesNo(r probe.Result, yes bool) string {
	switch {
	case !r.Verdict.Usable():
		return "-"
	case yes:
		return "yes"
	}
	return "no"
}

func rtt(r probe.Result) string {
	if r.RTTMicros == nil {
		return "-"
	}
	return fmt.Sprintf("%.1fms", float64(*r.RTTMicros)/1000)
}

func first(r probe.Result) string {
	if r.Speaks == nil {
		return "-"
	}
	return string(*r.Speaks)
}
