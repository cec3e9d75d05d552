package main

import (
	"context"
	"fmt"

	"github.com/synproxyctl/synproxyctl/bench/report"
)

// operator is a contender with commands for all operations.
type operator struct {
	name string
	most int
	// prepare returns the command lines of the operations.
	prepare func(*site) (map[string][]string, error)
	slow    int // from that size on, only the first repetition; 0 means never
}

func operators() []operator {
	all := []operator{{name: report.FireHOL, most: 1_000, prepare: (*site).fireholCommands, slow: 100}}
	for _, backend := range report.Backends {
		all = append(all, operator{name: report.Tool + backend.Name, prepare: func(s *site) (map[string][]string, error) {
			return s.toolCommands(backend.Name)
		}})
	}
	return all
}

// oneLess is what comes before "one more", and is not timed: proxied services that go wait for cookies on their way.
const oneLess = "one less"

// fireholCommands are FireHOL's.
func (s *site) fireholCommands() (map[string][]string, error) {
	same, err := s.fireholFile("firehol.conf", s.services())
	if err != nil {
		return nil, err
	}
	less, err := s.fireholFile("firehol-less.conf", s.oneLess())
	return map[string][]string{
		"apply": {"firehol", same, "start"}, "apply again": {"firehol", same, "start"},
		oneLess: {"firehol", less, "start"}, "one more": {"firehol", same, "start"}, "revert": {"firehol", "stop"},
	}, err
}

// toolCommands are those of synproxyctl. What passes meanwhile is nobody's business, so it waits for no connection.
func (s *site) toolCommands(backend string) (map[string][]string, error) {
	same, err := s.targets("targets", s.services())
	if err != nil {
		return nil, err
	}
	less, err := s.targets("targets-less", s.oneLess())
	command := func(list string) []string { return append([]string{program()}, s.applyArgs(backend, list)...) }
	return map[string][]string{
		"apply": command(same), "apply again": command(same), oneLess: command(less), "one more": command(same), "revert": {program(), "revert", "--now"},
	}, err
}

// measureApply times the operations of all operators by turns, at each size.
func (b *bench) measureApply(ctx context.Context) error {
	for _, size := range b.sizes {
		var sites []*site
		var commands []map[string][]string
		var chosen []operator
		end := func() {
			for _, s := range sites {
				_ = s.Close() // its namespaces go with the process anyway
			}
		}
		for _, o := range operators() {
			if !b.wants(o.name) || o.most > 0 && size > o.most {
				continue
			}
			s, err := newSite(ctx, b.world, contender{name: o.name}, size, servicePort, nil)
			if err != nil {
				end()
				return err
			}
			sites = append(sites, s)
			c, err := o.prepare(s)
			if err != nil {
				end()
				return err
			}
			commands, chosen = append(commands, c), append(chosen, o)
		}
		err := b.operateByTurns(ctx, chosen, sites, commands)
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) operateByTurns(ctx context.Context, chosen []operator, sites []*site, commands []map[string][]string) error {
	out := map[string]bool{}
	for rep := range b.reps {
		for i, o := range chosen {
			if out[o.name] || o.slow > 0 && sites[i].size >= o.slow && rep > 0 {
				continue
			}
			if err := b.operate(ctx, o, sites[i], commands[i], rep); err != nil {
				if !b.mayLeaveOut(err) {
					return err
				}
				out[o.name] = true
			}
		}
	}
	return nil
}

// operate times one repetition of one operator.
func (b *bench) operate(ctx context.Context, o operator, s *site, commands map[string][]string, rep int) error {
	said := ""
	for _, operation := range report.Operations {
		if operation == "one more" {
			if s.size == 1 {
				continue // the first is "apply"
			}
			if _, err := timed(ctx, s.Firewall, commands[oneLess]...); err != nil {
				return fmt.Errorf("%s, %d services: one less: %w", o.name, s.size, err)
			}
		}
		limited, cancel := context.WithTimeout(ctx, installLimit)
		c, err := timed(limited, s.Firewall, commands[operation]...)
		late := limited.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case late:
			return fmt.Errorf("%s, %d services: %s: not ready after %v: %w", o.name, s.size, operation, installLimit, errLeftOut)
		case c.Exit == exitUnsupported:
			return fmt.Errorf("%s, %d services: not supported in this version: %w", o.name, s.size, errLeftOut)
		case err != nil:
			return fmt.Errorf("%s, %d services: %s: %w", o.name, s.size, operation, err)
		}
		b.results.Add(report.Operation(operation, report.Wall), o.name, s.size, c.Wall.Seconds())
		b.results.Add(report.Operation(operation, report.CPU), o.name, s.size, c.CPU.Seconds())
		b.results.Add(report.Operation(operation, report.Memory), o.name, s.size, float64(c.Memory)/1e6)
		said += fmt.Sprintf("; %s %.3fs %.0fMB", operation, c.Wall.Seconds(), float64(c.Memory)/1e6)
		// What was fast must work, too: the services that came as those that stayed.
		check := map[string][]int{"apply": {0, s.size - 1}, "one more": {0, s.size - 1}}[operation]
		if rep == 0 {
			if err := s.passes(ctx, check...); err != nil {
				return fmt.Errorf("%s, %d services: after %s: %w", o.name, s.size, operation, err)
			}
		}
	}
	b.say("%-28s %6d services, %d%s", o.name, s.size, rep+1, said)
	return nil
}

// services are the indices of the site's services.
func (s *site) services() []int {
	all := make([]int, s.size)
	for i := range all {
		all[i] = i
	}
	return all
}

// oneLess are the same, without the last.
func (s *site) oneLess() []int { return s.services()[:s.size-1] }
