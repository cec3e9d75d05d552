package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// Apply makes the changes in order and returns those that were made. It stops
// at the first that fails, and leaves the setting of that one as it was; the
// caller decides what becomes of the ones before it, usually by handing them
// to [FS.Restore].
//
// Each value is read back. One that does not stick, and one that is no longer
// the Before of its change, is a [*ValueError]. A setting that may not be
// written is [fs.ErrPermission].
func (f FS) Apply(changes []Change) ([]Change, error) {
	for i, c := range changes {
		if err := f.apply(c); err != nil {
			return slices.Clone(changes[:i]), err
		}
	}
	return slices.Clone(changes), nil
}

func (f FS) apply(c Change) error {
	have, err := f.Get(c.Key)
	if err != nil {
		return err
	}
	// Writing over a value that nobody has recorded would lose it for good.
	if before := normalise(c.Before); have != before {
		return &ValueError{Key: c.Key, Want: before, Got: have}
	}
	if err := f.set(c.Key, normalise(c.After)); err != nil {
		// The write may have changed something (a clamped value, the first
		// numbers of a list) that Restore would take for another's.
		return errors.Join(err, f.putBack(c.Key, have))
	}
	return nil
}

// putBack returns a setting to value, and is silent when it never left it.
func (f FS) putBack(key, value string) error {
	if have, err := f.Get(key); err == nil && have == value {
		return nil
	}
	if err := f.set(key, value); err != nil {
		return fmt.Errorf("give back the earlier value: %w", err)
	}
	return nil
}

// set writes a value and reads it back.
func (f FS) set(key, value string) error {
	if err := f.write(key, value); err != nil {
		return err
	}
	got, err := f.Get(key)
	if err != nil {
		return err
	}
	if got != value {
		return &ValueError{Key: key, Want: value, Got: got, Written: true}
	}
	return nil
}

// write hands the value to the kernel in one write(2), which is how sysctl
// files want it: most ignore all but the first write to an open file.
func (f FS) write(key, value string) error {
	file, err := f.open(key, os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, werr := file.WriteString(value + "\n")
	if err := errors.Join(werr, file.Close()); err != nil {
		return subject(key, fmt.Sprintf("write %q", value), err)
	}
	return nil
}

// A State says what [FS.Restore] found and did.
type State string

const (
	// Restored means that the setting was as Apply left it and has its earlier
	// value again.
	Restored State = "restored"
	// Already means that the setting had its earlier value; nothing was written.
	Already State = "already"
	// Foreign means that someone has given the setting a third value since; it
	// was left alone.
	Foreign State = "foreign"
	// Gone means that the kernel no longer has the setting: its module was
	// unloaded or its interface removed, and the value went with it.
	Gone State = "gone"
	// Failed means that the setting could not be read or written; the error of
	// Restore says why.
	Failed State = "failed"
)

// An Outcome is what became of one [Change] in [FS.Restore].
type Outcome struct {
	Change
	State State `json:"state"`
	// Now is the value after Restore; empty if it could not be read.
	Now string `json:"now"`
}

// Restore gives each setting its Before again where it still has the After,
// and leaves all others alone: a value that someone else has set since is
// theirs. It works through the changes in reverse, does not stop at a failure,
// and returns one outcome for each change in the order that it was handed them.
// The error joins those of all outcomes that are [Failed].
func (f FS) Restore(changes []Change) ([]Outcome, error) {
	var faults []error
	outcomes := make([]Outcome, len(changes))
	for i, c := range slices.Backward(changes) {
		o, err := f.restore(c)
		if err != nil {
			faults = append(faults, err)
		}
		outcomes[i] = o
	}
	return outcomes, errors.Join(faults...)
}

func (f FS) restore(c Change) (Outcome, error) {
	before := normalise(c.Before)
	have, err := f.Get(c.Key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Outcome{Change: c, State: Gone}, nil
	case err != nil:
		return Outcome{Change: c, State: Failed}, err
	case have == before:
		return Outcome{Change: c, State: Already, Now: have}, nil
	case have != normalise(c.After):
		return Outcome{Change: c, State: Foreign, Now: have}, nil
	}
	if err := f.set(c.Key, before); err != nil {
		now, _ := f.Get(c.Key) // The write's error is the one that tells.
		return Outcome{Change: c, State: Failed, Now: now}, err
	}
	return Outcome{Change: c, State: Restored, Now: before}, nil
}
