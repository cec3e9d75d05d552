package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// A watcher is the program under test that watches over a host, with a line of JSON for each thing that it tells.
type watcher struct {
	t    *testing.T
	cmd  *lab.Command
	out  strings.Builder
	said transcript
}

// hasty is for tests, whose hosts change faster than real ones.
var hasty = []string{"watch", "--interval", "150ms", "--probe-interval", "300ms", "--spacing", "30ms", "--timeout", "150ms", "--log-format", "json"}

// watches starts a watcher, and waits until it has looked once.
func watches(t *testing.T, host *lab.Host, more ...string) *watcher {
	t.Helper()
	return watchesAs(t, host, nil, more...)
}

func watchesAs(t *testing.T, host *lab.Host, env []string, more ...string) *watcher {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	w := &watcher{t: t, cmd: host.Command(ctx, path, slices.Concat(hasty, more)...)}
	w.cmd.Env = append(os.Environ(), env...)
	w.cmd.Stdout, w.cmd.Stderr = &w.out, &w.said
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.cmd.Close()
		if t.Failed() {
			t.Logf("the watcher said:\n%s", w.said.String())
		}
	})
	until(t, "it watches", func() bool {
		watch, _ := mustDo(t, host, 0, "status")["watch"].(map[string]any)
		return watch != nil && watch["pid"] == float64(w.cmd.Process.Pid)
	})
	return w
}

// count tells how often it has told something.
func (w *watcher) count(code string) int {
	n := 0
	for line := range strings.Lines(w.said.String()) {
		var object struct{ Code string }
		if json.Unmarshal([]byte(line), &object) == nil && object.Code == code {
			n++
		}
	}
	return n
}

// tells waits until it tells something.
func (w *watcher) tells(code string) {
	w.t.Helper()
	until(w.t, "it tells "+code, func() bool { return w.count(code) > 0 })
}

// silent wants nothing to be told.
func (w *watcher) silent(codes ...string) {
	w.t.Helper()
	for _, code := range codes {
		if w.count(code) > 0 {
			w.t.Errorf("it told %s", code)
		}
	}
}

// ends ends it, which must be quick and good.
func (w *watcher) ends() {
	w.t.Helper()
	began := time.Now()
	if err := w.cmd.Process.Signal(unix.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	if err := w.cmd.Wait(); err != nil {
		w.t.Errorf("the watcher ended: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		w.t.Errorf("it took %v to end", took)
	}
}

// A watched is a host whose protection is watched over.
type watched struct {
	*trier
}

// newWatched protects a service whose backend is asked, on a host that tracks connections.
func newWatched(t *testing.T, backend string, more ...string) *watched {
	t.Helper()
	w := &watched{newTrier(t, backend)}
	tune(t, w.topo.Server, "net.ipv4.tcp_rmem=4096 131072 1048576")
	mustDo(t, w.fw, 0, slices.Concat([]string{"apply", w.web, "--backend", backend, "--first", "client"}, more)...)
	return w
}

// announces returns the window scale that a client is offered.
func (w *watched) announces() uint8 {
	w.t.Helper()
	seen := sniff(w.t, w.topo.Client, lab.TCPPort(80))
	allGood(w.t, w.topo.Client, netip.MustParseAddrPort(w.web), lab.LoadConfig{Connections: 1, Mode: lab.ClientFirst})
	packets, err := seen.Stop()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range packets {
		if p.Segment != nil && !p.Outgoing && p.Segment.Flags&(lab.SYN|lab.ACK) == lab.SYN|lab.ACK {
			scale, _ := p.Segment.WindowScale()
			return scale
		}
	}
	w.t.Fatal("no SYN+ACK was seen")
	return 0
}

// wscale is what the record says that the rules announce.
func (w *watched) wscale() float64 {
	w.t.Helper()
	return number(w.t, mustDo(w.t, w.fw, 0, "status")["services"].([]any)[0].(map[string]any), "options", "wscale")
}

// spoil takes a rule away, or a setting.
func (w *watched) spoil() {
	w.t.Helper()
	if w.backend == rules.NFTables {
		run(w.t, w.fw, "nft", "flush", "chain", "ip", "synproxyctl", "SYNPROXYCTL_RAW_PREROUTING")
		return
	}
	run(w.t, w.fw, "iptables-nft", "-t", "raw", "-F", "PREROUTING")
}

// whole reports whether the rules are as they should be.
func (w *watched) whole() bool {
	w.t.Helper()
	_, _, exit := synproxyctl(w.t, w.fw, "verify")
	return exit == 0
}

// rounds lets time pass in which a hasty watcher looks and asks several times.
func rounds() { time.Sleep(1200 * time.Millisecond) }

// TestWatchFollows lets a backend restart with other buffers, again and again, while connections are open.
func TestWatchFollows(t *testing.T) {
	w := newWatched(t, rules.NFTables)
	first := w.announces()
	c := w.connect()
	wt := watches(t, w.fw)
	tune(t, w.topo.Server, "net.ipv4.tcp_rmem=4096 131072 1073725440")
	until(t, "it follows", func() bool { return w.wscale() > float64(first) })
	wt.tells("followed")
	second := w.announces()
	if second <= first {
		t.Errorf("wscale %d is announced, and was %d before", second, first)
	}
	alive(t, c)
	if !w.whole() {
		t.Error("verify is not content")
	}
	// The next boot has it, too.
	wt.ends()
	done := mustDo(t, w.fw, 0, "apply", w.web, "--backend", w.backend, "--first", "client", "--cached")
	if got := number(t, done["services"].([]any)[0].(map[string]any), "options", "wscale"); got != float64(second) {
		t.Errorf("wscale %v is cached, not %d", got, second)
	}
	// Back, shortly after: what is announced is safe for both now, and stays.
	wt = watches(t, w.fw, "--debug")
	wt.silent("followed")
	rounds()
	alive(t, c)
	mustDo(t, w.fw, 0, "verify", "--probe")
}

// TestWatchGiven lets a backend change whose options a person has given, or one of them.
func TestWatchGiven(t *testing.T) {
	w := newWatched(t, rules.NFT, "--wscale", "3")
	wt := watches(t, w.fw)
	tune(t, w.topo.Server, "net.ipv4.tcp_rmem=4096 131072 1073725440")
	rounds()
	wt.silent("followed", "options-drift")
	mustDo(t, w.fw, 0, "verify", "--probe")
	w.apply() // all of them
	wt.tells("options-drift")
	rounds()
	if n := wt.count("options-drift"); n != 1 || wt.count("followed") > 0 {
		t.Errorf("told %d times", n)
	}
	if w.wscale() != 10 {
		t.Errorf("wscale %v", w.wscale())
	}
}

// oddly answers like a server, apart from some SYNs by their numbers.
func oddly(odd func(n int) bool) script {
	n := 0
	return func(syn lab.Segment) []any {
		n++
		if odd(n) {
			return []any{reply(syn, lab.SYNOptions(1300, 2, 1)...)}
		}
		return []any{reply(syn, lab.SYNOptions(1400, 7, 1)...)}
	}
}

// TestWatchOddAnswers has backends that answer oddly once, now and then, and in turns with others behind one address.
func TestWatchOddAnswers(t *testing.T) {
	w := newTrier(t, rules.NFTables)
	impersonate(t, w.topo, map[uint16]script{
		1: oddly(func(n int) bool { return n == 12 }),             // once
		2: oddly(func(n int) bool { return n > 4 && n%40 == 0 }),  // now and then
		3: oddly(func(n int) bool { return n%2 == 0 }),            // a pool, as it was
		4: oddly(func(n int) bool { return n > 8 && n <= 8+4*3 }), // for some rounds, then no more
		5: func(syn lab.Segment) []any { return []any{reply(syn, mss1400...)} },
	})
	var args []string
	for port := range uint16(5) {
		args = append(args, netip.AddrPortFrom(impostorV4, port+1).String())
	}
	mustDo(t, w.fw, 0, append([]string{"apply", "--backend", w.backend, "--first", "client"}, args...)...)
	before := options(t, w.fw)
	wt := watches(t, w.fw, "--debug")
	time.Sleep(3 * time.Second)
	wt.silent("mended", "backend-no-reply")
	after := options(t, w.fw)
	for port := range uint16(5) {
		if port+1 == 4 { // which has really changed for a while, and is answered by what is safe for both
			continue
		}
		if before[port] != after[port] {
			t.Errorf("port %d: %s before, %s after", port+1, before[port], after[port])
		}
	}
	if n := wt.count("followed"); n < 1 || n > 2 {
		t.Errorf("%d changes, want one and the way back", n)
	}
	wt.ends()
}

// options returns those of all services, in their order.
func options(t testing.TB, host *lab.Host) []string {
	t.Helper()
	var list []string
	for _, s := range mustDo(t, host, 0, "status")["services"].([]any) {
		text, err := json.Marshal(s.(map[string]any)["options"])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(text))
	}
	return list
}

// TestWatchMends takes away what is ours.
func TestWatchMends(t *testing.T) {
	for _, backend := range []string{rules.NFTables, rules.NFT} {
		t.Run(backend, func(t *testing.T) {
			w := newWatched(t, backend)
			right := inAnyOrder(dump(t, w.fw))
			c := w.connect()
			wt := watches(t, w.fw)
			for _, spoil := range []func(){
				w.spoil,
				func() { tune(t, w.fw, "net.netfilter.nf_conntrack_tcp_loose=1") },
			} {
				spoil()
				until(t, "it mends", w.whole)
			}
			wt.tells("mended")
			alive(t, c)
			sameDump(t, right, inAnyOrder(dump(t, w.fw)))
			wt.ends()
		})
	}
}

// TestWatchReports only tells.
func TestWatchReports(t *testing.T) {
	w := newWatched(t, rules.NFTables)
	report := []string{"--rules", "report", "--options", "report"}
	wt := watches(t, w.fw, report...)
	once := slices.Concat(hasty, []string{"--once"})
	mustDo(t, w.fw, 5, once...)
	w.spoil()
	wt.tells("rule-missing")
	spoiled := w.state()
	tune(t, w.topo.Server, "net.ipv4.tcp_rmem=4096 131072 1073725440")
	wt.tells("options-drift")
	rounds()
	if wt.count("rule-missing") != 1 || wt.count("options-drift") != 1 {
		t.Error("it repeats itself")
	}
	wt.ends()
	found := codes(mustDo(t, w.fw, 3, append(once, report...)...))
	if !slices.Contains(found, "rule-missing") || !slices.Contains(found, "options-drift") {
		t.Errorf("findings %v", found)
	}
	sameDump(t, spoiled, w.state())
	done := mustDo(t, w.fw, 0, once...)
	if done["changed"] != true || number(t, done, "followed") != 1 || len(codes(done)) > 0 {
		t.Errorf("%v", done)
	}
	if done := mustDo(t, w.fw, 0, once...); done["changed"] != false || done["ok"] != true {
		t.Errorf("%v", done)
	}
	mustDo(t, w.fw, 0, "verify", "--probe")
}

// TestWatchFight has somebody else who takes a rule away again and again.
func TestWatchFight(t *testing.T) {
	w := newWatched(t, rules.NFTables)
	wt := watches(t, w.fw)
	cmd := w.fw.Command(t.Context(), "sh", "-c", "while sleep 0.2; do nft flush chain ip synproxyctl SYNPROXYCTL_RAW_PREROUTING; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wt.tells("mending-undone")
	rounds()
	_ = cmd.Close()
	if n := wt.count("mended"); n != 3 || wt.count("mending-undone") != 1 {
		t.Errorf("mended %d times, told %d times", n, wt.count("mending-undone"))
	}
	if n := strings.Count(wt.said.String(), "\n"); n > 20 {
		t.Errorf("%d lines", n)
	}
	wt.ends()
}

// TestWatchDown stops a backend, and then the network.
func TestWatchDown(t *testing.T) {
	w := newWatched(t, rules.NFTables)
	mail := on4.serve(t, w.topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
	mustDo(t, w.fw, 0, "apply", w.web, mail.String(), "--backend", w.backend)
	right := w.state()
	wt := watches(t, w.fw)
	run(t, w.topo.Server, "nft", "add table ip down; add chain ip down in { type filter hook input priority 0; }; add rule ip down in tcp dport 25 reject with tcp reset")
	wt.tells("backend-refused")
	rounds()
	if n := wt.count("backend-refused"); n != 1 {
		t.Errorf("told %d times", n)
	}
	run(t, w.topo.Server, "nft", "delete table ip down")
	wt.tells("backend-answers")
	link(t, w.topo.Server, "eth0", "down")
	wt.tells("all-silent")
	rounds()
	wt.silent("backend-no-reply", "backend-unreachable", "followed", "mended")
	link(t, w.topo.Server, "eth0", "up")
	wt.tells("backends-answer")
	sameDump(t, right, w.state())
	wt.ends()
}

func link(t testing.TB, host *lab.Host, name, to string) {
	t.Helper()
	run(t, host, "ip", "link", "set", name, to)
}

// TestWatchLeavesAlone has a person who tries a change, and one who takes everything away.
func TestWatchLeavesAlone(t *testing.T) {
	w := newWatched(t, rules.NFTables)
	wt := watches(t, w.fw)
	w.apply("--mss", "1300", "--try", "30s")
	wt.tells("on-trial")
	w.spoil()
	rounds()
	wt.silent("mended")
	if w.whole() {
		t.Error("a change on trial was mended")
	}
	mustDo(t, w.fw, 0, "confirm")
	wt.tells("mended")
	until(t, "it mends", w.whole)
	c := w.connect()
	mustDo(t, w.fw, 0, "revert", "--drain", "0s")
	wt.tells("draining")
	rounds()
	if state := mustDo(t, w.fw, 0, "status")["state"]; state != "draining" {
		t.Errorf("state %v", state)
	}
	alive(t, c)
	c.conn.Close()
	mustDo(t, w.fw, 0, "revert")
	wt.tells("not-applied")
	rounds()
	sameDump(t, w.before, w.state())
	if n := wt.count("mended"); n != 1 {
		t.Errorf("mended %d times", n)
	}
	w.apply()
	wt.tells("applied")
	wt.ends()
	mustDo(t, w.fw, 0, "revert")
	if found := codes(mustDo(t, w.fw, 3, append(hasty, "--once")...)); !slices.Equal(found, []string{"not-applied"}) {
		t.Errorf("findings %v", found)
	}
	sameDump(t, w.before, w.state())
}

// TestWatchOnlyOne starts a second watcher, and kills the first one at any time.
func TestWatchOnlyOne(t *testing.T) {
	w := newWatched(t, rules.NFTables)
	right := inAnyOrder(dump(t, w.fw))
	wt := watches(t, w.fw)
	refused := mustDo(t, w.fw, 5, hasty...)
	if message := refused["error"].(map[string]any)["message"].(string); !strings.Contains(message, fmt.Sprint("process ", wt.cmd.Process.Pid)) {
		t.Errorf("message %q", message)
	}
	for i := range 4 {
		w.spoil()
		time.Sleep(time.Duration(130+60*i) * time.Millisecond)
		_ = wt.cmd.Close() // kill -9
		if mustDo(t, w.fw, 0, "status")["watch"] != nil {
			t.Error("a watcher that is dead is told to watch")
		}
		wt = watches(t, w.fw)
		until(t, "it mends", w.whole)
	}
	sameDump(t, right, inAnyOrder(dump(t, w.fw)))
	protected := w.state()
	wt.ends()
	sameDump(t, protected, w.state())
}

// TestWatchReload gives it another file, a broken one and none.
func TestWatchReload(t *testing.T) {
	w := newWatched(t, rules.NFTables)
	path := t.TempDir() + "/config.yaml"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := func(mss string) string {
		return "version: 1\nservices:\n  - {targets: [\"" + w.web + "\"], first: client" + mss + "}\n"
	}
	write(file(""))
	mustDo(t, w.fw, 0, "apply", "-c", path, "--backend", w.backend)
	right := options(t, w.fw)
	wt := watches(t, w.fw, "-c", path)
	rounds()
	wt.silent("config-differs", "config-changed")
	write("version: 1\nservices: nonsense\n")
	wt.tells("config-changed")
	hup := func(code string) {
		t.Helper()
		if err := wt.cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		wt.tells(code)
	}
	hup("reload-failed")
	rounds()
	if after := options(t, w.fw); !slices.Equal(right, after) {
		t.Errorf("%v, then %v", right, after)
	}
	write(file(", options: {mss: 1200}"))
	hup("reloaded")
	if after := options(t, w.fw)[0]; !strings.Contains(after, `"mss":1200`) {
		t.Errorf("options %s", after)
	}
	rounds()
	wt.silent("config-differs")
	w.apply("--mss", "1350") // by hand
	wt.tells("config-differs")
	wt.ends()
	if found := codes(mustDo(t, w.fw, 3, append(hasty, "--once", "-c", path)...)); !slices.Contains(found, "config-differs") {
		t.Errorf("findings %v", found)
	}
	write("nonsense")
	mustDo(t, w.fw, 2, append(hasty, "-c", path)...)
	mustDo(t, w.fw, 2, append(hasty, "-c", "-")...)
	mustDo(t, w.fw, 2, append(hasty, "-c", path+".not")...)
}

// TestWatchNotifies plays the service manager.
func TestWatchNotifies(t *testing.T) {
	w := newWatched(t, rules.NFTables)
	said := make(chan string, 1000)
	path := t.TempDir() + "/notify"
	conn, err := listenDatagrams(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			said <- string(buffer[:n])
		}
	}()
	wt := watchesAs(t, w.fw, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=200000"})
	var heard []string
	hear := func(want string) {
		t.Helper()
		for deadline := time.After(5 * time.Second); ; {
			select {
			case s := <-said:
				heard = append(heard, s)
				if strings.HasPrefix(s, want) {
					return
				}
			case <-deadline:
				t.Fatalf("never: %s; but %q", want, heard)
			}
		}
	}
	hear("READY=1")
	hear("STATUS=active: 1 service")
	for range 3 {
		hear("WATCHDOG=1")
	}
	if err := wt.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	hear("RELOADING=1\nMONOTONIC_USEC=")
	hear("READY=1")
	wt.ends()
	hear("STOPPING=1")
}

func listenDatagrams(path string) (*net.UnixConn, error) {
	return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
}
