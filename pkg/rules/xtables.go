package rules

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// xtables is a variant of iptables: its save and restore programs, by family.
// Saving reads every table at once, and restoring changes one table in one
// transaction, so nothing else of iptables is needed.
type xtables struct {
	name    string
	save    map[Family]string
	restore map[Family]string
}

// variantMark is what the programs of each variant say with --version.
var variantMark = map[string]string{NFT: "(nf_tables)", Legacy: "(legacy)"}

func findXtables(name string) (*xtables, error) {
	x := &xtables{name: name, save: map[Family]string{}, restore: map[Family]string{}}
	for _, f := range Families {
		program := strings.Replace(name, "ip", prefix(f), 1)
		for kind, at := range map[string]map[Family]string{"-save": x.save, "-restore": x.restore} {
			path, err := lookProgram(program + kind)
			if err != nil {
				return nil, fmt.Errorf("backend %s: %w", name, err)
			}
			at[f] = path
		}
	}
	return x, nil
}

func prefix(f Family) string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

func (x *xtables) Name() string { return x.name }

func (x *xtables) Render(s Step) string {
	switch s.Table {
	case Window:
		return x.renderWindow(s)
	case Sets:
		return renderSets(s)
	}
	return "# " + x.restore[s.Family] + " --noflush\n" + s.Script()
}

func (x *xtables) List(ctx context.Context) (Ruleset, error) {
	var dumps []Dump
	for _, f := range Families {
		d, err := x.dump(ctx, f)
		if err != nil {
			return Ruleset{}, err
		}
		dumps = append(dumps, d)
	}
	rs := Extract(dumps...)
	sets, err := dialIPSet()
	if err != nil {
		return Ruleset{}, err
	}
	defer sets.close()
	if rs.sets, err = sets.list(ctx, layouts[x.name].sets); err != nil {
		return Ruleset{}, err
	}
	return rs, x.listWindow(ctx, rs)
}

func (x *xtables) dump(ctx context.Context, f Family) (Dump, error) {
	if x.name == Legacy {
		if used, err := legacyTables(f); !used {
			return Dump{Family: f}, err
		}
	}
	out, err := run(ctx, x.save[f], nil, "--counters")
	var failed *ProgramError
	if x.name == NFT && errors.As(err, &failed) && failed.Status == 3 && failed.Message != "" {
		// What it cannot parse at all it calls a problem of versions (1.8.9);
		// other rules it only does not show, see incompatible.
		err = fmt.Errorf("%w: %w", ErrIncompatible, err)
	}
	if err != nil {
		return Dump{}, err
	}
	d, err := ParseSave(f, "", out)
	if err != nil {
		return Dump{}, fmt.Errorf("%s: %w", x.save[f], err)
	}
	return d, nil
}

// legacyTables reports whether any legacy table is in use. Asking the program
// would load the kernel's modules for it. The error is [fs.ErrPermission] if
// that cannot be seen: not to know a host's own rules is not to have none.
func legacyTables(f Family) (bool, error) {
	names, err := os.ReadFile("/proc/thread-self/net/" + prefix(f) + "_tables_names")
	if errors.Is(err, fs.ErrPermission) {
		return false, &unseenError{fmt.Errorf("tables of %s: %w", Legacy, err)}
	}
	return err == nil && len(names) > 0, nil
}

// An unseenError tells that this user may not see which legacy tables there are.
type unseenError struct{ err error }

func (e *unseenError) Error() string { return e.err.Error() }
func (e *unseenError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *unseenError) Hint() string {
	return "only root and its group may read it: give the user the supplementary group root (systemd: SupplementaryGroups=root)"
}

// lockWait bounds the wait for other users of iptables-legacy, in seconds.
const lockWait = "10"

func (x *xtables) Apply(ctx context.Context, s Step) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	switch s.Table {
	case Window:
		return x.applyWindow(s)
	case Sets:
		return applySets(s)
	}
	_, err := run(ctx, x.restore[s.Family], []byte(s.Script()), "--noflush", "--wait", lockWait)
	var failed *ProgramError
	if errors.As(err, &failed) && failed.outdated() {
		err = fmt.Errorf("%w: %w", ErrChanged, err)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", s.Family, s.Table, err)
	}
	return nil
}

// outdated reports whether a restore program failed because the rules are not
// what the script takes them for. Status 1 is what is to be deleted and is not
// there, and with the legacy variant any refusal of the kernel. The nft variant
// has status 4 for all of the kernel's refusals, also for rules that are wrong,
// so that only the text tells that a chain is in use. Status 2 is a fault of
// the script.
func (e *ProgramError) outdated() bool {
	return e.Status == 1 || e.Status == 4 && strings.Contains(e.Message, "(Device or resource busy)")
}
