package sysctl

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrKey reports a key that cannot be the name of a setting: it is empty, has
// an empty part, would leave the root directory, or holds white space.
var ErrKey = errors.New("bad sysctl key")

// maxPart is the longest file name that Linux knows, NAME_MAX in
// include/uapi/linux/limits.h.
const maxPart = 255

// keyPath turns a key of sysctl(8) into a path relative to the root directory.
// The first separator decides: after a dot, dots separate and a slash stands
// for a dot; after a slash, slashes separate and a dot is a dot.
func keyPath(key string) (string, error) {
	if err := checkText(key); err != nil {
		return "", err
	}
	path := key
	if first := strings.IndexAny(key, "./"); first >= 0 && key[first] == '.' {
		path = swapSeparators(key)
	}
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "":
			return "", fmt.Errorf("%w %q: a part of it is empty", ErrKey, key)
		case part == "." || part == "..":
			return "", fmt.Errorf("%w %q: %q is not a name", ErrKey, key, part)
		case len(part) > maxPart:
			return "", fmt.Errorf("%w %q: a part of it is longer than %d bytes", ErrKey, key, maxPart)
		}
	}
	return path, nil
}

// checkText refuses what no file below /proc/sys can be called, before any of
// it reaches the file system or an error message of it.
func checkText(key string) error {
	if key == "" {
		return fmt.Errorf("%w: it is empty", ErrKey)
	}
	if !utf8.ValidString(key) {
		return fmt.Errorf("%w %q: it is not UTF-8", ErrKey, key)
	}
	for _, r := range key {
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			return fmt.Errorf("%w %q: it holds white space or a control character", ErrKey, key)
		}
	}
	return nil
}

func swapSeparators(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, s)
}
