package probe_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/synproxyctl/synproxyctl/pkg/probe"
)

func ExampleOptions() {
	mss, wscale := uint16(1460), uint8(9)
	o := probe.Options{MSS: &mss, WScale: &wscale, SACKPerm: true, Timestamps: true}
	fmt.Println("iptables ... -j SYNPROXY", o.IPTables())
	fmt.Println("synproxy", o.NFT())
	// Output:
	// iptables ... -j SYNPROXY --sack-perm --timestamp --mss 1460 --wscale 9
	// synproxy mss 1460 wscale 9 timestamp sack-perm
}

// The segment is the answer of a server whose window scale is not valid.
func ExampleParseSegment() {
	synack := []byte{
		0, 80, 0xbe, 0xba, 0, 0, 0, 1, 0, 0, 0, 2, 0x70, 0x12, 0xff, 0xff, 0, 0, 0, 0,
		2, 4, 0x05, 0xb4, 1, 3, 3, 15,
	}
	s, problems, err := probe.ParseSegment(synack)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("from port %d: %s\n", s.SrcPort, s.Options.NFT())
	fmt.Println(problems)
	// Output:
	// from port 80: mss 1460 wscale 14
	// [window scale option is 15, taken as 14]
}

func ExampleProbe() {
	targets := []probe.Target{{Name: "www.example.org:443", Addr: netip.MustParseAddrPort("192.0.2.42:443")}}
	results, err := probe.Probe(context.Background(), probe.Config{Count: 5}, targets)
	switch {
	case errors.Is(err, os.ErrPermission):
		fmt.Println("run me as root, or with CAP_NET_RAW")
	case err != nil:
		fmt.Println(err)
	default:
		for _, r := range results {
			fmt.Println(r.Target, r.Verdict, r.IPTables)
		}
	}
}
