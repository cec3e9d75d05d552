package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

var doctorCommand = command{
	name: "doctor", usage: "tell what of this host would break or weaken the protection", args: "[TARGET... | -c FILE]",
	help: `Follows every packet of the protection through the rules of others (iptables, nft, ufw, firewalld, Docker), and
looks at routes, settings, tables and the kernel, before anything is applied. Names the rule or setting, and the mend.
Without a TARGET it is about what is protected now. Changes nothing; exits 3 if something is fatal: apply would
refuse.

` + targetHelp,
	examples: `
  synproxyctl doctor 192.0.2.1:443 [2001:db8::1]:443
  synproxyctl doctor -c /etc/synproxyctl/config.yaml
  synproxyctl doctor --json | jq -r '.findings[].message'
`,
	flags: []cli.Flag{configFlag(), interfaceFlag(), hookFlag(), modeFlag(), toFlag(), backendFlag()},
	do:    runDoctor,
}

func runDoctor(e env, c *cli.Context) (*answer, error) {
	if err := alone(c); err != nil {
		return nil, err
	}
	like, err := wishLike(c)
	if err != nil {
		return nil, err
	}
	backend, err := backendName(c.String("backend"))
	if err != nil {
		return nil, err
	}
	h, err := host(c)
	if err != nil {
		return nil, err
	}
	if err := h.Ready(backend); err != nil {
		return nil, err
	}
	var services []protect.Service
	if c.NArg() > 0 || c.IsSet("config") {
		w, err := readWishes(e, c, like)
		if err != nil {
			return nil, err
		}
		if w.backend != "" {
			backend = w.backend
		}
		// The options make no difference here; for a prefix they need not be known.
		mss := uint16(1460)
		yes, scale := true, uint8(0)
		for i := range w.wishes {
			w := &w.wishes[i]
			w.MSS, w.WScale, w.SACKPerm, w.Timestamps = &mss, &scale, &yes, &yes
		}
		if services, _, err = h.Sketch(c.Context, w.wishes); err != nil {
			return nil, err
		}
	}
	d, err := h.Doctor(c.Context, services, backend)
	if err != nil {
		return nil, err
	}
	return &answer{result: d, no: !d.OK, text: func(w io.Writer, p paint) {
		writeFindings(w, p, d.Findings)
		switch {
		case !d.OK:
			fmt.Fprintln(w, p.of(protect.Bad, "ill")+": with what is marked error, connections would not get through; apply refuses")
		case len(d.Services) == 0:
			fmt.Fprintf(w, "%s: the kernel and %s can do it; name the services to have the host's own rules looked at\n", p.good("well"), d.Backend)
		case len(d.Services) == 1:
			fmt.Fprintf(w, "%s: nothing stands in the way of one service by %s\n", p.good("well"), d.Backend)
		default:
			fmt.Fprintf(w, "%s: nothing stands in the way of protection by %s (services: %d)\n", p.good("well"), d.Backend, len(d.Services))
		}
	}}, nil
}

// The flags that commands share which take services.

func interfaceFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "interface", Usage: "answer only SYNs that come in by this interface, `IF`; may be repeated (default: all but lo)"}
}

func hookFlag() cli.Flag {
	return &cli.StringFlag{Name: "hook", Value: "auto", Usage: "where packets to the service pass, `HOOK`: input (it is on this machine), forward, or auto to ask the routes"}
}

func modeFlag() cli.Flag {
	return &cli.StringFlag{Name: "mode", Value: "auto", Usage: "answer SYNs tracked, behind the host's own filters; or notrack, which is faster and which those filters do not know, `MODE`; auto: by what the host's rules say of the service"}
}

func toFlag() cli.Flag {
	return &cli.StringFlag{Name: "to", Usage: "the server is really at `ADDR:PORT`: connections are sent there (DNAT)"}
}

func backendFlag() cli.Flag {
	return &cli.StringFlag{Name: "backend", Value: "auto", Usage: "make the rules with `PROGRAM`: " + rules.NFT + ", " + rules.Legacy + ", iptables for the one of them that fits, " + rules.NFTables + ", which needs no program, or auto for what the host's rules use"}
}
