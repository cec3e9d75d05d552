package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/target"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

var applyCommand = command{
	name: "apply", usage: "protect exactly the given services", args: "TARGET...",
	help: `What is given replaces what was protected before; the same again changes nothing.
TCP options that are not given are probed; a backend that does not answer stops everything before anything is touched.

` + targetHelp + `
A prefix, such as 192.0.2.0/24:443, needs all four options, or --probe-at.`,
	examples: `
  synproxyctl apply 192.0.2.1:80,443 [2001:db8::1]:443 --dry-run
  synproxyctl apply @services.txt --interface eth0
  synproxyctl apply 192.0.2.0/24:443 --probe-at 192.0.2.7:443
  synproxyctl apply 192.0.2.1:22 --first server \
      --mss 1460 --wscale 7 --sack-perm --timestamps  without a probe
`,
	flags: append(probeFlags(),
		&cli.StringSliceFlag{Name: "interface", Usage: "answer only SYNs that come in by this interface, `IF`; may be repeated (default: all but lo)"},
		&cli.StringFlag{Name: "hook", Value: "auto", Usage: "where packets to the service pass, `HOOK`: input (it is on this machine), forward, or auto to ask the routes"},
		&cli.IntFlag{Name: "mss", DefaultText: "probed", Usage: "maximum segment size, 88 to 65495"},
		&cli.IntFlag{Name: "wscale", DefaultText: "probed", Usage: "window scale, 0 to 14"},
		&cli.BoolFlag{Name: "sack-perm", DisableDefaultText: true, Usage: "announce SACK; --sack-perm=false: do not (default: probed)"},
		&cli.BoolFlag{Name: "timestamps", DisableDefaultText: true, Usage: "announce timestamps; --timestamps=false: do not (default: probed)"},
		&cli.StringFlag{Name: "first", Value: "auto", Usage: "`WHO` speaks first on a connection: client, server, or auto to find out by connecting"},
		&cli.StringFlag{Name: "probe-at", Usage: "ask the server at `ADDR:PORT` for the options, instead of the target"},
		&cli.StringFlag{Name: "backend", Value: "auto", Usage: "make the rules with `PROGRAM`: iptables-nft, iptables-legacy, or auto for what the host's rules use"},
		&cli.BoolFlag{Name: "dry-run", DisableDefaultText: true, Usage: "only show what would be done"},
		&cli.BoolFlag{Name: "diff", DisableDefaultText: true, Usage: "show each change"},
		&cli.BoolFlag{Name: "no-verify", DisableDefaultText: true, Usage: "do not read back what was written"}),
	do: runApply,
}

func runApply(e env, c *cli.Context) (*answer, error) {
	like, err := wishLike(c)
	if err != nil {
		return nil, err
	}
	backend, err := backendName(c.String("backend"))
	if err != nil {
		return nil, err
	}
	cfg, err := probeConfig(c, "", progress(e.err, "probing"))
	if err != nil {
		return nil, err
	}
	cfg.Connect = like.First == ""
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	targets, err := readTargets(c.Context, e, c.Args().Slice(), target.Target.CheckApply)
	if err != nil {
		return nil, err
	}
	if !like.ProbeAt.IsValid() {
		if err := checkSource(cfg.Source, targets); err != nil {
			return nil, err
		}
	}
	if err := h.Ready(backend); err != nil {
		return nil, err
	}
	wishes := make([]protect.Wish, len(targets))
	for i, t := range targets {
		wishes[i] = like
		wishes[i].Name, wishes[i].Destination, wishes[i].Port = nameOf(t), t.Prefix, t.Port
	}
	cfg.Progress(0, len(wishes))
	services, found, err := protect.Resolve(c.Context, cfg, wishes)
	if err != nil {
		return nil, err
	}
	done, err := h.Apply(c.Context, protect.Order{
		Services: services, Backend: backend, DryRun: c.Bool("dry-run"), NoVerify: c.Bool("no-verify"), Findings: found,
	})
	if err != nil {
		return nil, err
	}
	return &answer{result: done, text: func(w io.Writer, p paint) { writeApplied(w, p, done, c.Bool("diff")) }}, nil
}

// wishLike reads what the flags say of every target.
func wishLike(c *cli.Context) (protect.Wish, error) {
	w := protect.Wish{Interfaces: c.StringSlice("interface")}
	if len(w.Interfaces) == 0 {
		w.Interfaces = nil
	}
	for _, name := range w.Interfaces {
		if err := checkInterface(name); err != nil {
			return w, err
		}
	}
	if name := c.String("hook"); name != "auto" {
		hook, err := rules.ParseHook(name)
		if err != nil {
			return w, protect.Errorf(protect.Usage, "give auto, input or forward", "--hook %s: not a hook", quote(name))
		}
		w.Hook = hook
	}
	switch name := c.String("first"); name {
	case "auto":
	case string(rules.FirstClient), string(rules.FirstServer):
		w.First = rules.First(name)
	default:
		return w, protect.Errorf(protect.Usage, "give auto, client or server", "--first %s: nobody", quote(name))
	}
	if c.IsSet("probe-at") {
		at, err := netip.ParseAddrPort(c.String("probe-at"))
		if err != nil || at.Port() == 0 {
			return w, protect.Errorf(protect.Usage, "give an address and a port, as 192.0.2.1:443 or [2001:db8::1]:443", "--probe-at %s: not ADDR:PORT", quote(c.String("probe-at")))
		}
		w.ProbeAt = at
	}
	return w, optionFlags(c, &w)
}

// optionFlags reads the TCP options that were given.
func optionFlags(c *cli.Context, w *protect.Wish) error {
	if c.IsSet("mss") {
		n := c.Int("mss")
		if n < 88 || n > 65495 {
			return outOfRange("mss", n, "88 to 65495")
		}
		mss := uint16(n)
		w.MSS = &mss
	}
	if c.IsSet("wscale") {
		n := c.Int("wscale")
		if n < 0 || n > 14 {
			return outOfRange("wscale", n, "0 to 14")
		}
		shift := uint8(n)
		w.WScale = &shift
	}
	if c.IsSet("sack-perm") {
		yes := c.Bool("sack-perm")
		w.SACKPerm = &yes
	}
	if c.IsSet("timestamps") {
		yes := c.Bool("timestamps")
		w.Timestamps = &yes
	}
	return nil
}

func backendName(name string) (string, error) {
	switch name {
	case "auto", "iptables":
		return "auto", nil
	case rules.NFT, rules.Legacy:
		return name, nil
	case "nftables":
		return "", protect.Errorf(protect.Unsupported, "use iptables-nft: it runs on the same kernel side",
			"backend nftables: not in this version")
	}
	return "", protect.Errorf(protect.Usage, "give auto, iptables, iptables-nft or iptables-legacy", "--backend %s: not known", quote(name))
}

func writeApplied(w io.Writer, p paint, a *protect.Applied, diff bool) {
	writeServices(w, a.Services)
	if diff || a.DryRun {
		writeChanges(w, p, a.Changes)
	}
	writeFindings(w, p, a.Findings)
	switch {
	case a.DryRun && a.Changed:
		fmt.Fprintf(w, "dry run: %d changes would be made by %s (%s); nothing was touched\n", len(a.Changes), a.Backend, a.Reason)
	case a.DryRun || !a.Changed:
		fmt.Fprintf(w, "%s: nothing to change (%s)\n", p.good("unchanged"), a.Backend)
	default:
		fmt.Fprintf(w, "%s: %d changes by %s (%s)%s\n", p.good("applied"), len(a.Changes), a.Backend, a.Reason, verifiedNote(a))
	}
}

func verifiedNote(a *protect.Applied) string {
	if a.Verified {
		return ", read back and right"
	}
	return ", not read back"
}

func writeServices(w io.Writer, services []protect.Service) {
	rows := [][]string{{"SERVICE", "HOOK", "INTERFACES", "FIRST", "MSS", "WSCALE", "SACK", "TS", "SOURCE"}}
	for _, s := range services {
		rows = append(rows, serviceRow(s))
	}
	table(w, rows...)
}

func writeChanges(w io.Writer, p paint, changes []protect.Change) {
	for _, c := range changes {
		switch {
		case c.Kind == "sysctl":
			fmt.Fprintf(w, "~ %s: %s -> %s\n", c.Key, c.Before, c.After)
		case c.Action == rules.Add:
			fmt.Fprintln(w, p.good("+ "+ruleLine(c)))
		default:
			fmt.Fprintln(w, p.of(protect.Bad, "- "+ruleLine(c)))
		}
	}
}

func ruleLine(c protect.Change) string {
	program := "iptables"
	if c.Family == rules.IPv6 {
		program = "ip6tables"
	}
	verb := "-A"
	if !strings.HasPrefix(c.Chain, rules.ChainPrefix) {
		verb = "-I" // a jump stands first in its chain
	}
	return fmt.Sprintf("%s -t %s %s %s %s", program, c.Table, verb, c.Chain, printable(c.Rule))
}
