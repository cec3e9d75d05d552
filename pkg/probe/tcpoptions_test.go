package probe

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostileOptions(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		want        Options
		tsval       uint32
		problems    []string
	}{
		{"none", "", Options{}, 0, nil},
		{"only padding", "01 01 01 00", Options{}, 0, nil},
		{"after the end", "00 02 04 05 b4", Options{}, 0, nil},
		{"unknown", "fe 04 12 34 02 04 05 b4", Options{MSS: ptr[uint16](1460)}, 0, nil},
		{"length 0", "02 00 05 b4 04 02", Options{}, 0, []string{"mss option has length 0"}},
		{"length 1", "04 02 03 01 07", Options{SACKPerm: true}, 0, []string{"window scale option has length 1"}},
		{"unknown of length 0", "1e 00 04 02", Options{}, 0, []string{"option 30 has length 0"}},
		{"no length", "04 02 01 02", Options{SACKPerm: true}, 0, []string{"mss option ends before its length"}},
		{"overrun", "04 02 02 04 05", Options{SACKPerm: true}, 0, []string{"mss option has length 4, but only 3 bytes are left"}},
		{"overrun by 255", "08 ff 00 00", Options{}, 0, []string{"timestamps option has length 255, but only 4 bytes are left"}},
		{"mss too short", "02 03 05 04 02", Options{SACKPerm: true}, 0, []string{"mss option has length 3 instead of 4"}},
		{"mss too long", "02 05 05 b4 00 04 02", Options{SACKPerm: true}, 0, []string{"mss option has length 5 instead of 4"}},
		{"sack too long", "04 03 00", Options{}, 0, []string{"sack-permitted option has length 3 instead of 2"}},
		{"wscale empty", "03 02 04 02", Options{SACKPerm: true}, 0, []string{"window scale option has length 2 instead of 3"}},
		{"timestamps too short", "08 09 00 00 00 01 00 00 00", Options{}, 0, []string{"timestamps option has length 9 instead of 10"}},
		{"mss 0", "02 04 00 00", Options{}, 0, []string{"mss option is 0"}},
		{"mss 1", "02 04 00 01", Options{MSS: ptr[uint16](1)}, 0, nil},
		{"wscale 14", "03 03 0e", Options{WScale: ptr[uint8](14)}, 0, nil},
		{"wscale 15", "03 03 0f", Options{WScale: ptr[uint8](14)}, 0, []string{"window scale option is 15, taken as 14"}},
		{"wscale 255", "03 03 ff", Options{WScale: ptr[uint8](14)}, 0, []string{"window scale option is 255, taken as 14"}},
		{
			"mss doubled", "02 04 05 b4 02 04 02 18 02 04 05 b4",
			Options{MSS: ptr[uint16](536)},
			0,
			[]string{"mss option is doubled", "mss option is doubled"},
		},
		{"mss 0 and then 1460", "02 04 00 00 02 04 05 b4", Options{MSS: ptr[uint16](1460)}, 0, []string{"mss option is 0"}},
		{"wscale doubled", "03 03 07 03 03 02", Options{WScale: ptr[uint8](7)}, 0, []string{"window scale option is doubled"}},
		{"sack doubled", "04 02 04 02", Options{SACKPerm: true}, 0, []string{"sack-permitted option is doubled"}},
		{
			"timestamps doubled", "08 0a 00 00 00 01 00 00 00 00 08 0a 00 00 00 02 00 00 00 00",
			Options{Timestamps: true},
			2,
			[]string{"timestamps option is doubled"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s Segment
			problems := s.parseOptions(fromHex(t, tt.bytes))
			if diff := cmp.Diff(tt.want, s.Options); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if s.TSVal != tt.tsval {
				t.Errorf("timestamp %d, want %d", s.TSVal, tt.tsval)
			}
		})
	}
}

// checkOptions asserts what must hold for whatever was parsed.
func checkOptions(t *testing.T, s Segment, problems []string) {
	t.Helper()
	if o := s.Options; o.WScale != nil && *o.WScale > 14 || o.MSS != nil && *o.MSS == 0 {
		t.Errorf("options %q are out of range", o.NFT())
	}
	if !s.Options.Timestamps && (s.TSVal != 0 || s.TSEcr != 0) {
		t.Errorf("timestamps %d and %d without the option", s.TSVal, s.TSEcr)
	}
	for _, problem := range problems {
		if !strings.Contains(problem, "option") || strings.ContainsAny(problem, "\n%") {
			t.Errorf("problem %q does not name its option", problem)
		}
	}
}

func FuzzOptions(f *testing.F) {
	for _, seed := range []string{
		"020405b40402080a806e483097aac7c80103030a", "0200", "0303ff", "080a00", "02040000", "0402040204020402", "00ff", "fe02",
	} {
		f.Add(fromHex(f, seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Segment
		problems := s.parseOptions(b)
		checkOptions(t, s, problems)
		var again Segment
		made := appendOptions(nil, s.Options, s.TSVal, s.TSEcr)
		if len(made)%4 != 0 || len(made) > maxHeader-minHeader {
			t.Fatalf("%q takes %d bytes", s.Options.NFT(), len(made))
		}
		if problems := again.parseOptions(made); len(problems) != 0 {
			t.Errorf("%x: problems %q", made, problems)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}
