package protect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/synproxyctl/synproxyctl/pkg/probe"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Code says what an error means for whoever asked. Its text is the "code" of
// the JSON output.
type Code string

// The codes.
const (
	Failed      Code = "failed"         // what was begun has been rolled back
	Usage       Code = "usage"          // what was asked for makes no sense; nothing was touched
	No          Code = "no"             // the honest no: the answer is not the one hoped for
	Permission  Code = "permission"     // a capability is missing
	Unsupported Code = "unsupported"    // a program or kernel feature is missing
	Conflict    Code = "conflict"       // another instance, or a foreign owner
	Stuck       Code = "rollback"       // failed, and the rollback failed too
	Interrupted Code = "interrupted"    // rolled back on request
	NotApplied  Code = "not-applicable" // there is nothing to act on
)

// Error is an error with a code and the next step to take.
type Error struct {
	Code Code
	Err  error
	Next string // what to do next, without a full stop; may be empty
}

// Error returns the message without the hint.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns what to do next.
func (e *Error) Hint() string { return e.Next }

// Errorf makes an [Error] of a format, which may use %w.
func Errorf(code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...), Next: hint}
}

// CodeOf returns the code of any error: that of the outermost [Error] in its
// chain, else what the standard errors in it mean.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.Is(err, fs.ErrPermission):
		return Permission
	case errors.Is(err, rules.ErrUnsupported):
		return Unsupported
	case errors.Is(err, rules.ErrForeignOwner), errors.Is(err, rules.ErrIncompatible):
		return Conflict
	case errors.Is(err, probe.ErrConfig):
		return Usage
	}
	return Failed
}

// HintOf returns the next step that an error carries, or that its cause
// suggests; empty if there is none.
func HintOf(err error) string {
	if hint := carried(err); hint != "" {
		return hint
	}
	switch CodeOf(err) {
	case Interrupted:
		return "nothing is left half done; run the command again"
	case Usage:
		return "correct what is named; nothing was touched"
	case Permission:
		return "run it as root, or with the capability that is named"
	case Unsupported:
		return "install the package iptables (Debian, Ubuntu, Arch) or iptables-nft (Red Hat, Fedora)"
	case Conflict:
		return "look at the rule that is named; it is not ours to change"
	}
	return "the kernel's log (dmesg) may say more; nothing was left changed"
}

// carried finds the first hint in the tree of an error.
func carried(err error) string {
	if h, ok := err.(interface{ Hint() string }); ok && h.Hint() != "" {
		return h.Hint()
	}
	switch e := err.(type) { //nolint:errorlint // the tree itself is walked
	case interface{ Unwrap() error }:
		return carried(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			if hint := carried(one); hint != "" {
				return hint
			}
		}
	}
	return ""
}
