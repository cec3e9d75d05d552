package lab

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The kernel judges the checksums too: see TestSegmentMeetsKernel in the e2e tests.
func TestSegmentRoundTrip(t *testing.T) {
	for name, s := range map[string]Segment{
		"ipv4 SYN": {
			Source:      netip.MustParseAddrPort("10.77.1.2:40000"),
			Destination: netip.MustParseAddrPort("10.77.2.2:80"),
			Seq:         0xfffffffe, Flags: SYN, Window: 64240, Options: SYNOptions(1460, 7, 12345), TTL: 64,
		},
		"ipv6 data, odd length": {
			Source:      netip.MustParseAddrPort("[fd77:1::2]:40000"),
			Destination: netip.MustParseAddrPort("[fd77:2::2]:80"),
			Seq:         1, Ack: 0xffffffff, Flags: ACK | PSH, Window: 1, Payload: []byte("odd"), TTL: 1,
		},
		"ipv4 RST, nothing else": {
			Source:      netip.MustParseAddrPort("255.255.255.255:65535"),
			Destination: netip.MustParseAddrPort("255.255.255.255:65535"),
			Flags:       RST, ID: 0xffff, TTL: 255,
		},
	} {
		t.Run(name, func(t *testing.T) {
			packet, err := s.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseSegment(packet)
			if err != nil {
				t.Fatal(err)
			}
			equal := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
			if diff := cmp.Diff(s, got, equal, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			covered := 8 // where the checksum's cover begins: the addresses
			if s.Source.Addr().Is4() {
				covered = 12
				if sum := fold(sum16(packet[:ipv4Header])); sum != 0 {
					t.Errorf("IPv4 header checksum is off by %#x", sum)
				}
			}
			for i := covered; i < len(packet); i++ {
				packet[i] ^= 0x10
				if got, err := ParseSegment(packet); err == nil && !got.BadChecksum {
					t.Errorf("byte %d spoiled, and the checksum is still good", i)
				}
				packet[i] ^= 0x10
			}
		})
	}
}

func TestSegmentOptions(t *testing.T) {
	s := Segment{Options: SYNOptions(1460, 7, 12345)}
	mss, hasMSS := s.MSS()
	shift, hasShift := s.WindowScale()
	value, echo, hasTime := s.Timestamps()
	if mss != 1460 || !hasMSS || shift != 7 || !hasShift || value != 12345 || echo != 0 || !hasTime || !s.SACKPermitted() {
		t.Errorf("got mss %d %t, wscale %d %t, timestamps %d %d %t, sack %t",
			mss, hasMSS, shift, hasShift, value, echo, hasTime, s.SACKPermitted())
	}
	for name, options := range map[string][]byte{
		"none": nil, "length 0": {optMSS, 0, 1, 2}, "length 1": {optWScale, 1, 7}, "overrun": {optMSS, 4, 5},
		"lone kind": {optWScale}, "behind the end": {optEnd, optMSS, 4, 5, 6}, "odd size": {optMSS, 3, 5, optEnd},
	} {
		s := Segment{Options: options}
		_, hasMSS := s.MSS()
		_, hasShift := s.WindowScale()
		if hasMSS || hasShift {
			t.Errorf("%s: found an option in % x", name, options)
		}
	}
}

func FuzzParseSegment(f *testing.F) {
	for _, s := range []Segment{
		{Source: netip.MustParseAddrPort("10.0.0.1:1"), Destination: netip.MustParseAddrPort("10.0.0.2:2"), Options: SYNOptions(1, 2, 3)},
		{Source: netip.MustParseAddrPort("[fd00::1]:1"), Destination: netip.MustParseAddrPort("[fd00::2]:2"), Payload: []byte("x")},
	} {
		packet, err := s.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		s, err := ParseSegment(packet)
		if err != nil {
			return
		}
		s.MSS()
		s.WindowScale()
		s.SACKPermitted()
		s.Timestamps()
		again, err := s.Marshal()
		if err != nil {
			t.Fatalf("%+v was parsed, and cannot be written: %v", s, err)
		}
		if s.TTL == 0 || s.BadChecksum {
			return
		}
		got, err := ParseSegment(again)
		if err != nil || got.BadChecksum || got.Seq != s.Seq || got.Source != s.Source || string(got.Payload) != string(s.Payload) {
			t.Errorf("%+v became %+v, %v", s, got, err)
		}
	})
}
