package probe

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	full    = Options{MSS: ptr[uint16](1460), WScale: ptr[uint8](9), SACKPerm: true, Timestamps: true}
	scale7  = Options{MSS: ptr[uint16](1460), WScale: ptr[uint8](7), SACKPerm: true, Timestamps: true}
	small   = Options{MSS: ptr[uint16](1400), WScale: ptr[uint8](7), SACKPerm: true, Timestamps: true}
	noScale = Options{MSS: ptr[uint16](1460), SACKPerm: true, Timestamps: true}
	onlyMSS = Options{MSS: ptr[uint16](1460)}
)

// answered makes the sample of a SYN+ACK to an offer of the given window scale.
func answered(o Options, window uint16, offered uint8, tsval uint32) sample {
	syn := Segment{Flags: SYN, TSVal: 77, Options: Options{MSS: ptr[uint16](1460), WScale: &offered, SACKPerm: true, Timestamps: true}}
	synack := Segment{Flags: SYN | ACK, Window: window, Options: o}
	if o.Timestamps {
		synack.TSVal, synack.TSEcr = tsval, syn.TSVal
	}
	return sample{sent: syn, verdict: judge(synack), answer: synack, ttl: 64, rtt: 400 * time.Microsecond}
}

var (
	rst     = sample{verdict: Refused, ttl: 63, rtt: 100 * time.Microsecond, answer: Segment{Flags: RST | ACK}}
	icmp    = sample{verdict: Unreachable, reason: "host-unreachable", ttl: 62, rtt: time.Millisecond}
	silence = sample{verdict: NoReply}
	unsent  = sample{verdict: Unreachable, reason: "local-no-route", local: true}
)

func TestClassify(t *testing.T) {
	clock := uint32(0x12345680)
	for _, tt := range []struct {
		name    string
		samples []sample
		want    Result
	}{
		{
			"three alike",
			[]sample{answered(full, 65160, 10, clock), answered(full, 65160, 5, clock), answered(full, 65160, 9, clock)},
			Result{Verdict: Direct, Options: full, Window: ptr[uint16](65160), TTL: ptr[uint8](64), RTTMicros: ptr[int64](400), Samples: 3, Sent: 3},
		},
		{
			"one lost",
			[]sample{answered(onlyMSS, 65160, 10, 0), silence},
			Result{
				Verdict: Direct, Options: onlyMSS, Window: ptr[uint16](65160), TTL: ptr[uint8](64), RTTMicros: ptr[int64](400),
				Samples: 1, Sent: 2, Notes: []string{"1 of 2 samples were answered"},
			},
		},
		{
			"refused",
			[]sample{rst, rst},
			Result{Verdict: Refused, TTL: ptr[uint8](63), RTTMicros: ptr[int64](100), Samples: 2, Sent: 2},
		},
		{
			"unreachable",
			[]sample{icmp},
			Result{Verdict: Unreachable, Reason: "host-unreachable", TTL: ptr[uint8](62), RTTMicros: ptr[int64](1000), Samples: 1, Sent: 1},
		},
		{"silence", []sample{silence, silence, silence}, Result{Verdict: NoReply, Sent: 3}},
		{"not sent", []sample{unsent}, Result{Verdict: Unreachable, Reason: "local-no-route"}},
		{"nothing", nil, Result{Verdict: NoReply}},
		{
			"pool",
			[]sample{answered(small, 65160, 10, clock), answered(full, 64000, 5, clock), answered(full, 64000, 9, clock)},
			Result{
				Verdict: Direct, Window: ptr[uint16](65160), TTL: ptr[uint8](64), RTTMicros: ptr[int64](400), Samples: 3, Sent: 3,
				Options: Options{MSS: ptr[uint16](1400), WScale: ptr[uint8](9), SACKPerm: true, Timestamps: true},
				Variants: []Variant{
					{Verdict: Direct, Options: full, Window: ptr[uint16](64000), Count: 2},
					{Verdict: Direct, Options: small, Window: ptr[uint16](65160), Count: 1},
				},
			},
		},
		{
			"pool with a dead member",
			[]sample{rst, answered(onlyMSS, 65160, 10, clock), icmp},
			Result{
				Verdict: Direct, Options: onlyMSS, Window: ptr[uint16](65160), TTL: ptr[uint8](63), RTTMicros: ptr[int64](100), Samples: 3, Sent: 3,
				Variants: []Variant{
					{Verdict: Refused, Count: 1},
					{Verdict: Direct, Options: onlyMSS, Window: ptr[uint16](65160), Count: 1},
					{Verdict: Unreachable, Reason: "host-unreachable", Count: 1},
				},
			},
		},
		{
			"windows that differ are one answer",
			[]sample{answered(onlyMSS, 65160, 10, 0), answered(onlyMSS, 65161, 5, 0)},
			Result{Verdict: Direct, Options: onlyMSS, Window: ptr[uint16](65160), TTL: ptr[uint8](64), RTTMicros: ptr[int64](400), Samples: 2, Sent: 2},
		},
		{
			"no mss",
			[]sample{answered(Options{}, 1024, 10, 0)},
			Result{
				Verdict: Direct, Window: ptr[uint16](1024), TTL: ptr[uint8](64), RTTMicros: ptr[int64](400), Samples: 1, Sent: 1,
				Notes: []string{"no mss option: clients assume 536"},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Family = familyIPv4
			tt.want.Consistent = len(tt.want.Variants) == 0
			if tt.want.Variants == nil {
				tt.want.Variants = []Variant{}
			}
			tt.want.IPTables, tt.want.NFT = tt.want.Options.IPTables(), tt.want.Options.NFT()
			got := classify(tt.samples, familyIPv4, limit{})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhoAnswered(t *testing.T) {
	const clock = 0x5a5a5a00 // its lowest six bits are zero
	for _, tt := range []struct {
		name    string
		samples []sample
		verdict Verdict
		note    string
	}{
		{
			"SYNPROXY",
			[]sample{answered(full, 0, 10, clock|0x1a), answered(full, 0, 5, clock|0x15)},
			Proxied, "echo of the window scale",
		},
		{
			"SYNPROXY without SACK",
			[]sample{answered(noScale, 0, 10, clock|10), answered(noScale, 0, 5, clock|5)},
			Proxied, "echo of the window scale",
		},
		{"SYNPROXY behind the repair of its window", []sample{answered(full, 1, 10, clock|0x1a)}, Proxied, "window 1"},
		{"SYNPROXY without timestamps", []sample{answered(onlyMSS, 0, 10, 0), answered(onlyMSS, 0, 5, 0)}, Proxied, "window 0"},
		{"a small window", []sample{answered(full, 2, 10, 3)}, Direct, ""},
		{"one of a pool is a proxy", []sample{answered(full, 65160, 10, clock), answered(full, 0, 5, clock)}, Proxied, "with window 0"},
	} {
		got := classify(tt.samples, familyIPv4, limit{})
		notes := strings.Join(got.Notes, "\n")
		silent := tt.note != "" || tt.verdict == Proxied || notes == ""
		if got.Verdict != tt.verdict || !strings.Contains(notes, tt.note) || !silent {
			t.Errorf("%s: %s, notes %q; want %s, %q", tt.name, got.Verdict, notes, tt.verdict, tt.note)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, tt := range []struct {
		family   string
		answered uint16
		mtu      int
		mss      uint16
		limited  bool
	}{
		{familyIPv4, 65495, 1500, 1460, true},
		{familyIPv6, 65476, 1500, 1440, true},
		{familyIPv4, 1460, 1500, 1460, false},
		{familyIPv4, 1461, 1500, 1460, true},
		{familyIPv4, 1460, 1492, 1452, true},
		{familyIPv4, 536, 1500, 536, false},
		{familyIPv4, 1460, 0, 1460, false},
		{familyIPv6, 1440, 40, 1440, false}, // an MTU that no IPv6 has
	} {
		s := answered(Options{MSS: &tt.answered}, 65160, 10, 0)
		got := classify([]sample{s}, tt.family, limit{tt.mtu, "the MTU of eth7"})
		note := strings.Contains(strings.Join(got.Notes, "\n"), "eth7")
		if *got.Options.MSS != tt.mss || note != tt.limited || (got.MSSAnswered != 0) != tt.limited {
			t.Errorf("%s, mss %d, mtu %d: %s, answered %d, notes %q", tt.family, tt.answered, tt.mtu, got.NFT, got.MSSAnswered, got.Notes)
		}
	}
}

func TestWrongEchoIsNoted(t *testing.T) {
	s := answered(full, 65160, 10, 3)
	s.answer.TSEcr++
	if got := classify([]sample{s}, familyIPv4, limit{}); len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "echo") {
		t.Errorf("notes %q", got.Notes)
	}
}

func TestProblemsAreNotedOnce(t *testing.T) {
	s := answered(onlyMSS, 65160, 10, 3)
	s.problems = []string{"mss option is doubled"}
	got := classify([]sample{s, s}, familyIPv4, limit{})
	if diff := cmp.Diff([]string{"malformed answer: mss option is doubled"}, got.Notes); diff != "" {
		t.Error(diff)
	}
}

func TestMergeOptions(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answers []Options
		family  string
		want    Options
	}{
		{"one", []Options{full}, familyIPv4, full},
		{"smallest mss, largest scale", []Options{scale7, small, full}, familyIPv4, Options{MSS: ptr[uint16](1400), WScale: ptr[uint8](9), SACKPerm: true, Timestamps: true}},
		{"a member that cannot scale", []Options{full, noScale}, familyIPv4, noScale},
		{"scale 0 is scaling", []Options{full, {MSS: ptr[uint16](1460), WScale: ptr[uint8](0), SACKPerm: true, Timestamps: true}}, familyIPv4, full},
		{"a plain member", []Options{full, onlyMSS}, familyIPv4, onlyMSS},
		{"a member without mss", []Options{full, {}}, familyIPv4, Options{MSS: ptr[uint16](536)}},
		{"a member without mss, IPv6", []Options{{}, full}, familyIPv6, Options{MSS: ptr[uint16](1220)}},
		{"none sends mss", []Options{{SACKPerm: true}, {SACKPerm: true}}, familyIPv4, Options{SACKPerm: true}},
	} {
		if diff := cmp.Diff(tt.want, mergeOptions(tt.answers, tt.family)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestIsCookie(t *testing.T) {
	at := func(verdict Verdict, offered, answered uint32) sample {
		return sample{verdict: verdict, sent: Segment{Seq: offered}, answer: Segment{Seq: answered}}
	}
	for _, tt := range []struct {
		name          string
		first, second sample
		want          bool
	}{
		{"both advance alike", at(Direct, 1000, 77), at(Direct, 5000, 4077), true},
		{"backwards, round zero", at(Direct, 5, 4), at(Direct, 0xfffffff0, 0xffffffef), true},
		{"a clock", at(Direct, 1000, 77), at(Direct, 5000, 15702), false},
		{"constant", at(Direct, 1000, 77), at(Direct, 5000, 77), false},
		{"asked the same", at(Direct, 1000, 77), at(Direct, 1000, 77), false},
		{"then refused", at(Direct, 1000, 77), at(Refused, 5000, 4077), false},
		{"then nothing", at(Direct, 1000, 0), at(NoReply, 1000, 0), false},
	} {
		if got := isCookie(tt.first, tt.second); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}
