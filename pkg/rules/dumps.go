package rules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// Tables is all that one variant of iptables holds, ours and others'.
type Tables struct {
	Backend string // [NFT] or [Legacy]
	Dumps   []Dump // one a family
	Hidden  []HiddenTable
}

// HiddenTable is a table of iptables-nft that iptables cannot show, because nft
// has put something into it that has no word there. Dumps lack it.
type HiddenTable struct {
	Family Family
	Table  Table
}

// xtablesTables are all tables that iptables knows.
var xtablesTables = [...]Table{Raw, Mangle, "nat", Filter, "security"}

// Dumps returns the rules of each variant of iptables that this host has. A
// variant whose programs are missing is left out; the error wraps
// [ErrUnsupported] if that is the legacy variant and its tables are in use.
func Dumps(ctx context.Context) ([]Tables, error) {
	var all []Tables
	for _, name := range []string{NFT, Legacy} {
		x, err := findXtables(name)
		if errors.Is(err, ErrUnsupported) {
			if name == Legacy {
				if unused := noLegacyTables(); unused != nil {
					return nil, fmt.Errorf("%w: %w", unused, err)
				}
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		tables := Tables{Backend: name}
		for _, f := range Families {
			d, hidden, err := x.dumpVisible(ctx, f)
			if err != nil {
				return nil, err
			}
			tables.Dumps = append(tables.Dumps, d)
			for _, t := range hidden {
				tables.Hidden = append(tables.Hidden, HiddenTable{f, t})
			}
		}
		all = append(all, tables)
	}
	return all, nil
}

// noLegacyTables returns an error if legacy tables are in use, or if that cannot
// be seen.
func noLegacyTables() error {
	for _, f := range Families {
		if used, err := legacyTables(f); err != nil {
			return err
		} else if used {
			return errors.New("its tables are in use, but cannot be read")
		}
	}
	return nil
}

// dumpVisible reads what iptables can show of a family, and names the rest.
func (x *xtables) dumpVisible(ctx context.Context, f Family) (d Dump, hidden []Table, err error) {
	if x.name == Legacy {
		if used, err := legacyTables(f); !used {
			return Dump{Family: f}, nil, err
		}
	}
	text, err := run(ctx, x.save[f], nil)
	if err == nil {
		d, hidden, err = parseVisible(f, text)
		if err != nil {
			err = fmt.Errorf("%s: %w", x.save[f], err)
		}
		return d, hidden, err
	}
	var failed *ProgramError
	if x.name != NFT || !errors.As(err, &failed) {
		return Dump{}, nil, err
	}
	// A table that it cannot parse at all keeps it from showing the others.
	d = Dump{Family: f}
	for _, t := range xtablesTables {
		text, err := run(ctx, x.save[f], nil, "-t", string(t))
		if errors.As(err, &failed) {
			hidden = append(hidden, t)
			continue
		}
		one, unseen, err := parseVisible(f, text)
		if err != nil {
			return Dump{}, nil, fmt.Errorf("%s -t %s: %w", x.save[f], t, err)
		}
		d.Chains, hidden = append(d.Chains, one.Chains...), append(hidden, unseen...)
	}
	return d, hidden, nil
}

// parseVisible is [ParseSave], with the tables that iptables-nft-save only says
// that it does not show.
func parseVisible(f Family, text []byte) (Dump, []Table, error) {
	var hidden []Table
	for _, t := range xtablesTables {
		line := fmt.Appendf(nil, "# Table `%s' is incompatible, use 'nft' tool.\n", t)
		if rest := bytes.ReplaceAll(text, line, nil); len(rest) != len(text) {
			text, hidden = rest, append(hidden, t)
		}
	}
	d, err := ParseSave(f, "", text)
	return d, hidden, err
}
