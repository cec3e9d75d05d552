package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/internal/service"
)

var serviceInstallCommand = command{
	name: "service install", usage: "protect from boot on, by systemd",
	help: `Writes the units of systemd, unless a package has brought them, and enables them: from the next boot on, what the configuration
says is protected before the network is up; with --now at once. A timer looks after it every quarter of an hour, or, with --watch, a
program that stays. With --exporter, Prometheus finds metrics on loopback. Again, it changes nothing; with other flags, it changes what they say.`,
	examples: `
  synproxyctl service install --now
  synproxyctl service install -c /srv/services.yaml --check apply
  synproxyctl service install --root /mnt --dry-run   a system that does not run
`,
	flags: []cli.Flag{
		&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: service.Config, Usage: "what is protected is in `FILE`"},
		&cli.StringFlag{Name: "check", Value: "report", Usage: "what the timer does about drift, `POLICY`: report (its unit fails), apply, or off for no timer"},
		&cli.BoolFlag{Name: "watch", DisableDefaultText: true, Usage: "look after it all the time, in place of the timer"},
		&cli.BoolFlag{Name: "exporter", DisableDefaultText: true, Usage: "also tell Prometheus metrics, on 127.0.0.1:9961"},
		&cli.BoolFlag{Name: "now", DisableDefaultText: true, Usage: "also start it now"},
		rootFlag(),
		&cli.BoolFlag{Name: "dry-run", DisableDefaultText: true, Usage: "only show what would be done"},
	},
	do: runServiceInstall,
}

var serviceRemoveCommand = command{
	name: "service remove", usage: "no longer protect from boot on",
	help: `Disables the units, and removes those that service install has written; files of others, and of packages, stay. What is protected
now stays so until the next boot, unless --revert is given.`,
	examples: `
  synproxyctl service remove
  synproxyctl service remove --revert   end the protection, too
`,
	flags: []cli.Flag{
		&cli.BoolFlag{Name: "revert", DisableDefaultText: true, Usage: "also take the protection away; proxied connections get a minute to end"},
		rootFlag(),
		&cli.BoolFlag{Name: "dry-run", DisableDefaultText: true, Usage: "only show what would be done"},
	},
	do: runServiceRemove,
}

func rootFlag() cli.Flag {
	return &cli.StringFlag{Name: "root", Usage: "the system is below `DIR`, and does not run"}
}

func runServiceInstall(_ env, c *cli.Context) (*answer, error) {
	wanted := []string{service.Boot}
	check := c.String("check")
	switch {
	case check != "report" && check != "apply" && check != "off":
		return nil, protect.Errorf(protect.Usage, "give report, apply or off", "--check %s: not a policy", quote(check))
	case c.Bool("watch") && c.IsSet("check"):
		return nil, protect.Errorf(protect.Usage, "give one of them", "--watch and --check exclude each other")
	case c.Bool("now") && c.IsSet("root"):
		return nil, protect.Errorf(protect.Usage, "leave one of them away", "--now and --root exclude each other: what does not run starts nothing")
	case c.Bool("watch"):
		wanted = append(wanted, service.Watch)
	case check != "off":
		wanted = append(wanted, service.Check)
	}
	if c.Bool("exporter") {
		wanted = append(wanted, service.Exporter)
	}
	s, err := systemOf(c)
	if err != nil {
		return nil, err
	}
	w := service.Wish{Program: service.Program, Mend: check == "apply"}
	if w.Config, err = filepath.Abs(c.String("config")); err != nil {
		return nil, err
	}
	if s.Root == "" {
		if w.Program, err = os.Executable(); err != nil {
			return nil, err
		}
		if _, err := os.Stat(w.Config); err != nil {
			return nil, protect.Errorf(protect.Usage, "write it first: synproxyctl config example", "--config: %w", err)
		}
	}
	for _, path := range []string{w.Program, w.Config} {
		if strings.HasPrefix(path, "/tmp/") || strings.HasPrefix(path, "/var/tmp/") {
			return nil, protect.Errorf(protect.Usage, "put it where it lasts, such as /usr/local/sbin or /etc/synproxyctl", "%s: does not outlive a boot", path)
		}
	}
	done, err := s.Install(c.Context, w, wanted, c.Bool("now"))
	return servedAnswer(done), serviceError(err)
}

func runServiceRemove(_ env, c *cli.Context) (*answer, error) {
	if c.Bool("revert") && c.IsSet("root") {
		return nil, protect.Errorf(protect.Usage, "leave one of them away", "--revert and --root exclude each other: what does not run protects nothing")
	}
	s, err := systemOf(c)
	if err != nil {
		return nil, err
	}
	done, err := s.Remove(c.Context, c.Bool("revert"))
	return servedAnswer(done), serviceError(err)
}

func systemOf(c *cli.Context) (service.System, error) {
	s := service.System{DryRun: c.Bool("dry-run")}
	if !c.IsSet("root") {
		return s, nil
	}
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return s, err
	}
	if fi, err := os.Stat(root); err != nil || !fi.IsDir() {
		return s, protect.Errorf(protect.Usage, "give the directory of a system", "--root %s: not a directory", quote(root))
	}
	s.Root = root
	return s, nil
}

// serviceError gives an error its code and hint.
func serviceError(err error) error {
	switch {
	case errors.Is(err, service.ErrNoSystemd):
		return protect.Errorf(protect.Unsupported, "run at boot, behind the firewall: synproxyctl apply -c FILE --max-age 87600h; or name a system by --root DIR", "service: %w", err)
	case errors.Is(err, service.ErrForeign):
		return protect.Errorf(protect.Conflict, "see who made it, and remove it", "service: %w", err)
	case errors.Is(err, service.ErrPath):
		return protect.Errorf(protect.Usage, "give it another name", "service: %w", err)
	case errors.Is(err, os.ErrPermission):
		return protect.Errorf(protect.Permission, "run it as root (sudo)", "service: %w", err)
	case err != nil:
		return protect.Errorf(protect.Failed, "see: systemctl status synproxyctl, journalctl -u synproxyctl", "service: %w", err)
	}
	return nil
}

// servedAnswer tells what was done; nil if nothing was.
func servedAnswer(d *service.Done) *answer {
	if d == nil {
		return nil
	}
	return &answer{result: d, text: func(w io.Writer, p paint) {
		for _, each := range []struct {
			verb string
			what []string
		}{{"wrote", d.Written}, {"removed", d.Removed}, {"enabled", d.Enabled}, {"disabled", d.Disabled}, {"started", d.Started}} {
			for _, what := range each.what {
				fmt.Fprintf(w, "%s: %s\n", each.verb, what)
			}
		}
		switch {
		case !d.Changed:
			fmt.Fprintln(w, p.good("unchanged")+": nothing to do")
		case d.DryRun:
			fmt.Fprintln(w, "dry run: nothing was touched")
		}
	}}
}
