package target

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/synproxyctl/synproxyctl/internal/own"
)

// maxLine bounds a line of a list, in bytes: a host and some thousand ports.
const maxLine = 32 << 10

const (
	listHint = "write one target per line, such as 192.0.2.1:80; # starts a comment"
	stdin    = "standard input"
)

// Read parses the words of a command line. A word "-" stands for the lines of
// in, and @FILE for those of a file; each is read at most once. It returns all
// faults, joined, up to a bound; each is an [*Error]. No words at all, and a
// list without a target, are faults too.
func Read(words []string, in io.Reader) ([]Spec, error) {
	if len(words) == 0 {
		return nil, &Error{Problem: "no target", Advice: formHint}
	}
	var (
		specs  []Spec
		faults []error
		lists  = map[string]bool{}
	)
	for _, word := range words {
		isList := word == "-" || strings.HasPrefix(word, "@")
		if isList && lists[word] {
			faults = append(faults, &Error{Problem: "list " + quote(word) + " twice", Advice: "name each list once"})
			continue
		}
		lists[word] = isList
		more, err := readWord(word, in)
		specs = append(specs, more...)
		if err != nil {
			faults = append(faults, err)
		}
	}
	if err := joinFaults(faults); err != nil {
		return nil, err
	}
	return specs, nil
}

func readWord(word string, in io.Reader) ([]Spec, error) {
	path, isFile := strings.CutPrefix(word, "@")
	switch {
	case word == "-":
		return ParseList(in, stdin)
	case word == "@":
		return nil, &Error{Problem: "no file after @", Advice: "write @FILE, with one target per line in FILE"}
	case isFile:
		return readFile(path, nil)
	}
	spec, err := Parse(word)
	if err != nil {
		return nil, err
	}
	return []Spec{spec}, nil
}

// readFile reads a list from a file, or from whatever else has a path. Half of a
// plain file that is being written is a fault. If between is set it is called
// before the end is looked at: tests change the file then.
func readFile(path string, between func()) ([]Spec, error) {
	cannot := func(err error) ([]Spec, error) {
		return nil, &Error{Where: path, Problem: "cannot open the list of targets", Advice: "check the path and its permissions", Err: errnoOf(err)}
	}
	file, err := os.Open(path)
	if err != nil {
		return cannot(err)
	}
	defer file.Close()
	before, err := file.Stat()
	if err != nil {
		return cannot(err)
	}
	specs, err := ParseList(file, path)
	if !before.Mode().IsRegular() {
		return specs, err
	}
	if between != nil {
		between()
	}
	if after, serr := file.Stat(); serr != nil || !own.Unchanged(before, after) {
		return nil, &Error{Where: path, Problem: "was changed while it was read", Advice: "run the command again when it is written; best write a new file and rename it"}
	}
	return specs, err
}

// ParseList reads one target per line; # starts a comment, blank lines and the
// ends of lines of Windows do not count. The name of the list and the number of
// the line are in every error. Binary data, lines of more than 32 KiB and a
// list without a target are faults. It returns all faults, joined, up to a
// bound; each is an [*Error].
func ParseList(r io.Reader, name string) ([]Spec, error) {
	var (
		specs  []Spec
		faults []error
	)
	if known, ok := r.(interface{ Len() int }); ok {
		const short = 16 // bytes of a line; of shorter ones the list grows
		specs = make([]Spec, 0, min(MaxTargets, known.Len()/short))
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	number := 0
	for lines.Scan() {
		number++
		at := where{name, number}
		line := lines.Bytes()
		if number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if bytes.IndexByte(line, 0) >= 0 || !utf8.Valid(line) {
			return nil, &Error{Where: at.String(), Line: number, Problem: "binary data instead of text", Advice: listHint}
		}
		text, _, _ := strings.Cut(string(line), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		spec, err := Parse(text)
		if err != nil {
			if e := (*Error)(nil); errors.As(err, &e) {
				e.Where, e.Line = at.String(), number
			}
			faults = append(faults, err)
			continue
		}
		if len(specs) == MaxTargets {
			return nil, &Error{Where: at.String(), Line: number, Problem: tooMany, Advice: tooManyHint}
		}
		spec.where = at
		specs = append(specs, spec)
	}
	if err := lines.Err(); err != nil {
		return nil, readError(name, number+1, err)
	}
	if err := joinFaults(faults); err != nil {
		return nil, err
	}
	if len(specs) == 0 {
		return nil, &Error{Where: name, Problem: "no target in the list", Advice: listHint}
	}
	return specs, nil
}

func readError(name string, line int, err error) error {
	if errors.Is(err, bufio.ErrTooLong) {
		return &Error{Where: where{name, line}.String(), Line: line, Problem: fmt.Sprintf("a line of more than %d bytes", maxLine), Advice: listHint}
	}
	return &Error{Where: name, Problem: "cannot read the list of targets", Advice: "check that it is a readable text file", Err: errnoOf(err)}
}

// errnoOf drops the path that the message already names.
func errnoOf(err error) error {
	if perr := (*os.PathError)(nil); errors.As(err, &perr) {
		return perr.Err
	}
	return err
}
