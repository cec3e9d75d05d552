package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
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
	help: "Sends SYNs from a raw socket and tells what the SYN+ACK says: the values that SYNPROXY must announce. " +
		"Exits 3 if a target gives no usable answer.\n\n" +
		"Thousands of targets are asked at once. By default all SYNs take some 3 seconds, 500 to 15000 a second; say --rate 1000 if " +
		"small firewalls are on the way, which remember each one, or --rate 100000 in a lab. One that is not answered is sent again once.\n\n" + targetHelp,
	examples: `
  synproxyctl probe 192.0.2.1:443 [2001:db8::1]:443
  synproxyctl probe www.example.com:80,443 --connect  who speaks first, too
  synproxyctl probe @servers.txt --count 10 --json    a pool behind one address?
  synproxyctl probe @all.txt --rate 20000             ten thousand in 2 seconds
`,
	flags: append(probeFlags(),
		&cli.StringFlag{Name: "interface", Usage: "send by this interface, `IF`; for an address of this machine: the one that clients come in by"},
		&cli.StringFlag{Name: "expect", Usage: "exit 3 unless every answer is this `ANSWER`, direct or proxied; with --connect: and the connection reaches a server"},
		&cli.BoolFlag{Name: "connect", DisableDefaultText: true, Usage: "also connect, to find out who speaks first"}),
	do: runProbe,
}

// probed is what a run found.
type probed struct {
	Results []probe.Result `json:"results"`
}

func runProbe(e env, c *cli.Context) (*answer, error) {
	expect := probe.Verdict(c.String("expect"))
	if c.IsSet("expect") && !expect.Usable() {
		return nil, protect.Errorf(protect.Usage, "give direct or proxied", "--expect %s: not an answer", quote(string(expect)))
	}
	b := newBar(e.err)
	defer b.wipe()
	cfg, err := probeConfig(c, c.String("interface"), b)
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
	saveMemory(len(targets))
	asked := make([]probe.Target, len(targets))
	for i, t := range targets {
		if cfg.Source.IsValid() && cfg.Source.Is4() != t.Prefix.Addr().Is4() {
			return nil, otherFamily(cfg.Source, nameOf(t))
		}
		asked[i] = probe.Target{Name: nameOf(t), Addr: t.AddrPort()}
	}
	cfg.Stage("probing", 0, len(asked))
	results, err := probe.Probe(c.Context, cfg, asked)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	return &answer{
		result: probed{results},
		text:   func(w io.Writer, p paint) { writeProbe(w, p, results) },
		no: slices.ContainsFunc(results, func(r probe.Result) bool {
			return !r.Verdict.Usable() || expect != "" && (r.Verdict != expect || cfg.Connect && !reached(r))
		}),
	}, nil
}

// reached tells whether a connection got through to the server.
func reached(r probe.Result) bool { return r.Connected != nil && *r.Connected }

// saveMemory makes a run with very many targets spend some processor time,
// which it has, on less memory, of which small machines have little: unless the
// user has an opinion (GOGC), garbage may take a quarter of what is in use.
func saveMemory(targets int) {
	const many = 50_000
	if targets >= many && os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
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
		return protect.Errorf(protect.Usage, "list them with: ip link", "--interface %s: no such interface", name)
	}
	return nil
}

func writeProbe(w io.Writer, p paint, results []probe.Result) {
	named := slices.ContainsFunc(results, func(r probe.Result) bool { return !strings.Contains(r.Target, r.Address) })
	longTable(w, len(results)+1, func(i int) []string {
		row := []string{"TARGET", "ADDRESS", "ANSWER", "MSS", "WSCALE", "SACK", "TS", "TTL", "RTT", "FIRST"}
		if i > 0 {
			row = probeRow(&results[i-1])
		}
		if !named {
			row = slices.Delete(row, 1, 2)
		}
		return row
	})
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

func probeRow(r *probe.Result) []string {
	verdict := string(r.Verdict)
	if r.Reason != "" {
		verdict += " (" + r.Reason + ")"
	}
	sack, ts := "-", "-"
	if r.Verdict.Usable() {
		sack, ts = yesNo(r.Options.SACKPerm), yesNo(r.Options.Timestamps)
	}
	return []string{
		r.Target, r.Address, verdict, orDash(r.Options.MSS), orDash(r.Options.WScale), sack, ts, orDash(r.TTL), rtt(r), first(r),
	}
}

func orDash[T uint8 | uint16](v *T) string {
	if v == nil {
		return "-"
	}
	return strconv.Itoa(int(*v))
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func rtt(r *probe.Result) string {
	if r.RTTMicros == nil {
		return "-"
	}
	return fmt.Sprintf("%.2fms", float64(*r.RTTMicros)/1000)
}

func first(r *probe.Result) string {
	if r.Speaks == nil {
		return "-"
	}
	return string(*r.Speaks)
}
