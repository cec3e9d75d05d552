package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

var applyCommand = command{
	name: "apply", usage: "protect exactly the given services", args: "TARGET... | -c FILE",
	help: `What is given replaces what was protected before; the same again changes nothing.
TCP options that are not given are probed; a backend that does not answer stops everything before anything is touched.

With -c, the services are exactly those of a file; see synproxyctl config example. What backends answer is kept in ` + protect.StateDir + `,
for --cached and --max-age.


` + targetHelp + `
A prefix, such as 192.0.2.0/24:443, needs all four options, or --probe-at.`,
	examples: `
  synproxyctl apply 192.0.2.1:80,443 [2001:db8::1]:443 --dry-run
  synproxyctl apply @services.txt --interface eth0
  synproxyctl apply -c /etc/synproxyctl/config.yaml
  synproxyctl apply -c config.yaml --cached           at boot: asks nobody
  synproxyctl apply 192.0.2.0/24:443 --probe-at 192.0.2.7:443
  synproxyctl apply 192.0.2.1:22 --first server \
      --mss 1460 --wscale 7 --sack-perm --timestamps  without a probe
`,
	flags: append(probeFlags(),
		configFlag(),
		&cli.BoolFlag{Name: "cached", DisableDefaultText: true, Usage: "ask no backend: take what it answered before, however old, or as old as --max-age allows; exit 3 if a service has no such answer"},
		&cli.DurationFlag{Name: "max-age", DefaultText: "0: ask all", Usage: "do not ask a backend again that answered within this time, 1s to 87600h"},
		interfaceFlag(),
		hookFlag(),
		&cli.IntFlag{Name: "mss", DefaultText: "probed", Usage: "maximum segment size, 88 to 65495"},
		&cli.IntFlag{Name: "wscale", DefaultText: "probed", Usage: "window scale, 0 to 14"},
		&cli.BoolFlag{Name: "sack-perm", DisableDefaultText: true, Usage: "announce SACK; --sack-perm=false: do not (default: probed)"},
		&cli.BoolFlag{Name: "timestamps", DisableDefaultText: true, Usage: "announce timestamps; --timestamps=false: do not (default: probed)"},
		&cli.StringFlag{Name: "first", Value: "auto", Usage: "`WHO` speaks first on a connection: client, server, or auto to find out by connecting"},
		&cli.StringFlag{Name: "probe-at", Usage: "ask the server at `ADDR:PORT` for the options, instead of the target"},
		backendFlag(),
		modeFlag(),
		toFlag(),
		&cli.DurationFlag{Name: "warmup", DefaultText: "10s for routed services, 1s for local ones", Usage: "if connections were not tracked yet: how long to watch before the protection begins, so that active ones go on"},
		&cli.DurationFlag{Name: "try", DefaultText: "for good", Usage: "take the change back after that time unless synproxyctl confirm is called; 1s to 24h"},
		&cli.BoolFlag{Name: "force", DisableDefaultText: true, Usage: "apply although the host's own rules or settings stand in the way"},
		&cli.BoolFlag{Name: "dry-run", DisableDefaultText: true, Usage: "only show what would be done"},
		&cli.BoolFlag{Name: "diff", DisableDefaultText: true, Usage: "show each change"},
		allFlag(),
		&cli.BoolFlag{Name: "no-verify", DisableDefaultText: true, Usage: "do not read back what was written"}),
	do: runApply,
}

func runApply(e env, c *cli.Context) (*answer, error) {
	if err := alone(c); err != nil {
		return nil, err
	}
	like, err := wishLike(c)
	if err != nil {
		return nil, err
	}
	b := newBar(e.err)
	defer b.wipe()
	backend, err := backendName(c.String("backend"))
	if err != nil {
		return nil, err
	}
	cfg, err := probeConfig(c, "", b)
	if err != nil {
		return nil, err
	}
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	order, err := orderLike(c)
	if err != nil {
		return nil, err
	}
	h.Progress = b.show
	if !c.Bool("json") { // what reads it finds them in the object
		h.Announce = func(fs []protect.Finding) { announce(e.err, fs) }
	}
	w, err := readWishes(e, c, like)
	if err != nil {
		return nil, err
	}
	memory, err := memoryLike(c)
	if err != nil {
		return nil, err
	}
	done, err := w.apply(c.Context, h, applying{backend, cfg, order, memory})
	if err != nil {
		return nil, err
	}
	return &answer{result: done, text: func(w io.Writer, p paint) { writeApplied(w, p, done, c.Bool("diff"), c.Bool("all")) }}, nil
}

// applying is how what is asked for shall be applied.
type applying struct {
	backend string // unless the file says another
	probe   probe.Config
	order   protect.Order
	memory  *protect.Memory
}

// apply finds out what is not said, and applies what is asked for.
func (w asked) apply(ctx context.Context, h *protect.Host, how applying) (*protect.Applied, error) {
	cfg, order := how.probe, how.order
	order.Backend = how.backend
	if w.backend != "" {
		order.Backend = w.backend
	}
	if w.rate > 0 {
		cfg.Rate = w.rate
	}
	if order.Warmup == nil {
		order.Warmup = w.warmup
	}
	cfg.Connect = slices.ContainsFunc(w.wishes, func(w protect.Wish) bool { return w.First == "" })
	if err := checkSource(cfg.Source, w.wishes); err != nil {
		return nil, err
	}
	if err := h.Ready(order.Backend); err != nil {
		return nil, err
	}
	if cfg.Stage != nil {
		cfg.Stage("probing", 0, len(w.wishes))
	}
	services, found, err := h.Resolve(ctx, cfg, w.wishes, how.memory)
	found = append(found, how.memory.Findings()...)
	if !order.DryRun { // what some have answered is kept, though others have not
		found = append(found, how.memory.Save(ctx)...)
	}
	if err != nil {
		return nil, err
	}
	order.Services, order.Findings = services, found
	return h.Apply(ctx, order)
}

// orderLike reads how the change shall be made.
func orderLike(c *cli.Context) (protect.Order, error) {
	const longest = 24 * time.Hour
	o := protect.Order{DryRun: c.Bool("dry-run"), NoVerify: c.Bool("no-verify"), Force: c.Bool("force"), Guard: startGuard}
	if c.IsSet("warmup") {
		d := c.Duration("warmup")
		if d < 0 || d > longest {
			return o, outOfRange("warmup", d, "0s, which means none, to 24h")
		}
		o.Warmup = &d
	}
	if c.IsSet("try") {
		o.Try = c.Duration("try")
		if o.Try < time.Second || o.Try > longest {
			return o, outOfRange("try", o.Try, "1s to 24h")
		}
	}
	return o, nil
}

// announce tells people, before anything is done, what it puts at risk.
func announce(w io.Writer, findings []protect.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%s: %s\n", f.Severity, printable(f.Message))
		if f.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", printable(f.Hint))
		}
	}
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
	case "", "auto": // doctor has no such flag
	case string(rules.FirstClient), string(rules.FirstServer):
		w.First = rules.First(name)
	default:
		return w, protect.Errorf(protect.Usage, "give auto, client or server", "--first %s: nobody", quote(name))
	}
	if name := c.String("mode"); name != "auto" {
		mode, err := rules.ParseMode(name)
		if err != nil {
			return w, protect.Errorf(protect.Usage, "give auto, tracked or notrack", "--mode %s: not a mode", quote(name))
		}
		w.Mode = mode
	}
	var err error
	if w.ProbeAt, err = addrPort(c, "probe-at"); err != nil {
		return w, err
	}
	if w.To, err = addrPort(c, "to"); err != nil {
		return w, err
	}
	return w, optionFlags(c, &w)
}

// addrPort reads a flag that is an address and a port; not valid if it is not set.
func addrPort(c *cli.Context, name string) (netip.AddrPort, error) {
	if !c.IsSet(name) {
		return netip.AddrPort{}, nil
	}
	at, err := netip.ParseAddrPort(c.String(name))
	if err != nil || at.Port() == 0 {
		return at, protect.Errorf(protect.Usage, "give an address and a port, as 192.0.2.1:443 or [2001:db8::1]:443", "--%s %s: not ADDR:PORT", name, quote(c.String(name)))
	}
	return at, nil
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
	case "auto", protect.AnyIPTables, rules.NFT, rules.Legacy, rules.NFTables:
		return name, nil
	}
	return "", protect.Errorf(protect.Usage, "give auto, iptables, iptables-nft, iptables-legacy or nftables", "--backend %s: not known", quote(name))
}

func writeApplied(w io.Writer, p paint, a *protect.Applied, diff, all bool) {
	writeServices(w, a.Services, all)
	switch {
	case diff || len(a.Changes) <= manyChanges:
		if diff || a.DryRun {
			writeChanges(w, p, a.Changes, a.Backend)
		}
	case a.DryRun:
		writeChanges(w, p, a.Changes[:manyChanges], a.Backend)
		fmt.Fprintf(w, "and %d changes more; --diff shows them\n", len(a.Changes)-manyChanges)
	}
	findings := a.Findings
	if !a.DryRun { // what is at risk was said before
		findings = slices.DeleteFunc(slices.Clone(findings), func(f protect.Finding) bool {
			return slices.Contains(a.Connections.Codes(), f.Code)
		})
	}
	writeFindings(w, p, findings)
	switch {
	case a.DryRun && a.Changed:
		fmt.Fprintf(w, "dry run: %s would be made by %s (%s); nothing was touched\n", plural(len(a.Changes), "change"), a.Backend, a.Reason)
	case a.DryRun || !a.Changed:
		fmt.Fprintf(w, "%s: nothing to change (%s)\n", p.good("unchanged"), a.Backend)
	default:
		fmt.Fprintf(w, "%s: %s by %s (%s)%s\n", p.good("applied"), plural(len(a.Changes), "change"), a.Backend, a.Reason, verifiedNote(a))
	}
	if a.Pending != nil {
		fmt.Fprintf(w, "on trial: goes back at %s unless you run: synproxyctl confirm\n", a.Pending.Deadline.Local().Format(time.TimeOnly))
	}
}

// manyChanges is how many changes a dry run shows that was not asked for all.
const manyChanges = 200

func verifiedNote(a *protect.Applied) string {
	if a.Verified {
		return ", read back and right"
	}
	return ", not read back"
}

func writeChanges(w io.Writer, p paint, changes []protect.Change, backend string) {
	for _, c := range changes {
		switch {
		case c.Kind == "sysctl":
			fmt.Fprintf(w, "~ %s: %s -> %s\n", c.Key, c.Before, c.After)
		case c.Action == rules.Add:
			fmt.Fprintln(w, p.good("+ "+ruleLine(c, backend)))
		default:
			fmt.Fprintln(w, p.of(protect.Bad, "- "+ruleLine(c, backend)))
		}
	}
}

func ruleLine(c protect.Change, backend string) string {
	ip := map[rules.Family]string{rules.IPv4: "ip", rules.IPv6: "ip6"}[c.Family]
	switch {
	case c.Kind == "set":
		return fmt.Sprintf("%s set %s", ip, c.Set)
	case c.Kind == "member":
		return fmt.Sprintf("%s set %s: %s", ip, c.Set, printable(c.Member))
	case backend == rules.NFTables || c.Table == rules.Window:
		return fmt.Sprintf("nft (%s %s %s) %s", ip, c.Table, c.Chain, printable(c.Rule))
	}
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
