package kernel

import "testing"

func TestSynproxyTotalCountsOn(t *testing.T) {
	for name, c := range map[string]struct {
		readings []uint64
		want     uint64
	}{
		"first reading as it is":           {[]uint64{7}, 7},
		"nothing new":                      {[]uint64{7, 7}, 7},
		"a CPU alone wraps":                {[]uint64{0xfffffff0, 0x10}, 0x100000010},
		"one of two CPUs wraps":            {[]uint64{0xfffffff0 + 100, 0x10 + 105}, 0xfffffff0 + 100 + 0x20 + 5},
		"wraps twice":                      {[]uint64{0xfffffff0, 0x10, 0x70000000, 0xe0000000, 0x10}, 0x200000010},
		"module loaded anew":               {[]uint64{1000, 3}, 1003},
		"loaded anew, and nothing counted": {[]uint64{1000, 0, 5}, 1005},
	} {
		t.Run(name, func(t *testing.T) {
			var total SynproxyTotal
			for _, n := range c.readings {
				total.Add(SynproxyStats{SYNReceived: n})
			}
			if got := total.Total.SYNReceived; got != c.want {
				t.Errorf("readings %#x: %#x, want %#x", c.readings, got, c.want)
			}
		})
	}
}

func TestSynproxyTotalWithoutModule(t *testing.T) {
	var total SynproxyTotal
	total.Gone()
	total.Add(SynproxyStats{SYNReceived: 0xf0000000})
	total.Gone()
	total.Add(SynproxyStats{SYNReceived: 5}) // no wrap
	if got := total.Total.SYNReceived; got != 0xf0000005 {
		t.Errorf("%#x, want 0xf0000005", got)
	}
}
