package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestIPv6Checksums sends SYNs whose checksum no network card has checked. Those of IPv6 get no answer of nft's
// synproxy (Linux 5.3 to 6.18), so that services of IPv6 are not left to it unless somebody asks for it.
func TestIPv6Checksums(t *testing.T) {
	source := map[rules.Family]netip.Addr{rules.IPv4: netip.MustParseAddr("198.18.0.1"), rules.IPv6: lab.FloodV6.Addr().Next()}
	for _, c := range stands() {
		t.Run(c.String(), func(t *testing.T) {
			topo := newTopology(t)
			web := c.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			apply := []string{"apply", web.String(), "--first", "client"}
			done := mustDo(t, topo.Firewall, 0, slices.Concat(apply, explicit, []string{"--backend", c.backend})...)
			broken := c.backend == rules.NFTables && c.family == rules.IPv6
			if slices.Contains(codes(done), "ipv6-checksum") != broken {
				t.Errorf("findings %v", codes(done))
			}
			allGood(t, topo.Attacker, web, lab.LoadConfig{Connections: 1, Mode: lab.ClientFirst}) // of whose link everything is checked
			answers, err := topo.Attacker.Capture("eth0", func(p lab.Packet) bool {
				return !p.Outgoing && p.Segment != nil && p.Segment.Flags == lab.SYN|lab.ACK
			})
			if err != nil {
				t.Fatal(err)
			}
			const sent = 8
			for i := range uint16(sent) {
				syn := lab.Segment{Source: netip.AddrPortFrom(source[c.family], 5000+i), Destination: web, Seq: 1000, Flags: lab.SYN, Window: 64240, Options: []byte{2, 4, 5, 0xb4}}
				if err := topo.Attacker.SendSegment("eth0", syn); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(200 * time.Millisecond)
			packets, err := answers.Stop()
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{true: 0, false: sent}[broken]; len(packets) != want {
				t.Errorf("%d of %d SYNs were answered, want %d", len(packets), sent, want)
			}
			mustDo(t, topo.Firewall, 0, "revert", "--now")
			want := map[rules.Family]string{rules.IPv4: rules.NFTables, rules.IPv6: rules.NFT}[c.family]
			if done := mustDo(t, topo.Firewall, 0, slices.Concat(apply, explicit, []string{"--dry-run"})...); done["backend"] != want {
				t.Errorf("auto is %v: %v", done["backend"], done["backend_reason"])
			}
		})
	}
}
