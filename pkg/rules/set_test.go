package rules

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// member returns one of few, so that lists have some in common.
func (g generator) member() Member {
	address := pick(g, "192.0.2.%d/32", "198.51.%d.0/24", "198.51.0.0/1%d", "2001:db8::%d/128", "2001:db8:%d::/48")
	return Member{
		Prefix: netip.MustParsePrefix(fmt.Sprintf(address, g.IntN(6))).Masked(), Port: pick(g, uint16(80), 443, 65535),
		Object: pick(g, "", "", "synproxyctl_none", "synproxyctl_sack"),
	}
}

func (g generator) members() []Member {
	s := Set{Members: []Member{}}
	for range g.IntN(20) {
		s.Members = append(s.Members, g.member())
	}
	s.normalize()
	return s.Members
}

// looked returns the members by what a packet is looked up by.
func looked(list []Member) map[Member]Member {
	all := map[Member]Member{}
	for _, m := range list {
		key := m
		key.Object = ""
		all[key] = m
	}
	return all
}

func TestMembersNormalize(t *testing.T) {
	for seed := range uint64(500) {
		g := generator{rand.New(rand.NewPCG(seed, 6))}
		var s Set
		for range g.IntN(30) {
			s.Members = append(s.Members, g.member())
		}
		want := looked(s.Members)
		s.normalize()
		if got := looked(s.Members); len(got) != len(s.Members) || len(got) != len(want) {
			t.Errorf("%d members, %d of them unlike; want %d", len(s.Members), len(got), len(want))
		}
		for i, m := range s.Members {
			if _, ok := want[Member{Prefix: m.Prefix, Port: m.Port}]; !ok {
				t.Errorf("%s comes from nowhere", m)
			}
			if i > 0 && s.Members[i-1].compare(m) >= 0 {
				t.Errorf("%s stands before %s", s.Members[i-1], m)
			}
		}
	}
}

// The walks over ordered lists must do what loops over all pairs would.
func TestMembersWithoutAndTogether(t *testing.T) {
	for seed := range uint64(2000) {
		g := generator{rand.New(rand.NewPCG(seed, 7))}
		a, b := g.members(), g.members()
		before := fmt.Sprint(a, b)
		var rest []Member
		for _, m := range a {
			if !slices.Contains(b, m) {
				rest = append(rest, m)
			}
		}
		if got := without(a, b); !slices.Equal(got, rest) || (got == nil) != (rest == nil) {
			t.Fatalf("%v\nwithout %v is\n%v, want\n%v", a, b, got, rest)
		}
		union := slices.Clone(b)
		for key, m := range looked(a) {
			if _, ok := looked(b)[key]; !ok {
				union = append(union, m)
			}
		}
		slices.SortFunc(union, Member.compare)
		if got := together(a, b); !slices.Equal(got, union) {
			t.Fatalf("%v\ntogether with %v is\n%v, want\n%v", a, b, got, union)
		}
		if now := fmt.Sprint(a, b); now != before {
			t.Fatalf("the lists have become\n%s, from\n%s", now, before)
		}
	}
}

func TestOptionsName(t *testing.T) {
	seen := map[string]bool{}
	for _, mss := range []*uint16{nil, ptr[uint16](0), ptr[uint16](88), ptr[uint16](1460), ptr[uint16](65535)} {
		for _, wscale := range []*uint8{nil, ptr[uint8](0), ptr[uint8](14), ptr[uint8](255)} {
			for bits := range 4 {
				o := Options{MSS: mss, WScale: wscale, SACKPerm: bits&1 != 0, Timestamps: bits&2 != 0}
				name := o.Name()
				back, err := optionsNamed(name)
				if err != nil || back.key() != o.key() || seen[name] || !strings.HasPrefix(name, SetPrefix+"_") {
					t.Errorf("%s: %v, %v", name, back, err)
				}
				seen[name] = true
			}
		}
	}
	for _, name := range []string{
		"", "synproxyctl", "synproxyctl_", "none", "synproxyctl_x", "synproxyctl_mss", "synproxyctl_mssx", "synproxyctl_mss65536", "synproxyctl_mss-1",
		"synproxyctl_mss01", "synproxyctl_mss+1", "synproxyctl_wscale256", "synproxyctl_wscale", "synproxyctl_wscale7_mss1460", "synproxyctl_sack_sack",
		"synproxyctl_timestamps_sack", "synproxyctl_none_sack", "synproxyctl_sack_none", "synproxyctl_sack_", "synproxyctl__sack", "synproxyctl_mss1_mss1",
		"mss1460", "SYNPROXYCTL_mss1460", "synproxyctl_mss1460 ", "synproxyctl_mss1460\x00",
	} {
		if o, err := optionsNamed(name); err == nil {
			t.Errorf("%q is the name of %v", name, o)
		}
	}
}

// nftElement returns a member as the kernel tells it.
func nftElement(m Member, networks bool) []byte {
	const counted = 8 // bytes of an attribute that is of no interest
	return appendAttrs(appendElement(nil, Set{Networks: networks, Mapped: m.Object != ""}, m, true)[4:], []attr{leaf(unix.NFTA_SET_ELEM_EXPR, make([]byte, counted))})
}

var members = []Member{
	{Prefix: pfx("192.0.2.1/32"), Port: 1},
	{Prefix: pfx("255.255.255.255/32"), Port: 65535, Object: "synproxyctl_mss1460"},
	{Prefix: pfx("2001:db8::1/128"), Port: 443, Object: "synproxyctl_none"},
	{Prefix: pfx("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"), Port: 256},
	{Prefix: pfx("198.51.100.0/24"), Port: 80},
	{Prefix: pfx("128.0.0.0/1"), Port: 80},
	{Prefix: pfx("198.51.100.2/31"), Port: 80, Object: "synproxyctl_sack"},
	{Prefix: pfx("2001:db8::/32"), Port: 80},
	{Prefix: pfx("2001:db8::4/127"), Port: 80},
	{Prefix: pfx("8000::/1"), Port: 80},
}

func TestMembersComeBack(t *testing.T) {
	for _, want := range members {
		networks := !want.Prefix.IsSingleIP()
		got, err := readMember(nftElement(want, networks), map[string]string{})
		if err != nil || got != want {
			t.Errorf("nft: %s comes back as %s, %v", want, got, err)
		}
		// In a set of networks one address has an end, too.
		if got, err := readMember(nftElement(want, true), map[string]string{}); err != nil || got != want {
			t.Errorf("nft: %s comes back from a set of networks as %s, %v", want, got, err)
		}
		bare := want
		bare.Object = ""
		encoded := appendIPSetMember(nil, want)
		if got, ok := decodeIPSetMember(encoded[4:]); !ok || got != bare {
			t.Errorf("ipset: %s comes back as %s, %t", bare, got, ok)
		}
		if len(encoded)%4 != 0 {
			t.Errorf("ipset: %s has %d bytes, which the next would not follow", want, len(encoded))
		}
	}
}

// What is not an address and a port of TCP is no member of ours.
func TestIPSetMembersOfOthers(t *testing.T) {
	good := appendIPSetMember(nil, members[0])[4:]
	if _, ok := decodeIPSetMember(good); !ok {
		t.Fatal("a good one is refused")
	}
	udp := bytes.Replace(good, []byte{5, 0, ipsetDataProto, 0, unix.IPPROTO_TCP}, []byte{5, 0, ipsetDataProto, 0, unix.IPPROTO_UDP}, 1)
	nomatch := append(slices.Clone(good), appendAttrs(nil, []attr{leaf(ipsetDataFlags|unix.NLA_F_NET_BYTEORDER, be32(1<<2))})...)
	for name, data := range map[string][]byte{"nothing": nil, "another protocol": udp, "an exception": nomatch, "no protocol": good[:len(good)-8], "half": good[:len(good)-5]} {
		if m, ok := decodeIPSetMember(data); ok {
			t.Errorf("%s: taken for %s", name, m)
		}
	}
}

func TestPatiently(t *testing.T) {
	n := 0
	busy := func(times int, after error) func() error {
		n = 0
		return func() error {
			if n++; n <= times {
				return fmt.Errorf("set x: %w", unix.EBUSY)
			}
			return after
		}
	}
	if err := patiently(busy(3, nil)); err != nil || n != 4 {
		t.Errorf("busy three times: %v after %d attempts", err, n)
	}
	if err := patiently(busy(1, unix.EPERM)); !errors.Is(err, unix.EPERM) || n != 2 {
		t.Errorf("not permitted: %v after %d attempts", err, n)
	}
	if err := patiently(busy(1<<30, nil)); !errors.Is(err, unix.EBUSY) || n < 2 {
		t.Errorf("always busy: %v after %d attempts", err, n)
	}
}

// ipsetPart returns one part of the dump of a set.
func ipsetPart(s Set) []byte {
	var list []byte
	for _, m := range s.Members {
		list = appendIPSetMember(list, m)
	}
	family := leaf(ipsetAttrFamily, []byte{protocol(s.Family)})
	data := nest(ipsetAttrData, leaf(ipsetDataHashSize|unix.NLA_F_NET_BYTEORDER, be32(64)), leaf(ipsetDataFlags|unix.NLA_F_NET_BYTEORDER, be32(ipsetFlagCounters)))
	return appendAttrs(nil, []attr{
		leaf(ipsetAttrProtocol, []byte{ipsetProtocol}), leaf(ipsetAttrName, text(s.Name)), leaf(ipsetAttrTypename, text(s.typeName())),
		family, data, leaf(ipsetAttrADT|unix.NLA_F_NESTED, list),
	})
}

func TestDecodeIPSet(t *testing.T) {
	for _, want := range []Set{
		{Family: IPv4, Name: "synproxyctl_n4_x", Counted: true, Members: members[:2]},
		{Family: IPv6, Name: "synproxyctl_n6_x", Counted: true, Networks: true, Members: members[7:]},
		{Family: IPv4, Name: "empty", Counted: true},
	} {
		got, err := decodeIPSet(ipsetPart(want))
		for i := range want.Members {
			want.Members = slices.Clone(want.Members)
			want.Members[i].Object = ""
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v comes back as %+v, %v", want, got, err)
		}
	}
	other := bytes.Replace(ipsetPart(Set{Family: IPv4, Name: "x"}), []byte("hash:ip,port"), []byte("hash:ip,mark"), 1)
	if got, err := decodeIPSet(other); err != nil || got.Foreign != "hash:ip,mark" || got.Members != nil {
		t.Errorf("a set of another type comes back as %+v, %v", got, err)
	}
}

// The bytes of one element, as nft 1.0.6 sends them: map { 192.0.2.0/24 . 80 : "synproxyctl_none" }.
func TestAppendElement(t *testing.T) {
	m := Member{Prefix: pfx("192.0.2.0/24"), Port: 80, Object: "synproxyctl_none"}
	want := appendAttrs(nil, []attr{nest(unix.NFTA_LIST_ELEM,
		value(unix.NFTA_SET_ELEM_KEY, []byte{192, 0, 2, 0, 0, 80, 0, 0}), value(nftElemKeyEnd, []byte{192, 0, 2, 255, 0, 80, 0, 0}),
		leaf(unix.NFTA_SET_ELEM_OBJREF, []byte("synproxyctl_none\x00")))})
	if got := appendElement(nil, Set{Networks: true, Mapped: true}, m, true); !bytes.Equal(got, want) {
		t.Errorf("got\n%x, want\n%x", got, want)
	}
	// What goes is named by its key alone.
	want = appendAttrs(nil, []attr{nest(unix.NFTA_LIST_ELEM, value(unix.NFTA_SET_ELEM_KEY, []byte{192, 0, 2, 0, 0, 80, 0, 0}))})
	if got := appendElement(nil, Set{Mapped: true}, m, false); !bytes.Equal(got, want) {
		t.Errorf("got\n%x, want\n%x", got, want)
	}
}

// FuzzReadMember checks that no bytes of an element harm, and that what is read
// of an element is what it says.
func FuzzReadMember(f *testing.F) {
	for _, m := range members {
		f.Add(nftElement(m, true))
		f.Add(nftElement(m, false))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMember(data, map[string]string{})
		if err != nil {
			return
		}
		if !m.Prefix.IsValid() {
			t.Fatalf("%+v is no member", m)
		}
		again, err := readMember(nftElement(m, true), map[string]string{})
		if err != nil || again != m {
			t.Fatalf("%+v comes back as %+v, %v", m, again, err)
		}
		_ = m.String()
	})
}

// FuzzDecodeIPSet checks that no answer of the kernel harms.
func FuzzDecodeIPSet(f *testing.F) {
	f.Add(ipsetPart(Set{Family: IPv4, Name: "synproxyctl_n4_x", Members: members[:2]}))
	f.Add(ipsetPart(Set{Family: IPv6, Name: "synproxyctl_n6_x", Networks: true, Members: members[7:]}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeIPSet(data)
		if err != nil {
			return
		}
		for _, m := range s.Members {
			if again, ok := decodeIPSetMember(appendIPSetMember(nil, m)[4:]); !ok || again != m {
				t.Fatalf("%+v comes back as %+v, %t", m, again, ok)
			}
		}
	})
}
