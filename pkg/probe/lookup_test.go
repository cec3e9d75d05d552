package probe

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLocalAddresses(t *testing.T) {
	r, err := newRouter(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	addrs := make([]netip.Addr, maxLookups)
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)})
	}
	for range 3 {
		if got := r.routeTypes(addrs); slices.ContainsFunc(got, func(kind int) bool { return kind != unix.RTN_LOCAL }) {
			t.Errorf("types of routes to loopback addresses: %v", got)
		}
	}
	r.lookup, _ = unix.Dup(0) // not a socket of this kind
	if got := r.local(addrs[:2]); !slices.Equal(got, []bool{true, true}) {
		t.Errorf("without the socket: %v", got)
	}
}

func TestReadRouteTypes(t *testing.T) {
	request := appendRouteRequest(nil, netip.MustParseAddr("2001:db8::1"), 8)
	if whole := appendRouteRequest(nil, netip.MustParseAddr("fe80::1%3"), 8); len(whole) != len(request)+8 {
		t.Errorf("%d bytes with an interface, %d without", len(whole), len(request))
	}
	answer := bytes.Clone(request)
	native := binary.NativeEndian
	native.PutUint16(answer[4:], unix.RTM_NEWROUTE)
	answer[unix.SizeofNlMsghdr+7] = unix.RTN_LOCAL
	failure := make([]byte, unix.SizeofNlMsghdr+4)
	native.PutUint32(failure, uint32(len(failure)))
	native.PutUint16(failure[4:], unix.NLMSG_ERROR)
	native.PutUint32(failure[8:], 7)
	both := append(answer, failure...)
	for n := range len(both) + 1 {
		types := []int{unanswered, unanswered, unanswered}
		readRouteTypes(both[:n:n], 7, types)
		want := []int{unanswered, unanswered, unanswered}
		if n >= len(answer) {
			want[1] = unix.RTN_LOCAL
		}
		if n == len(both) {
			want[0] = noRoute
		}
		if !slices.Equal(types, want) {
			t.Errorf("%d bytes: %v, want %v", n, types, want)
		}
	}
	types := []int{unanswered}
	if readRouteTypes(both, 9, types); types[0] != unanswered {
		t.Errorf("an answer of an earlier batch counts: %v", types)
	}
}
