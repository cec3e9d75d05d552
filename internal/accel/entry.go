package accel

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// Entry is one destination that the program answers for, with all that its SYN+ACKs say.
type Entry struct {
	// Destination is one address, or a network. The longest one counts.
	Destination netip.Prefix
	Port        uint16 // 1 to 65535
	// VLAN is where frames must come from; the zero VLAN means without a tag.
	VLAN VLAN
	// Options are those of the rule: a client's are masked with them.
	Options rules.Options
	// TTL is that of the SYN+ACK, or its hop limit: net.ipv4.ip_default_ttl, net.ipv6.conf.all.hop_limit. Not 0.
	TTL uint8
	// Window is that of the SYN+ACK: 0 is SYNPROXY's own, 1 what [rules.Window] makes of it.
	Window uint16
}

// Tag is one VLAN tag: a number from 1 to 4094, with [Provider] added where it is one of 802.1ad. 0 is none.
type Tag uint16

// Provider marks a tag of 802.1ad (EtherType 0x88a8) in place of 802.1Q (0x8100).
const Provider Tag = 0x1000

// VLAN is the tags of a frame. The zero value has none.
type VLAN struct {
	Outer Tag // or the only one
	Inner Tag // 0 if there is only one
}

// Link is what the answers on one interface have in common.
type Link struct {
	// VLANs whose frames are answered; nil means those without a tag.
	VLANs []VLAN
	// TTL and HopLimit of what this host sends, in IPv4 and IPv6: 1 to 255.
	TTL, HopLimit uint8
	// OpenWindow tells that the rules open the window of SYN+ACKs: [rules.Policy.Window].
	OpenWindow bool
}

// Entries returns what the program must hold so that it answers for services as their rules do, sorted. It reads their
// destination, port and options; that they belong to the interface, and that nothing restricts them, is the caller's
// business.
func Entries(services []rules.Service, on Link) []Entry {
	vlans := on.VLANs
	if vlans == nil {
		vlans = []VLAN{{}}
	}
	entries := make([]Entry, 0, len(services)*len(vlans))
	for _, s := range services {
		e := Entry{Destination: s.Destination, Port: s.Port, Options: s.Options, TTL: on.TTL}
		if s.Family() == rules.IPv6 {
			e.TTL = on.HopLimit
		}
		if on.OpenWindow {
			e.Window = 1
		}
		for _, e.VLAN = range vlans {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, Entry.compare)
	return entries
}

// Equal tells whether two entries say the same.
func (e Entry) Equal(f Entry) bool {
	a, errA := e.service()
	b, errB := f.service()
	return e.compare(f) == 0 && errA == nil && errB == nil && a == b
}

// Service returns the entry as a service that has nothing else.
func (e Entry) Service() rules.Service {
	return rules.Service{Destination: e.Destination, Port: e.Port, Options: e.Options}
}

// compare orders by what an entry is for.
func (e Entry) compare(f Entry) int {
	return cmp.Or(
		e.Destination.Addr().Compare(f.Destination.Addr()), cmp.Compare(e.Destination.Bits(), f.Destination.Bits()),
		cmp.Compare(e.Port, f.Port), cmp.Compare(e.VLAN.tags(), f.VLAN.tags()))
}

// String returns the entry's destination, for people.
func (e Entry) String() string {
	s := netip.AddrPortFrom(e.Destination.Addr(), e.Port).String()
	if !e.Destination.IsSingleIP() {
		s = fmt.Sprintf("%s:%d", e.Destination, e.Port)
	}
	if e.VLAN != (VLAN{}) {
		s += " in VLAN " + e.VLAN.String()
	}
	return s
}

// String returns the numbers, the outer first.
func (v VLAN) String() string {
	s := fmt.Sprint(uint16(v.Outer &^ Provider))
	if v.Inner != 0 {
		s += fmt.Sprint(".", uint16(v.Inner&^Provider))
	}
	return s
}

// present marks a tag, in the map's form.
const present = 0x8000

// tags returns the map's form: outer << 16 | inner, or the only one.
func (v VLAN) tags() uint32 {
	switch {
	case v.Outer == 0:
		return 0
	case v.Inner == 0:
		return present | uint32(v.Outer)
	}
	return (present|uint32(v.Outer))<<16 | present | uint32(v.Inner)
}

// vlanOf is the way back.
func vlanOf(tags uint32) VLAN {
	outer, inner := Tag(tags>>16)&^present, Tag(tags)&^present
	if outer == 0 {
		return VLAN{Outer: inner}
	}
	return VLAN{Outer: outer, Inner: inner}
}

func (v VLAN) valid() bool {
	for _, t := range []Tag{v.Outer, v.Inner} {
		if t&^Provider > 4094 || t == Provider {
			return false
		}
	}
	return v.Outer != 0 || v.Inner == 0
}

// The options as bits: include/uapi/linux/netfilter/nf_SYNPROXY.h.
const (
	optMSS = 1 << iota
	optWScale
	optSACKPerm
	optTimestamp
)

// key returns the entry's place in the map, in the form of the trie.
func (e Entry) key() (bpfPrefix, error) {
	d := e.Destination
	switch {
	case !d.IsValid() || d != d.Masked() || d.Addr().Is4In6():
		return bpfPrefix{}, fmt.Errorf("destination %s: not an address or a network", d)
	case e.Port == 0:
		return bpfPrefix{}, fmt.Errorf("%s: port 0", e)
	case !e.VLAN.valid():
		return bpfPrefix{}, fmt.Errorf("%s: no such VLAN", e)
	}
	k := bpfPrefix{Bits: fixedBits + uint32(d.Bits()), Key: bpfKey{Tags: e.VLAN.tags(), Port: onWire(e.Port), Family: 6}}
	if d.Addr().Is4() {
		k.Key.Family = 4
	}
	raw := d.Addr().AsSlice()
	for i := range len(raw) / 4 {
		k.Key.Address[i] = binary.NativeEndian.Uint32(raw[4*i:])
	}
	return k, nil
}

// fixedBits is how much of a key stands before the address: tags, port, family.
const fixedBits = 64

// service returns the entry's value in the map.
func (e Entry) service() (bpfService, error) {
	if e.TTL == 0 {
		return bpfService{}, fmt.Errorf("%s: time to live 0", e)
	}
	v := bpfService{Window: e.Window, Ttl: e.TTL}
	o := e.Options
	if o.MSS != nil {
		v.Mss, v.Options = *o.MSS, v.Options|optMSS
	}
	if o.WScale != nil {
		if *o.WScale > 14 {
			return bpfService{}, fmt.Errorf("%s: window scale %d: at most 14 (RFC 7323)", e, *o.WScale)
		}
		v.Wscale, v.Options = *o.WScale, v.Options|optWScale
	}
	if o.SACKPerm {
		v.Options |= optSACKPerm
	}
	if o.Timestamps {
		v.Options |= optTimestamp
	}
	return v, nil
}

// entryOf is the way back from the map, whoever filled it.
func entryOf(k bpfPrefix, v bpfService) (Entry, error) {
	e := Entry{Port: onWire(k.Key.Port), VLAN: vlanOf(k.Key.Tags), TTL: v.Ttl, Window: v.Window}
	var raw [16]byte
	for i, w := range k.Key.Address {
		binary.NativeEndian.PutUint32(raw[4*i:], w)
	}
	bits := int(k.Bits) - fixedBits
	switch k.Key.Family {
	case 4:
		e.Destination = netip.PrefixFrom(netip.AddrFrom4([4]byte(raw[:4])), min(bits, 32)) // a hash key has no length
	case 6:
		e.Destination = netip.PrefixFrom(netip.AddrFrom16(raw), bits)
	}
	if v.Options&optMSS != 0 {
		e.Options.MSS = &v.Mss
	}
	if v.Options&optWScale != 0 {
		e.Options.WScale = &v.Wscale
	}
	e.Options.SACKPerm = v.Options&optSACKPerm != 0
	e.Options.Timestamps = v.Options&optTimestamp != 0
	// What does not come out as it went in is not ours.
	back, err := e.key()
	if err != nil {
		return Entry{}, err
	}
	if want, err := e.service(); err != nil || back.Key != k.Key || v.Access != 0 || want.Options != v.Options {
		return Entry{}, fmt.Errorf("%s: not an entry of this version", e)
	}
	return e, nil
}

// onWire changes between a number and its bytes in network order.
func onWire(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
