package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/config"
	"github.com/synproxyctl/synproxyctl/internal/kernel"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/target"
)

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "take the services from `FILE`, or from standard input: -; excludes TARGETs and the flags that say how a service is"}
}

// serviceFlags say how a service is, which a configuration file says itself.
var serviceFlags = []string{"interface", "hook", "mode", "first", "to", "probe-at", "mss", "wscale", "sack-perm", "timestamps"}

// asked is what a command line, or the file that it names, asks for.
type asked struct {
	wishes []protect.Wish
	// What a file may say, and the command line says better.
	backend string         // empty: not said
	warmup  *time.Duration // nil: not said
	rate    int            // 0: not said
}

// readWishes reads the targets of a command line, all alike, or its
// configuration file, and resolves the names.
func readWishes(e env, c *cli.Context, like protect.Wish) (asked, error) {
	if !c.IsSet("config") {
		if c.NArg() == 0 {
			return asked{}, protect.Errorf(protect.Usage, "for example 192.0.2.1:443, @FILE with one on each line, or -c FILE for a configuration", "no target")
		}
		if err := misnamed(c.Args().Slice()); err != nil {
			return asked{}, err
		}
		targets, err := readTargets(c.Context, e, c.Args().Slice(), target.Target.CheckApply)
		return asked{wishes: wishesFor(like, targets)}, err
	}
	file, err := config.Load(c.String("config"), e.in)
	if err != nil {
		return asked{}, usage(err)
	}
	items, err := file.Expand(c.Context, e.resolver)
	if err != nil {
		return asked{}, usage(err)
	}
	// What is remembered is also for the boot, when they may be still to come.
	if !c.Bool("cached") && !c.IsSet("max-age") {
		if err := checkInterfaces(file); err != nil {
			return asked{}, err
		}
	}
	a := asked{wishes: make([]protect.Wish, len(items)), warmup: file.Warmup}
	for i := range items {
		a.wishes[i] = wishOf(&items[i])
	}
	if !c.IsSet("rate") {
		a.rate = file.Rate
	}
	if !c.IsSet("backend") && file.Backend != "" {
		if a.backend, err = backendName(file.Backend); err != nil {
			return a, err
		}
	}
	return a, nil
}

// misnamed refuses configuration files that are given as if they were targets.
func misnamed(words []string) error {
	for _, word := range words {
		path := strings.TrimPrefix(word, "@")
		if ext := strings.ToLower(filepath.Ext(path)); ext == ".yaml" || ext == ".yml" {
			return protect.Errorf(protect.Usage, "a configuration file is given as: -c "+path, "target %s: looks like a configuration file", quote(word))
		}
	}
	return nil
}

// alone refuses what a configuration file does not go with.
func alone(c *cli.Context) error {
	if !c.IsSet("config") {
		return nil
	}
	const hint = "say it in the file, or leave -c away"
	if c.NArg() > 0 {
		return protect.Errorf(protect.Usage, hint, "-c and the target %s exclude each other", quote(c.Args().First()))
	}
	var given []string
	for _, name := range serviceFlags {
		if c.IsSet(name) {
			given = append(given, "--"+name)
		}
	}
	if len(given) > 0 {
		return protect.Errorf(protect.Usage, hint, "-c and %s exclude each other", strings.Join(given, ", "))
	}
	return nil
}

// checkInterfaces refuses interfaces that are not on this host.
func checkInterfaces(file *config.Config) error {
	var known []string
	for _, s := range file.Services {
		for _, name := range s.Interfaces {
			if slices.Contains(known, name) {
				continue
			}
			there, err := kernel.InterfaceExists(name)
			if err != nil {
				return err
			}
			if !there {
				return protect.Errorf(protect.Usage, "list them with: ip link", "%s: interfaces: %s does not exist here", s.Place, quote(name))
			}
			known = append(known, name)
		}
	}
	return nil
}

// wishesFor asks the same of each target.
func wishesFor(like protect.Wish, targets []target.Target) []protect.Wish {
	wishes := make([]protect.Wish, len(targets))
	for i, t := range targets {
		wishes[i] = like
		wishes[i].Name, wishes[i].Destination, wishes[i].Port = nameOf(t), t.Prefix, t.Port
	}
	return wishes
}

// wishOf asks what the file asks for a target.
func wishOf(i *config.Item) protect.Wish {
	s := &i.Service.Settings
	w := protect.Wish{
		Name: nameOf(i.Target), From: protect.Configured, Destination: i.Prefix, Port: i.Port,
		ProbeAt: s.ProbeAt, To: s.To, Mode: s.Mode, Hook: s.Hook, Interfaces: s.Interfaces, First: s.First,
		MSS: s.MSS, WScale: s.WScale, SACKPerm: s.SACKPerm, Timestamps: s.Timestamps,
	}
	if i.Service.Name != "" {
		w.Title = i.Service.Name
		w.Name = fmt.Sprintf("%s (%s)", w.Title, w.Name)
	}
	return w
}

// memoryLike opens what backends have answered before, as the flags want it.
func memoryLike(c *cli.Context) (*protect.Memory, error) {
	const longest = 10 * 365 * 24 * time.Hour
	m, err := protect.Remember(protect.StateDir)
	if err != nil {
		return nil, err
	}
	m.Only, m.MaxAge = c.Bool("cached"), c.Duration("max-age")
	if c.IsSet("max-age") && (m.MaxAge < time.Second || m.MaxAge > longest) {
		return nil, outOfRange("max-age", m.MaxAge, "1s to 87600h")
	}
	return m, nil
}
