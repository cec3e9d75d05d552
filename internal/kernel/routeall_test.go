package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// attribute builds one as the kernel does.
func attribute(typ uint16, data ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), data...)
	return append(b, make([]byte, -len(data)&3)...)
}

func octets(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// routeMessage is an answer for a route by interface 7 with an MTU of 1400.
func routeMessage() []byte {
	return slices.Concat([]byte{unix.AF_INET, 32, 0, 0, 254, 0, 0, unix.RTN_UNICAST, 0, 0, 0, 0},
		attribute(unix.RTA_DST, 192, 0, 2, 1), attribute(unix.RTA_OIF, octets(7)...),
		attribute(unix.RTA_METRICS, slices.Concat(attribute(unix.RTAX_HOPLIMIT, octets(64)...), attribute(unix.RTAX_MTU, octets(1400)...))...))
}

func TestParseRoute(t *testing.T) {
	t.Parallel()
	got, err := parseRoute(routeMessage())
	if want := (taken{typ: unix.RTN_UNICAST, index: 7, mtu: 1400}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for name, msg := range map[string][]byte{
		"empty":             nil,
		"half a header":     routeMessage()[:11],
		"half an attribute": routeMessage()[:15],
		"a short number":    append(routeMessage()[:12], attribute(unix.RTA_OIF, 7, 0)...),
		"a huge number":     append(routeMessage()[:12], attribute(unix.RTA_OIF, octets(1<<31)...)...),
	} {
		if got, err := parseRoute(msg); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for errno, want := range map[error]string{unix.ENETUNREACH: "no route", unix.EACCES: "a prohibit route"} {
		if got := new(links).route(netip.MustParseAddr("192.0.2.1"), answer{err: errno}); got.Err != nil || got.Unreachable != want {
			t.Errorf("%v: %+v", errno, got)
		}
	}
	if got := new(links).route(netip.MustParseAddr("192.0.2.1"), answer{err: unix.ENOMEM}); !errors.Is(got.Err, unix.ENOMEM) {
		t.Errorf("%+v", got)
	}
}

func FuzzParseRoute(f *testing.F) {
	f.Add(routeMessage())
	f.Add(append(routeMessage()[:12], attribute(unix.RTA_METRICS, 1, 2, 3, 4)...))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if r, err := parseRoute(msg); err == nil && (r.index < 0 || r.mtu < 0) {
			t.Errorf("%+v", r)
		}
	})
}
