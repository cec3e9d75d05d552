package kernel

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// trackedAttribute is one netlink attribute, padded.
func trackedAttribute(typ uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// trackedMessage is an entry in the given state.
func trackedMessage(state byte, proxied bool) []byte {
	const isNested = 1 << 15
	b := []byte{2, 0, 0, 0}
	b = append(b, trackedAttribute(isNested|4, trackedAttribute(isNested|1, trackedAttribute(1, []byte{state})))...)
	if proxied {
		b = append(b, trackedAttribute(isNested|24, trackedAttribute(1, make([]byte, 4)))...)
	}
	return b
}

func TestParseTracked(t *testing.T) {
	t.Parallel()
	for _, want := range []Tracked{{true, 3}, {false, 1}, {true, TCPConnClose}} {
		got, err := parseTracked(trackedMessage(want.State, want.Proxied))
		if err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	whole := trackedMessage(3, false)
	for n := range whole {
		// Only the message without attributes is a whole one.
		if _, err := parseTracked(whole[:n]); (err == nil) != (n == 4) {
			t.Errorf("%d of %d bytes: error %v", n, len(whole), err)
		}
	}
}

func TestLookupRefuses(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[2001:db8::1]:1")
	for _, pair := range [][2]netip.AddrPort{{v4, v6}, {v6, v4}, {{}, v4}, {v4, {}}} {
		if _, _, err := LookupTCP(pair[0], pair[1]); err == nil {
			t.Errorf("%v: no error", pair)
		}
		if err := ForgetTCP(pair[0], pair[1]); err == nil {
			t.Errorf("%v: no error", pair)
		}
	}
}

func FuzzParseTracked(f *testing.F) {
	f.Add(trackedMessage(3, true))
	f.Add(trackedMessage(1, false))
	f.Add([]byte{2, 0, 0, 0, 4, 0})
	f.Fuzz(func(t *testing.T, msg []byte) {
		if got, err := parseTracked(msg); err != nil && got != (Tracked{}) {
			t.Fatalf("%+v beside the error %v", got, err)
		}
	})
}
