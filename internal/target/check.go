package target

import (
	"fmt"
	"net/netip"
)

// A class is a range of addresses that is not that of one host, or that rules
// cannot protect.
type class struct {
	prefix netip.Prefix
	what   string
	advice string
	probe  bool // whether it may be probed all the same
}

const hostAdvice = "give the address of one host"

// classes are the special addresses of RFC 6890 that matter here. That SYNPROXY
// loops on link-local IPv6 destinations was measured on Linux 6.18.
var classes = []class{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified", hostAdvice, false},
	{netip.MustParsePrefix("::/128"), "unspecified", hostAdvice, false},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast", hostAdvice, false},
	{netip.MustParsePrefix("ff00::/8"), "multicast", hostAdvice, false},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast", hostAdvice, false},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback", "give the address that clients connect to", true},
	{netip.MustParsePrefix("::1/128"), "loopback", "give the address that clients connect to", true},
	{netip.MustParsePrefix("fe80::/10"), "link-local", "give the server's global or unique local address", true},
}

// CheckProbe tells whether the target can be probed: it must be the address of
// one host, and the port of no prefix. The error is an [*Error].
func (t Target) CheckProbe() error {
	if !t.IsAddress() {
		return t.fault("a prefix cannot be probed", "give one address of it")
	}
	for _, c := range classes {
		if !c.probe && c.prefix.Overlaps(t.Prefix) {
			return t.fault(fmt.Sprintf("%s is a %s address", t.Prefix.Addr(), c.what), c.advice)
		}
	}
	return nil
}

// CheckApply tells whether rules can protect the target: no address of it is
// loopback, link-local IPv6, multicast, broadcast or unspecified. The error is
// an [*Error].
func (t Target) CheckApply() error {
	for _, c := range classes {
		if !c.prefix.Overlaps(t.Prefix) {
			continue
		}
		if t.IsAddress() {
			return t.fault(fmt.Sprintf("%s is a %s address, which cannot be protected", t.Prefix.Addr(), c.what), c.advice)
		}
		return t.fault(fmt.Sprintf("%s holds %s addresses, which cannot be protected", t.Prefix, c.what), "give a smaller prefix")
	}
	if t.Zone != "" {
		return t.fault("an address with a zone cannot be protected", "give the address without the zone, and --interface")
	}
	return nil
}

func (t Target) fault(problem, advice string) *Error {
	return &Error{Where: t.where.String(), Line: t.where.line, Subject: t.Text, Problem: problem, Advice: advice}
}
