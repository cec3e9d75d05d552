package protect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
	"github.com/synproxyctl/synproxyctl/pkg/sysctl"
)

// recordSchema is the version of the undo record's form. One of schema 1, which
// has a list of services instead of groups, is read too.
const recordSchema = 2

// record is the undo record: what was asked for, and what has to be given back.
// It is written before the first change and lives as long as the rules do, in a
// directory that a reboot clears as it clears them.
type record struct {
	Schema    int       `json:"schema"`
	Namespace string    `json:"namespace"`
	Backend   string    `json:"backend"`
	Written   time.Time `json:"written"` // when it was planned; a rollback does not change it
	// Services are what is protected; in the file, since schema 2, as groups.
	Services []Service `json:"services,omitempty"`
	Groups   []group   `json:"groups,omitempty"`
	// Sysctls holds each setting that we changed, with the value to give back.
	Sysctls []sysctl.Change `json:"sysctls"`
	// Unknown tells that a record was lost before this one, and with it what
	// settings were before.
	Unknown bool `json:"settings_unknown,omitempty"`
	// Families are those of which connections have passed the proxy.
	Families []rules.Family `json:"families"`
	// Window tells that the kernel can open the window of the proxy's SYN+ACK.
	Window bool `json:"window,omitempty"`
	// Unfinished tells that an apply has begun to lead there, and has not ended.
	Unfinished bool `json:"unfinished,omitempty"`
	// Unwatched tells that conntrack was not watching when this began, and has
	// not been told of the connections that it does not know.
	Unwatched bool `json:"unwatched,omitempty"`
	// Warming tells that loose tracking may be on for a warm-up, though it was
	// off before.
	Warming bool `json:"warming,omitempty"`
	// Draining tells that the services are no longer protected, and that what is
	// left of the rules waits for the end of proxied connections.
	Draining bool `json:"draining,omitempty"`
	// Pending is a change that goes back unless it is confirmed; nil: none.
	Pending *pending `json:"pending,omitempty"`
	// Base holds the built-in chains of iptables-nft that were there before
	// us; null if we never used it.
	Base []rules.BaseChain `json:"base_chains"`
}

// store keeps the record of one network namespace.
type store struct {
	dir string
	id  string
}

func (s store) path() string { return filepath.Join(s.dir, s.id+".json") }

func (s store) lockPath() string { return filepath.Join(s.dir, s.id+".lock") }

// maxRecord bounds what is read, in bytes: 100,000 services take
// about 3 MB, and 40 MB in schema 1.
const maxRecord = 256 << 20

// load returns the record, nil if there is none.
func (s store) load() (*record, error) {
	if err := s.checkFolder(); err != nil {
		return nil, err
	}
	// A link in it was not made by us.
	f, err := os.OpenFile(s.path(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no record is a state like any other
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("undo record: %w", err)
	}
	const notOurs = "synproxyctl writes a plain file there: see what it is, and remove it"
	if err != nil {
		return nil, Errorf(Conflict, notOurs, "undo record: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil {
		err = trusted(fi)
	}
	if err != nil {
		return nil, Errorf(Conflict, notOurs, "undo record %s: %w", s.path(), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, Errorf(Conflict, notOurs, "undo record: %w", err)
	}
	rec, err := parseRecord(text)
	if err != nil {
		return nil, Errorf(Conflict, "if it is damaged, remove it and run apply or revert again: the rules are found by their names",
			"undo record %s: %w", s.path(), err)
	}
	if rec.Namespace != s.id {
		return nil, Errorf(Conflict, "remove it if it was copied there", "undo record %s: belongs to the namespace %q", s.path(), rec.Namespace)
	}
	return rec, nil
}

func parseRecord(text []byte) (*record, error) {
	var rec record
	if err := json.Unmarshal(text, &rec); err != nil {
		return nil, err
	}
	if rec.Schema < 1 || rec.Schema > recordSchema {
		return nil, fmt.Errorf("schema %d is not known to this version", rec.Schema)
	}
	if err := rec.unpack(rec.Schema); err != nil {
		return nil, err
	}
	return &rec, rec.check()
}

// packed returns the record as it is written.
func (r *record) packed() *record {
	p := *r
	p.Schema, p.Services, p.Groups = recordSchema, nil, grouped(r.Services)
	if r.Pending != nil && r.Pending.Before != nil {
		pending := *r.Pending
		pending.Before = pending.Before.packed()
		p.Pending = &pending
	}
	return &p
}

// unpack finds the services of a record as it was written in the given schema.
func (r *record) unpack(schema int) error {
	switch {
	case schema == 1 && r.Groups != nil:
		return errors.New("groups of services in schema 1")
	case schema > 1 && r.Services != nil:
		return fmt.Errorf("a list of services in schema %d", schema)
	case schema == 1:
		sortServices(r.Services)
	default:
		var err error
		if r.Services, err = ungrouped(r.Groups); err != nil {
			return err
		}
	}
	r.Groups, r.Schema = nil, recordSchema
	if r.Pending != nil && r.Pending.Before != nil {
		return r.Pending.Before.unpack(schema)
	}
	return nil
}

// check refuses what this program would not have written.
func (r *record) check() error {
	for _, c := range r.Sysctls {
		ours := slices.ContainsFunc(needed, func(n sysctl.Setting) bool { return n.Key == c.Key && n.Value == c.After })
		_, err := strconv.ParseUint(c.After, 10, 32)
		if !ours && (c.Key != unacknowledged || err != nil) {
			return fmt.Errorf("%s=%s is not a setting that this program makes", c.Key, c.After)
		}
	}
	for _, f := range r.Families {
		if !slices.Contains(rules.Families[:], f) {
			return fmt.Errorf("family %q is not known", f)
		}
	}
	if err := validate(r.Services); err != nil {
		return err
	}
	if r.Pending != nil && r.Pending.Before != nil {
		if r.Pending.Before.Pending != nil {
			return errors.New("a pending change before a pending change")
		}
		return r.Pending.Before.check()
	}
	return nil
}

// save writes the record so that at any moment there is the old or the new one.
func (s store) save(rec *record) error {
	rec.Schema, rec.Namespace = recordSchema, s.id
	text, err := json.MarshalIndent(rec.packed(), "", " ")
	if err != nil {
		return fmt.Errorf("undo record: %w", err)
	}
	// Not in TMPDIR, into which others may look.
	if err := renameio.WriteFile(s.path(), append(text, '\n'), 0o600, renameio.IgnoreUmask(), renameio.WithTempDir(s.dir)); err != nil {
		return fmt.Errorf("undo record: %w", err)
	}
	return nil
}

// put writes the record, or removes it if rec is nil.
func (s store) put(rec *record) error {
	if rec != nil {
		return s.save(rec)
	}
	if err := os.Remove(s.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("undo record: %w", err)
	}
	return nil
}

// policy returns what the kernel should hold; nothing if there is no record.
func (r *record) policy() rules.Policy {
	switch {
	case r == nil:
		return rules.Policy{}
	case r.Draining:
		return rules.Policy{Anchors: r.Families}
	}
	p := policyOf(r.Services)
	p.Anchors, p.Window = r.Families, r.Window
	return p
}
