package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const synproxyHeader = "entries\t\tsyn_received\tcookie_invalid\tcookie_valid\tcookie_retrans\tconn_reopened\n"

func TestParseSynproxyStats(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       SynproxyStats
	}{
		{
			"two CPUs as Linux 6.18 prints them",
			synproxyHeader +
				"00000000\t000f4240\t00000002\t00000064\t00000001\t00000003\n" +
				"00000000\tffffffff\t00000000\t00000001\t00000000\t00000000\n",
			SynproxyStats{1000000 + 0xffffffff, 2, 101, 1, 3},
		},
		{
			"a column added and the order changed",
			"conn_reopened cookie_retrans new_one cookie_valid cookie_invalid syn_received entries\n5 4 9 3 2 1 0",
			SynproxyStats{1, 2, 3, 4, 5},
		},
	} {
		got, err := ParseSynproxyStats(strings.NewReader(tt.text))
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestParseSynproxyStatsRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"empty":           {"", "no header line"},
		"no CPU":          {synproxyHeader, "no line of a CPU"},
		"missing column":  {"entries syn_received\n0 0\n", "header has no column"},
		"doubled column":  {strings.Replace(synproxyHeader, "entries", "syn_received", 1) + "0 0 0 0 0 0\n", "syn_received\" twice"},
		"short line":      {synproxyHeader + "0 0 0 0 0 0\n0 0 0 0 0\n", "line 3: 5 numbers below 6 columns"},
		"long line":       {synproxyHeader + "0 0 0 0 0 0 0\n", "line 2: 7 numbers below 6 columns"},
		"not hexadecimal": {synproxyHeader + "0 0 0 x 0 0\n", "line 2: column 4"},
		"over 32 bits":    {synproxyHeader + "0 100000000 0 0 0 0\n", "value out of range"},
		"negative":        {synproxyHeader + "0 -1 0 0 0 0\n", "line 2: column 2"},
		"endless line":    {synproxyHeader + strings.Repeat("0", 1<<17), "token too long"},
		"endless header":  {strings.Repeat("0", 1<<17), "token too long"},
	} {
		got, err := ParseSynproxyStats(strings.NewReader(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
		if got != (SynproxyStats{}) {
			t.Errorf("%s: counters %+v beside an error", name, got)
		}
	}
}

func TestReadSynproxyStatsErrors(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "synproxy")
	if _, err := readSynproxyStats(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v, want fs.ErrNotExist", err)
	}
	if err := os.WriteFile(path, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSynproxyStats(path); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("bad file: %v, want an error with its path", err)
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	// One of two CPUs goes from 2^32-10 to 5: 15 events, though the sum falls.
	earlier := SynproxyStats{SYNReceived: 100 + 1<<32 - 10, ConnReopened: 1}
	now := SynproxyStats{SYNReceived: 100 + 5, CookieValid: 7, ConnReopened: 1}
	if got, want := now.Since(earlier), (SynproxyStats{SYNReceived: 15, CookieValid: 7}); got != want {
		t.Errorf("Since = %+v, want %+v", got, want)
	}
}

func FuzzParseSynproxyStats(f *testing.F) {
	f.Add(synproxyHeader + "00000000\t000f4240\t00000002\t00000064\t00000001\t00000003\n")
	f.Add(synproxyHeader + "0 0 0 0 0 0\n0 0 0 0 0 ffffffff")
	f.Add(synproxyHeader)
	f.Add("entries\nffffffffff\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseSynproxyStats(strings.NewReader(text))
		if err != nil && got != (SynproxyStats{}) {
			t.Fatalf("counters %+v beside the error %v", got, err)
		}
		if limit := uint64(len(text)) << 32; err == nil && got.SYNReceived > limit {
			t.Fatalf("%d SYNs in %d bytes of text", got.SYNReceived, len(text))
		}
	})
}
