package probe

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func ptr[T any](v T) *T { return &v }

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	client4 = netip.MustParseAddr("192.0.2.1")
	server4 = netip.MustParseAddr("192.0.2.2")
	client6 = netip.MustParseAddr("2001:db8::1")
	server6 = netip.MustParseAddr("2001:db8::2")
)

// recorded are segments that two Linux 6.18 kernels exchanged, with tcpdump's reading of them.
var recorded = []struct {
	name     string
	src, dst netip.Addr
	bytes    string
	segment  Segment
}{
	{
		"syn4", client4, server4,
		"beba 0050 54cf 7061 0000 0000 a002 faf0 e559 0000 0204 05b4 0402 080a 97aa c7c8 0000 0000 0103 030a",
		Segment{
			SrcPort: 48826, DstPort: 80, Seq: 1422880865, Flags: SYN, Window: 64240, TSVal: 2544551880,
			Options: Options{MSS: ptr[uint16](1460), WScale: ptr[uint8](10), SACKPerm: true, Timestamps: true},
		},
	},
	{
		"syn ack 4", server4, client4,
		"0050 beba ae38 a7a5 54cf 7062 a012 fe88 c333 0000 0204 05b4 0402 080a 806e 4830 97aa c7c8 0103 030a",
		Segment{
			SrcPort: 80, DstPort: 48826, Seq: 2922948517, Ack: 1422880866, Flags: SYN | ACK, Window: 65160,
			TSVal: 2154711088, TSEcr: 2544551880,
			Options: Options{MSS: ptr[uint16](1460), WScale: ptr[uint8](10), SACKPerm: true, Timestamps: true},
		},
	},
	{
		"syn ack 6", server6, client6,
		"0050 97ba 9190 63ea aa32 302c a012 fb04 7f68 0000 0204 05a0 0402 080a 25a1 b19c abe2 871a 0103 030a",
		Segment{
			SrcPort: 80, DstPort: 38842, Seq: 2442159082, Ack: 2855415852, Flags: SYN | ACK, Window: 64260,
			TSVal: 631353756, TSEcr: 2883749658,
			Options: Options{MSS: ptr[uint16](1440), WScale: ptr[uint8](10), SACKPerm: true, Timestamps: true},
		},
	},
}

func TestSegmentAgainstRecordings(t *testing.T) {
	for _, tt := range recorded {
		t.Run(tt.name, func(t *testing.T) {
			b := fromHex(t, tt.bytes)
			got, problems, err := ParseSegment(b)
			if err != nil || len(problems) != 0 {
				t.Fatalf("ParseSegment: problems %q, error %v", problems, err)
			}
			if diff := cmp.Diff(tt.segment, got); diff != "" {
				t.Errorf("ParseSegment (-want +got):\n%s", diff)
			}
			if made := tt.segment.Append(nil, tt.src, tt.dst); !bytes.Equal(made, b) {
				t.Errorf("Append\n got %x\nwant %x", made, b)
			}
			if !checksumValid(tt.src, tt.dst, b) {
				t.Error("the checksum of a real segment is refused")
			}
		})
	}
}

func TestSegmentRoundTrip(t *testing.T) {
	for bits := range 16 {
		want := Segment{SrcPort: 1, DstPort: 65535, Seq: 0xffffffff, Ack: 7, Flags: SYN, Window: 1}
		if bits&1 != 0 {
			want.Options.MSS = ptr[uint16](65535)
		}
		if bits&2 != 0 {
			want.Options.WScale = ptr[uint8](0)
		}
		want.Options.SACKPerm = bits&4 != 0
		if want.Options.Timestamps = bits&8 != 0; want.Options.Timestamps {
			want.TSVal, want.TSEcr = 0x80000000, 3
		}
		for _, ends := range [][2]netip.Addr{{client4, server4}, {client6, server6}} {
			b := want.Append([]byte("before"), ends[0], ends[1])[len("before"):]
			got, problems, err := ParseSegment(append(bytes.Clone(b), "payload"...))
			if diff := cmp.Diff(want, got); diff != "" || len(problems) != 0 || err != nil {
				t.Errorf("options %04b: problems %q, error %v, (-want +got):\n%s", bits, problems, err, diff)
			}
			if !checksumValid(ends[0], ends[1], b) {
				t.Errorf("options %04b: wrong checksum for %s", bits, ends[0])
			}
		}
	}
}

func TestParseSegmentRefuses(t *testing.T) {
	whole := fromHex(t, recorded[1].bytes)
	for n := range len(whole) {
		if _, _, err := ParseSegment(whole[:n]); !errors.Is(err, ErrSegment) {
			t.Errorf("%d of %d bytes: error %v, want ErrSegment", n, len(whole), err)
		}
	}
	short := bytes.Clone(whole)
	short[offLength] = 4 << 4
	if _, _, err := ParseSegment(short); !errors.Is(err, ErrSegment) {
		t.Errorf("header length 16: error %v, want ErrSegment", err)
	}
}

func TestChecksumValid(t *testing.T) {
	whole := fromHex(t, recorded[1].bytes)
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(whole)
		f(b)
		return b
	}
	for _, tt := range []struct {
		name     string
		src, dst netip.Addr
		b        []byte
		want     bool
	}{
		{"right", server4, client4, whole, true},
		{"odd length", server4, client4, change(func(b []byte) { b[20]++ })[:39], false},
		{"other source", netip.MustParseAddr("192.0.2.3"), client4, whole, false},
		{"one bit in the window", server4, client4, change(func(b []byte) { b[offWindow] ^= 1 }), false},
		{"checksum 0", server4, client4, change(func(b []byte) { b[offChecksum], b[offChecksum+1] = 0, 0 }), false},
		{"checksum ffff", server4, client4, change(func(b []byte) { b[offChecksum], b[offChecksum+1] = 0xff, 0xff }), false},
		// c000 + 0202 + c000 + 0201 + 6 + 40 = 18431, folded 8432.
		{"left to the hardware", server4, client4, change(func(b []byte) { b[offChecksum], b[offChecksum+1] = 0x84, 0x32 }), true},
		{"too short", server4, client4, whole[:19], false},
		{"empty", server4, client4, nil, false},
	} {
		if got := checksumValid(tt.src, tt.dst, tt.b); got != tt.want {
			t.Errorf("%s: got %t, want %t", tt.name, got, tt.want)
		}
	}
}

func FuzzSegment(f *testing.F) {
	for _, r := range recorded {
		f.Add(fromHex(f, r.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, problems, err := ParseSegment(b)
		if err != nil {
			if !errors.Is(err, ErrSegment) {
				t.Fatalf("error %v is not ErrSegment", err)
			}
			return
		}
		checkOptions(t, s, problems)
		again := s.Append(nil, server4, client4)
		if !checksumValid(server4, client4, again) {
			t.Errorf("%+v: made with a wrong checksum", s)
		}
		got, problems, err := ParseSegment(again)
		if diff := cmp.Diff(s, got); diff != "" || len(problems) != 0 || err != nil {
			t.Errorf("problems %q, error %v, (-first +second):\n%s", problems, err, diff)
		}
	})
}
