package target

import (
	"fmt"
	"net/netip"
	"strings"
)

const (
	nameHint    = "a host name has letters, digits and hyphens, with dots between its parts"
	bracketHint = "put the IPv6 address in brackets: [2001:db8::1]:443"
	addressHint = "check the address"

	maxNameLen  = 253 // RFC 1035, section 2.3.4, without the final dot
	maxLabelLen = 63
	maxZoneLen  = 15 // IFNAMSIZ less the final NUL
)

// parseHost sets Name, or Prefix and Zone. A bracket at the beginning of host
// has its partner at the end.
func (s *Spec) parseHost(host string) *Error {
	bracketed := strings.HasPrefix(host, "[")
	if bracketed {
		host = host[1 : len(host)-1]
	}
	switch colon := strings.Contains(host, ":"); {
	case bracketed && !colon:
		return &Error{Problem: "no IPv6 address in the brackets", Advice: bracketHint}
	case colon && !bracketed:
		return &Error{Problem: "more than one colon, without brackets", Advice: bracketHint}
	case strings.Contains(host, "/"):
		return s.parsePrefix(host)
	case bracketed:
		return s.parseAddr(host)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return s.parseAddr(host)
	}
	if problem := checkName(host); problem != "" {
		return &Error{Problem: problem, Advice: nameHint}
	}
	s.Name = host
	return nil
}

func (s *Spec) parseAddr(host string) *Error {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return &Error{Problem: "not an IPv6 address", Advice: addressHint}
	}
	if zone := addr.Zone(); zone != "" {
		if addr.Is4In6() {
			return &Error{Problem: "an IPv4 address has no zone", Advice: addressHint}
		}
		if len(zone) > maxZoneLen || !allIn(zone, isZoneByte) {
			return &Error{Problem: fmt.Sprintf("zone %s is not the name of an interface", quote(zone)), Advice: addressHint}
		}
		s.Zone = zone
	}
	addr = addr.WithZone("").Unmap()
	s.Prefix = netip.PrefixFrom(addr, addr.BitLen())
	return nil
}

func (s *Spec) parsePrefix(host string) *Error {
	prefix, err := netip.ParsePrefix(host)
	if err != nil {
		return &Error{Problem: "not a prefix", Advice: "write it as 192.0.2.0/24:443 or [2001:db8::/32]:443"}
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 {
			return &Error{Problem: "a prefix of IPv4-mapped addresses", Advice: "write the IPv4 prefix"}
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	if masked := prefix.Masked(); masked != prefix {
		advice := fmt.Sprintf("write %s for the network, or %s for the one address", masked, prefix.Addr())
		return &Error{Problem: "the address has bits beyond the length of the prefix", Advice: advice}
	}
	s.Prefix = prefix
	return nil
}

// checkName says what keeps name from being a host name of RFC 1123, section
// 2.1. A name whose last part is a number is refused too: it is an address with
// a mistake in it, and no resolver shall be asked for it.
func checkName(name string) string {
	name = strings.TrimSuffix(name, ".")
	if len(name) > maxNameLen {
		return fmt.Sprintf("a host name of more than %d bytes", maxNameLen)
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		switch {
		case label == "":
			return "a part of the host name is empty"
		case len(label) > maxLabelLen:
			return fmt.Sprintf("a part of the host name is longer than %d bytes", maxLabelLen)
		case label[0] == '-' || label[len(label)-1] == '-':
			return fmt.Sprintf("%q begins or ends with a hyphen", label)
		}
		for _, r := range label {
			if r >= 0x80 || !isNameByte(byte(r)) {
				return fmt.Sprintf("%q does not belong in a host name", r)
			}
		}
	}
	if last := labels[len(labels)-1]; allIn(last, isDigit) {
		return "neither an address nor a host name"
	}
	return ""
}

func allIn(s string, class func(byte) bool) bool {
	for i := range len(s) {
		if !class(s[i]) {
			return false
		}
	}
	return true
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

func isNameByte(b byte) bool {
	return isDigit(b) || b == '-' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

func isZoneByte(b byte) bool { return isNameByte(b) || b == '.' || b == '_' || b == '@' }
