package target

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	formHint = "write HOST:PORT, such as 192.0.2.1:80, [2001:db8::1]:443 or www.example.com:80,443"
	portHint = "give the port as a number from 1 to 65535, several with commas"
)

// A Spec is what one word of a user says: a host, or a prefix of addresses, and
// ports.
type Spec struct {
	// Text is the word as the user wrote it.
	Text string
	// Name is the host's name; empty if the user gave an address or a prefix.
	Name string
	// Prefix is the address, with all its bits, or the prefix; the zero Prefix
	// if the user gave a name. It is never an IPv4-mapped IPv6 one.
	Prefix netip.Prefix
	// Zone is the zone of an IPv6 address; usually empty.
	Zone string
	// Ports are one or more ports from 1 to 65535, in the user's order and
	// without duplicates.
	Ports []uint16

	where where
}

// where is the list that a text is from, and its line there; zero: none.
type where struct {
	list string
	line int
}

func (w where) String() string {
	if w.line == 0 {
		return w.list
	}
	return w.list + ":" + strconv.Itoa(w.line)
}

// Line returns the line of the list that it is from; 0 if it is from none.
func (s Spec) Line() int { return s.where.line }

// ParseHost reads a host without ports: an address, with brackets or without, a
// name or a prefix. The error is an [*Error].
func ParseHost(text string) (Spec, error) {
	const advice = "write an address, a name or a prefix, such as 192.0.2.1, 2001:db8::1, www.example.com or 192.0.2.0/24"
	if problem := unprintable(text); problem != "" {
		return Spec{}, &Error{Subject: text, Problem: problem, Advice: advice}
	}
	host, bracketed := text, strings.HasPrefix(text, "[")
	switch {
	case strings.HasPrefix(text, "-"):
		return Spec{}, &Error{Subject: text, Problem: "begins with a dash", Advice: advice}
	case bracketed && !strings.HasSuffix(text, "]"):
		return Spec{}, &Error{Subject: text, Problem: "more than a host", Advice: advice + "; ports go under ports:"}
	case !bracketed && strings.Count(text, ":") > 1:
		host = "[" + text + "]"
	case !bracketed && strings.Contains(text, ":"):
		return Spec{}, &Error{Subject: text, Problem: "more than a host", Advice: advice + "; ports go under ports:"}
	}
	spec := Spec{Text: text}
	if err := spec.parseHost(host); err != nil {
		err.Subject = text
		return Spec{}, err
	}
	return spec, nil
}

// Parse reads HOST:PORT[,PORT...], where HOST is an IPv4 address, an IPv6
// address in brackets, a host name of RFC 1123, or a prefix: 192.0.2.0/24:443,
// [2001:db8::/32]:443. It asks no resolver. The error is an [*Error].
func Parse(text string) (Spec, error) {
	spec, err := parse(text)
	if err != nil {
		return Spec{}, err
	}
	spec.Text = text
	return spec, nil
}

func parse(text string) (Spec, error) {
	bad := func(problem, advice string) (Spec, error) {
		return Spec{}, &Error{Subject: text, Problem: problem, Advice: advice}
	}
	if problem := unprintable(text); problem != "" {
		return bad(problem, formHint)
	}
	if strings.HasPrefix(text, "-") {
		return bad("looks like a flag", formHint)
	}
	if strings.HasPrefix(text, "[") && !strings.Contains(text, "]") {
		return bad("a bracket is not closed", bracketHint)
	}
	host, ports, ok := cutPorts(text)
	if !ok {
		return bad("no port", formHint)
	}
	if host == "" {
		return bad("no host", formHint)
	}
	spec := Spec{}
	if err := spec.parseHost(host); err != nil {
		err.Subject = text
		return Spec{}, err
	}
	var err error
	if spec.Ports, err = parsePorts(ports); err != nil {
		return bad(err.Error(), portHint)
	}
	return spec, nil
}

// unprintable refuses what would spoil a terminal or a log before it is parsed.
func unprintable(text string) string {
	if text == "" {
		return "it is empty"
	}
	if !utf8.ValidString(text) {
		return "not UTF-8 text"
	}
	for _, r := range text {
		if unicode.IsSpace(r) {
			return "white space in it"
		}
		if !unicode.IsPrint(r) {
			return fmt.Sprintf("character %U in it", r)
		}
	}
	return ""
}

// cutPorts splits at the colon that ends the host: behind a bracket if the
// text begins with one, else at the last.
func cutPorts(text string) (host, ports string, ok bool) {
	end := strings.LastIndex(text, ":")
	if strings.HasPrefix(text, "[") {
		if end = strings.Index(text, "]:"); end >= 0 {
			end++
		}
	}
	if end < 0 {
		return "", "", false
	}
	return text[:end], text[end+1:], true
}

func parsePorts(text string) ([]uint16, error) {
	if !strings.Contains(text, ",") { // most lines of long lists
		port, err := parsePort(text)
		if err != nil {
			return nil, err
		}
		return []uint16{port}, nil
	}
	words := strings.Split(text, ",")
	ports := make([]uint16, 0, len(words))
	seen := map[uint16]bool{}
	for _, word := range words {
		port, err := parsePort(word)
		if err != nil {
			return nil, err
		}
		if seen[port] {
			return nil, fmt.Errorf("port %d twice", port)
		}
		seen[port] = true
		ports = append(ports, port)
	}
	return slices.Clip(ports), nil
}

func parsePort(word string) (uint16, error) {
	if word == "" {
		return 0, errors.New("a port is empty")
	}
	// A leading zero, which some programs read as octal, is refused below.
	n, err := strconv.ParseUint(word, 10, 16)
	if errors.Is(err, strconv.ErrRange) || (err == nil && n == 0) {
		return 0, fmt.Errorf("port %s is out of range", quote(word))
	}
	if err != nil || word[0] == '0' {
		return 0, fmt.Errorf("port %s is not a number", quote(word))
	}
	return uint16(n), nil
}
