package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// A stand is two services at a place, which somebody else's firewall guards: the client of the topology may use them,
// and the attacker, called the foe here, may or may not.
type stand struct {
	testing.TB
	*lab.Topology
	place
	backend   string
	web, mail netip.AddrPort
}

func newStand(t testing.TB, p place, backend string) *stand {
	t.Helper()
	topo := newTopology(t)
	s := &stand{
		t, topo, p, backend,
		p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst}),
		p.serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst}),
	}
	// Without any rule both get in. Many links that come up at once may take a second to carry packets.
	for _, host := range []*lab.Host{s.Client, s.Attacker} {
		until(s, "the network works", func() bool {
			served, _ := s.getsIn(host)
			return served
		})
	}
	return s
}

// eachStand runs a test at each place with each backend.
func eachStand(t *testing.T, test func(s *stand)) {
	t.Helper()
	for turn := range places {
		twoStands(t, turn, test)
	}
}

// twoStands runs a test with two backends, at two places that differ in all. Both are others for each turn; with -full
// all backends have each of them.
func twoStands(t *testing.T, turn int, test func(s *stand)) {
	t.Helper()
	for i, backend := range backends {
		i = (i - turn%len(backends) + len(backends)) % len(backends)
		if i == 2 && !*full {
			continue
		}
		p := places[turn%len(places)]
		if i == 1 {
			p = places[len(places)-1-turn%len(places)]
		}
		t.Run(backend+"-"+p.String(), func(t *testing.T) {
			t.Parallel() // most of the time goes by in waiting
			test(newStand(t, p, backend))
		})
	}
}

// addresses returns the addresses of friend and foe in the stand's family, and the network of a flood.
func (s *stand) addresses() (friend, foe netip.Addr, flood netip.Prefix) {
	if s.family == rules.IPv6 {
		return lab.ClientV6, lab.AttackerV6, lab.FloodV6
	}
	return lab.ClientV4, lab.AttackerV4, lab.FloodV4
}

// fill puts the names of the stand into a text of rules.
func (s *stand) fill(text string) string {
	friend, foe, flood := s.addresses()
	icmp, ip, kind := "icmp", "ip", "ipv4_addr"
	if s.family == rules.IPv6 {
		icmp, ip, kind = "ipv6-icmp", "ip6", "ipv6_addr"
	}
	return strings.NewReplacer(
		"$CHAIN", strings.ToUpper(string(s.hook)), "$HOOK", string(s.hook), "$SERVICE", s.web.Addr().String(),
		"$FRIEND", friend.String(), "$FOE", foe.String(), "$FLOOD", flood.String(), "$ICMP", icmp, "$IP", ip, "$TYPE", kind,
	).Replace(text)
}

// xtables adds rules to those of the firewall, by the stand's backend. Lines before the first table are for filter.
func (s *stand) xtables(text string) {
	s.Helper()
	if !strings.HasPrefix(text, "*") {
		text = "*filter\n" + text + "\nCOMMIT\n"
	}
	runInput(s, s.Firewall, s.fill(text), s.program(s.backend)+"-restore", "--noflush", "-w", "5")
}

// nft adds rules of nf_tables.
func (s *stand) nft(text string) {
	s.Helper()
	runInput(s, s.Firewall, s.fill(text), "nft", "-f", "-")
}

// apply protects both services.
func (s *stand) apply() map[string]any {
	s.Helper()
	return mustDo(s, s.Firewall, 0, "apply", s.web.String(), s.mail.String(), "--backend", s.backend)
}

// strictOutput is [strictOutput] for both services of the stand.
func (s *stand) strictOutput() {
	s.Helper()
	strictOutput(s, s.Firewall, s.place, s.backend, s.web.String(), s.mail.String())
}

// counters returns how many SYNs were answered and how many valid cookies came back.
func (s *stand) counters() (syns, valid int) {
	s.Helper()
	status := mustDo(s, s.Firewall, 0, "status")
	return int(number(s, status, "counters", "syn_received")), int(number(s, status, "counters", "cookie_valid"))
}

// served wants the friend served well, and by way of the proxy.
func (s *stand) served() {
	s.Helper()
	_, before := s.counters()
	s.good(s.web, lab.LoadConfig{Connections: 20, Mode: lab.ClientFirst})
	s.good(s.mail, lab.LoadConfig{Connections: 20, Mode: lab.ServerFirst})
	// The same port again: the last connection's TIME_WAIT or CLOSE entry is still there.
	s.good(s.web, lab.LoadConfig{Connections: 5, LocalPort: 40000, Mode: lab.ClientFirst})
	s.good(s.web, lab.LoadConfig{Connections: 5, LocalPort: 40001, Mode: lab.ClientFirst, Reset: true})
	s.good(s.mail, lab.LoadConfig{Connections: 5, LocalPort: 40002, Mode: lab.ServerFirst})
	const made = 55
	if _, now := s.counters(); now-before != made {
		s.Errorf("%d cookies came back, want those of %d connections", now-before, made)
	}
}

// good makes connections of the friend and wants every one of them good and quick.
func (s *stand) good(server netip.AddrPort, cfg lab.LoadConfig) {
	s.Helper()
	if cfg.LocalPort != 0 {
		cfg.Rate = 50 // the client's own last connection must be gone, on a busy machine too
	}
	res := load(s, s.Client, server, cfg)
	if res.OK != cfg.Connections || res.Failed != 0 {
		s.Errorf("%s: %v", server, res)
	}
	// The programs of others that run beside it may take a CPU for a moment. What breaks costs a second each time.
	if res.Percentile(50) > slow || res.Max() > 10*slow {
		s.Errorf("%s: slow: %v", server, res)
	}
}

// getsIn reports whether a host gets an answer of the services, and whether it gets a SYN+ACK at all.
func (s *stand) getsIn(host *lab.Host) (served, answered bool) {
	s.Helper()
	capture, err := host.Capture("eth0", func(p lab.Packet) bool {
		return !p.Outgoing && p.Segment != nil && p.Segment.Flags&(lab.SYN|lab.ACK) == lab.SYN|lab.ACK
	})
	if err != nil {
		s.Fatal(err)
	}
	const longest = 300 * time.Millisecond
	var web, mail *lab.LoadResult
	var wg sync.WaitGroup
	wg.Go(func() {
		web, _ = host.Load(s.Context(), s.web, lab.LoadConfig{Connections: 2, Concurrency: 2, Mode: lab.ClientFirst, Timeout: longest})
	})
	wg.Go(func() {
		mail, _ = host.Load(s.Context(), s.mail, lab.LoadConfig{Connections: 2, Concurrency: 2, Mode: lab.ServerFirst, Timeout: longest})
	})
	wg.Wait()
	packets, err := capture.Stop()
	if err != nil {
		s.Error(err)
	}
	return web.OK+mail.OK > 0, len(packets) > 0
}

// hears reports whether a host gets anything from a server that speaks first.
func (s *stand) hears(host *lab.Host, server netip.AddrPort) bool {
	s.Helper()
	const longest = 300 * time.Millisecond
	ctx, cancel := context.WithTimeout(s.Context(), longest)
	defer cancel()
	conn, err := host.Dial(ctx, server)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(longest)); err != nil {
		s.Fatal(err)
	}
	n, _ := conn.Read(make([]byte, 1))
	return n > 0
}

// keptOut wants the foe denied, without so much as a SYN+ACK.
func (s *stand) keptOut() {
	s.Helper()
	if served, answered := s.getsIn(s.Attacker); served || answered {
		s.Errorf("the foe is denied, and yet: served %v, SYN+ACK %v", served, answered)
	}
}

// floods is held by who floods: the backlog of a CPU is for all namespaces, and what two floods make it lose may be others'.
var floods sync.Mutex

// flooded sends SYNs that the rules let pass while the friend connects.
func (s *stand) flooded() {
	s.Helper()
	floods.Lock()
	defer floods.Unlock()
	if s.backend == rules.NFTables && s.family == rules.IPv6 {
		return // see TestIPv6Checksums
	}
	const syns = 20_000
	before := conntrackCount(s, s.Firewall)
	received, _ := s.counters()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	var wg sync.WaitGroup
	var good *lab.LoadResult
	wg.Go(func() {
		good, _ = s.Client.Load(ctx, s.web, lab.LoadConfig{Rate: 50, Concurrency: 2, Mode: lab.ClientFirst})
	})
	flood, err := s.Attacker.Flood(s.Context(), lab.FloodConfig{Destination: s.web, Packets: syns, Rate: syns})
	cancel()
	wg.Wait()
	if err != nil {
		s.Fatal(err)
	}
	if good.Failed > 0 || good.OK == 0 {
		s.Errorf("good connections under %.0f SYN/s: %v", flood.Rate(), good)
	}
	if now, _ := s.counters(); now-received < flood.Sent {
		s.Errorf("the proxy answered %d of %d SYNs: did the flood reach it?", now-received, flood.Sent)
	}
	if held := conntrackCount(s, s.Firewall) - before; held > good.OK {
		s.Errorf("conntrack holds %d entries more, for %d good connections", held, good.OK)
	}
}

// held opens connections one after the other, keeps them, and returns how many the server answers.
func (s *stand) held(attempts int) int {
	s.Helper()
	const longest = 250 * time.Millisecond
	n := 0
	for range attempts {
		ctx, cancel := context.WithTimeout(s.Context(), longest)
		conn, err := s.Client.Dial(ctx, s.web)
		cancel()
		if err != nil {
			continue
		}
		s.Cleanup(func() { conn.Close() })
		if answers(conn, longest) {
			n++
		}
	}
	return n
}

// answers reports whether a client-first server answers on the connection.
func answers(conn net.Conn, within time.Duration) bool {
	if conn.SetDeadline(time.Now().Add(within)) != nil {
		return false
	}
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return false
	}
	line := make([]byte, len("hello\n"))
	_, err := conn.Read(line)
	return err == nil
}
