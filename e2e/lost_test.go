package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// giveUp is when TestLostHandshake takes a connection for one that hangs for good. The client's probes of the zero
// window come after 0.2 s, 0.6 s, 1.4 s and 3 s.
const giveUp = 4 * time.Second

// lossCase is a packet of the handshake that gets lost, once.
type lossCase struct {
	name string
	lose func(t testing.TB, topo *lab.Topology, server netip.AddrPort) (lost func() int)
}

var lossCases = []lossCase{{"the client's ACK", loseACK}, {"the proxy's SYN", loseSYN}}

// loseACK loses the bare ACK that answers the proxy's SYN+ACK, on the way from the client to the firewall.
func loseACK(t testing.TB, topo *lab.Topology, server netip.AddrPort) (lost func() int) {
	t.Helper()
	var n atomic.Int64
	var client netip.AddrPort // of the new connection; the last ACK of an older one may still come
	err := topo.Relay.Configure(lab.RelayConfig{Delay: 30 * time.Millisecond, Drop: func(p lab.Packet) bool {
		s := p.Segment
		if !p.Outgoing || s == nil || s.Destination != server {
			return false
		}
		if s.Flags == lab.SYN && !client.IsValid() {
			client = s.Source
		}
		return s.Source == client && s.Flags == lab.ACK && len(s.Payload) == 0 && n.CompareAndSwap(0, 1)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return func() int { return int(n.Load()) }
}

// loseSYN loses the first SYN that reaches the server.
func loseSYN(t testing.TB, topo *lab.Topology, server netip.AddrPort) (lost func() int) {
	t.Helper()
	run(t, topo.Server, "nft", fmt.Sprintf(`add table inet lose
		add chain inet lose once { type filter hook prerouting priority raw; }
		add rule inet lose once tcp dport %d tcp flags & (syn | ack) == syn limit rate 1/day burst 1 packets counter drop`, server.Port()))
	return func() int {
		list := run(t, topo.Server, "nft", "list", "table", "inet", "lose")
		_, after, _ := strings.Cut(list, "counter packets ")
		var n int
		_, _ = fmt.Sscan(after, &n)
		return n
	}
}

// TestLostHandshake loses one packet of the handshake and measures after how long the connection works, if ever. A
// client that speaks first must be served within a second: the window of the proxy's SYN+ACK is open by a byte, and the
// client's probe of it passes for the ACK that got lost. A client that waits for the server's word says nothing that
// could, and hangs.
func TestLostHandshake(t *testing.T) {
	for _, backend := range backends {
		for _, mode := range soakModes {
			for _, loss := range lossCases {
				name := fmt.Sprintf("%s, %s, %s lost", backend, [...]string{"client-first", "server-first"}[mode], loss.name)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					loss.run(t, backend, mode)
				})
			}
		}
	}
}

func (c lossCase) run(t *testing.T, backend string, mode lab.Mode) {
	topo := newWAN(t, lab.RelayConfig{Delay: 30 * time.Millisecond})
	server := place{rules.Forward, rules.IPv4}.serve(t, topo, 80, lab.ServerConfig{Mode: mode})
	mustDo(t, topo.Firewall, 0, "apply", server.String(), "--backend", backend)
	one := lab.LoadConfig{Connections: 1, Mode: mode, Timeout: giveUp}
	before := load(t, topo.Client, server, one)
	lost := c.lose(t, topo, server)
	broken := load(t, topo.Client, server, one)
	after := load(t, topo.Client, server, one)
	if before.OK != 1 || after.OK != 1 || after.Max() > time.Second || lost() != 1 {
		t.Fatalf("before %v, after %v, %d packets lost", before, after, lost())
	}
	verdict := "hangs"
	if broken.OK == 1 {
		verdict = fmt.Sprintf("%v more than without", (broken.Max() - before.Max()).Round(time.Millisecond))
	}
	t.Logf("%s: %v", verdict, broken)
	if mode == lab.ClientFirst && (broken.OK != 1 || broken.Max() > time.Second) {
		t.Errorf("the connection does not recover: %v", broken)
	}
}
