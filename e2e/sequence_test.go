package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// explicit are options given by hand, so that nothing has to be probed.
var explicit = []string{"--mss", "1460", "--wscale", "10", "--sack-perm", "--timestamps"}

// on4 is where most of these tests happen; the places all share the same sequences.
var on4 = place{rules.Forward, rules.IPv4}

// TestDeclarative changes what is protected, again and again: each apply changes exactly the difference.
func TestDeclarative(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			topo := newTopology(t)
			fw := topo.Firewall
			a, b := lab.ServerV4.String()+":80", lab.ServerV4.String()+":443"
			c := "[" + lab.ServerV6.String() + "]:80"
			do := func(args ...string) (added, deleted int) {
				t.Helper()
				done := mustDo(t, fw, 0, append(append([]string{"apply", "--backend", backend, "--mode", "tracked", "--first", "server"}, explicit...), args...)...)
				for _, each := range done["changes"].([]any) {
					switch each.(map[string]any)["action"] {
					case "add":
						added++
					case "delete":
						deleted++
					}
				}
				mustDo(t, fw, 0, "verify")
				return added, deleted
			}
			before := dump(t, fw)
			// Alone: security 1, mangle 3 and filter 2 rules each; once: a jump to each chain, the anchor and the window.
			each, once, group, member, object := 6, 4+2, 6, 1, 0
			if backend == rules.NFTables {
				// Alone: security 1, mangle 3; once: the rule for sockets, the anchor and the window. Those that are
				// alike: as many rules, an object with the options, and two sets to be members of.
				each, once, group, member, object = 4, 3, 4, 2, 1
			}
			moved := group + 2*member
			if backend == rules.NFTables {
				moved = object + 2 // in the map, in place
			}
			for _, step := range []struct {
				args           []string
				added, deleted int
			}{
				{[]string{a}, each + once, 0},
				{[]string{a, b}, group + object + 2*member, each},          // two that are alike share rules and a set
				{[]string{b, a}, 0, 0},                                     // another order is not another protection
				{[]string{a, b, c}, each + once, 0},                        // the other family
				{[]string{a, b, c, "--mss", "1400"}, moved + 1, moved + 1}, // another group; the SYNPROXY rule of the one alone
				{[]string{a, b, c, "--mss", "1400", "--first", "client"}, group + 2*member + 1, group + 2*member + 1}, // drop instead of strip
				{[]string{b, "--mss", "1400", "--first", "client"}, each, group + object + 2*member + each + once - 1},
				{[]string{b, "--mss", "1400", "--first", "client", "--interface", "eth0"}, 3, 3},
			} {
				if added, deleted := do(step.args...); added != step.added || deleted != step.deleted {
					t.Errorf("%v: %d rules added, %d deleted; want %d and %d", step.args, added, deleted, step.added, step.deleted)
				}
			}
			mustDo(t, fw, 0, "revert")
			if backend != rules.Legacy { // its tables cannot be unmade
				sameDump(t, before, dump(t, fw))
			}
		})
	}
}

// TestChangeUnderLoad changes the protection of one service, and moves it from backend to backend, while another
// service is used. Not one connection may be lost, or be slow.
func TestChangeUnderLoad(t *testing.T) {
	topo := newTopology(t)
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	apply := func(args ...string) {
		t.Helper()
		mustDo(t, topo.Firewall, 0, append(append([]string{"apply", web.String(), "--first", "client"}, explicit...), args...)...)
	}
	apply("--backend", rules.NFT)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan *lab.LoadResult)
	go func() {
		res, _ := topo.Client.Load(ctx, web, lab.LoadConfig{Concurrency: 4, Rate: 400, Mode: lab.ClientFirst})
		done <- res
	}()
	for range 3 {
		apply(lab.ServerV4.String()+":443", "--backend", rules.NFT)
		apply("--backend", rules.NFT)
		apply("--backend", rules.NFT, "--mss", "1400")
		apply("--backend", rules.Legacy)
		apply("--backend", rules.NFTables)
		apply(lab.ServerV4.String()+":443", "--backend", rules.NFTables)
		apply("--backend", rules.NFTables, "--mss", "1400")
		apply("--backend", rules.NFT)
	}
	time.Sleep(200 * time.Millisecond)
	cancel()
	res := <-done
	t.Logf("24 changes under load: %v", res)
	if res.Failed != 0 || res.OK < 100 {
		t.Errorf("connections during the changes: %v", res)
	}
	if res.Max() > 4*slow { // the changes and the load share two CPUs
		t.Errorf("the slowest connection took %v", res.Max())
	}
}

// failing is a real backend whose n-th call fails: before it did anything, or after it did all.
type failing struct {
	rules.Backend
	left  *int
	after bool
	once  bool
}

var errInjected = errors.New("injected failure")

func (f failing) Apply(ctx context.Context, s rules.Step) error {
	*f.left--
	if *f.left > 0 || *f.left < 0 && f.once {
		return f.Backend.Apply(ctx, s)
	}
	if f.after {
		if err := f.Backend.Apply(ctx, s); err != nil {
			return err
		}
	}
	return errInjected
}

// services returns what the tests of failures protect.
func services(first rules.First, addrs ...netip.Addr) []protect.Service {
	mss, wscale := uint16(1460), uint8(10)
	var list []protect.Service
	for _, a := range addrs {
		list = append(list, protect.Service{Source: protect.Given, Service: rules.Service{
			Destination: netip.PrefixFrom(a, a.BitLen()), Port: 80, Hook: rules.Forward, First: first,
			Options: rules.Options{MSS: &mss, WScale: &wscale, SACKPerm: true, Timestamps: true},
		}})
	}
	return list
}

// TestEveryStepFails lets each step of each sequence fail in turn, before and after its effect. What was begun must be
// rolled back to the last rule, and the sequence then succeed when it is tried again.
func TestEveryStepFails(t *testing.T) {
	one := services(rules.FirstServer, lab.ServerV4)
	other := services(rules.FirstClient, lab.ServerV4, lab.ServerV6)
	for b, backend := range backends {
		sequences := map[string]struct {
			from []protect.Service
			do   func(h *protect.Host) error
		}{
			"apply":  {nil, func(h *protect.Host) error { return applyIn(h, other, backend) }},
			"change": {one, func(h *protect.Host) error { return applyIn(h, other, backend) }},
			"move":   {one, func(h *protect.Host) error { return applyIn(h, one, another(backend)) }},
			"revert": {other, func(h *protect.Host) error {
				_, err := h.Revert(context.Background(), protect.Removal{Now: true})
				return err
			}},
		}
		for i, name := range slices.Sorted(maps.Keys(sequences)) {
			seq := sequences[name]
			for j, after := range []bool{false, true} {
				if !*full && j != (i+b)%2 && backend != rules.NFTables {
					continue // the other variant of iptables has the same steps
				}
				t.Run(fmt.Sprintf("%s-%s-after=%v", backend, name, after), func(t *testing.T) {
					topo := newTopology(t)
					fw := topo.Firewall
					if backend == rules.Legacy || name == "move" {
						foreignRules(t, fw) // legacy tables cannot be unmade
					}
					if seq.from != nil {
						on(t, fw, func() error { return applyIn(&protect.Host{}, seq.from, backend) })
					}
					before := inAnyOrder(dump(t, fw)) + recordOf(t)
					steps := 0
					for ; ; steps++ {
						left := steps + 1
						h := &protect.Host{Wrap: func(b rules.Backend) rules.Backend { return failing{b, &left, after, true} }}
						var err error
						on(t, fw, func() error { err = seq.do(h); return nil })
						if err == nil {
							break
						}
						if !errors.Is(err, errInjected) || protect.CodeOf(err) != protect.Failed {
							t.Fatalf("step %d: %v (%s)", steps, err, protect.CodeOf(err))
						}
						sameDump(t, before, inAnyOrder(dump(t, fw))+recordOf(t))
					}
					fewest := 4
					if backend == rules.NFTables && name != "move" {
						fewest = 1 // a transaction
					}
					if steps < fewest {
						t.Errorf("only %d steps could fail", steps)
					}
				})
			}
		}
	}
}

// inAnyOrder sorts the lines of nft's own listing, which shows tables and chains in the order of their making.
func inAnyOrder(dump string) string {
	head, rest, _ := strings.Cut(dump, "== nft list ruleset\n")
	listing, tail, _ := strings.Cut(rest, "\n== ")
	lines := strings.Split(listing, "\n")
	slices.Sort(lines)
	return head + strings.Join(lines, "\n") + "\n" + tail
}

func another(backend string) string {
	return backends[(slices.Index(backends, backend)+1)%len(backends)]
}

func applyIn(h *protect.Host, list []protect.Service, backend string) error {
	_, err := h.Apply(context.Background(), protect.Order{Services: list, Backend: backend, Warmup: ptr[time.Duration](0)})
	return err
}

// recordOf returns the undo records, without the time at which they were written.
func recordOf(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	files, err := filepath.Glob(protect.RunDir + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, `"written"`) {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

// TestRollbackFailsToo lets everything fail from some step on: the error must name what is left, and the record be
// kept, so that a later revert cleans up.
func TestRollbackFailsToo(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	before := dump(t, fw)
	left := 3
	h := &protect.Host{Wrap: func(b rules.Backend) rules.Backend { return failing{b, &left, false, false} }}
	var err error
	on(t, fw, func() error {
		err = applyIn(h, services(rules.FirstServer, lab.ServerV4, lab.ServerV6), rules.NFT)
		return nil
	})
	if protect.CodeOf(err) != protect.Stuck || !strings.Contains(err.Error(), "rules of iptables-nft") {
		t.Fatalf("error %v (%s)", err, protect.CodeOf(err))
	}
	if recordOf(t) == "" {
		t.Error("the undo record is gone")
	}
	mustDo(t, fw, 0, "revert")
	sameDump(t, before, dump(t, fw))
}

// TestInterrupt ends the context between any two steps: everything goes back.
func TestInterrupt(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	before := dump(t, fw)
	for n := 1; n <= 5; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		left := n
		h := &protect.Host{Wrap: func(b rules.Backend) rules.Backend { return interrupting{b, &left, cancel} }}
		var err error
		on(t, fw, func() error {
			_, err = h.Apply(ctx, protect.Order{Services: services(rules.FirstServer, lab.ServerV4, lab.ServerV6), Backend: rules.NFT, Warmup: ptr[time.Duration](0)})
			return nil
		})
		cancel()
		if protect.CodeOf(err) != protect.Interrupted {
			t.Fatalf("after step %d: %v (%s)", n, err, protect.CodeOf(err))
		}
		sameDump(t, before, dump(t, fw))
	}
}

// interrupting is a real backend during whose n-th step the user presses Ctrl-C.
type interrupting struct {
	rules.Backend
	left   *int
	cancel func()
}

func (i interrupting) Apply(ctx context.Context, s rules.Step) error {
	if *i.left--; *i.left == 0 {
		i.cancel()
	}
	return i.Backend.Apply(ctx, s)
}

// TestDrift changes the kernel's rules and settings behind the tool's back. verify must name each change, and apply
// mend it.
func TestDrift(t *testing.T) {
	for _, backend := range []string{rules.NFT, rules.Legacy} {
		topo := newTopology(t)
		fw := topo.Firewall
		target := lab.ServerV4.String() + ":80"
		apply := append([]string{"apply", target, "--backend", backend, "--first", "server", "--mode", "notrack"}, explicit...)
		mustDo(t, fw, 0, apply...)
		right := dump(t, fw)
		pre := []string{"-t", "raw", "-d", lab.ServerV4.String() + "/32", "!", "-i", "lo", "-p", "tcp", "-m", "tcp", "--dport", "80", "--syn", "-j", "CT", "--notrack"}
		ipt := func(args ...string) func() {
			return func() { run(t, fw, backend, args...) }
		}
		for code, breakIt := range map[string]func(){
			"rule-missing":    ipt("-t", "raw", "-F", "SYNPROXYCTL_PRE"),
			"rule-extra":      ipt(append([]string{"-A", "SYNPROXYCTL_PRE"}, pre...)...),
			"rule-order":      func() { reorder(t, fw, backend) },
			"jump-missing":    ipt("-t", "security", "-D", "FORWARD", "-j", "SYNPROXYCTL_FWD"),
			"jump-not-first":  ipt("-t", "security", "-I", "FORWARD", "1", "-p", "udp", "-j", "ACCEPT"),
			"jump-extra":      ipt("-t", "security", "-A", "FORWARD", "-j", "SYNPROXYCTL_FWD"),
			"chain-left-over": ipt("-t", "raw", "-N", "SYNPROXYCTL_OLD"),
			"foreign-jump":    ipt("-t", "security", "-A", "FORWARD", "-p", "tcp", "-j", "SYNPROXYCTL_FWD"),
			"sysctl": func() {
				if err := fw.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "1"); err != nil {
					t.Fatal(err)
				}
			},
		} {
			t.Run(backend+"-"+code, func(t *testing.T) {
				breakIt()
				if found := codes(mustDo(t, fw, 3, "verify")); !slices.Contains(found, code) {
					t.Errorf("verify found %v, not %s", found, code)
				}
				if state := mustDo(t, fw, 0, "status")["state"]; state != "drifted" {
					t.Errorf("state %v", state)
				}
				if code == "foreign-jump" {
					mustDo(t, fw, 5, apply...)
					run(t, fw, backend, "-t", "security", "-D", "FORWARD", "-p", "tcp", "-j", "SYNPROXYCTL_FWD")
					return
				}
				if done := mustDo(t, fw, 0, apply...); done["changed"] != true {
					t.Errorf("apply changed nothing: %v", done)
				}
				mustDo(t, fw, 0, "verify")
				if code == "jump-not-first" {
					run(t, fw, backend, "-t", "security", "-D", "FORWARD", "-p", "udp", "-j", "ACCEPT")
				}
				sameDump(t, right, dump(t, fw))
			})
		}
		mustDo(t, fw, 0, "revert")
	}
}

// reorder moves the first rule of a chain to its end.
func reorder(t *testing.T, fw *lab.Host, backend string) {
	t.Helper()
	var first string
	for line := range strings.Lines(run(t, fw, backend, "-t", "mangle", "-S", "SYNPROXYCTL_FWD")) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "-A "); ok && first == "" {
			first = rest
		}
	}
	run(t, fw, backend, "-t", "mangle", "-D", "SYNPROXYCTL_FWD", "1")
	run(t, fw, backend, append([]string{"-t", "mangle", "-A"}, strings.Fields(first)...)...)
}

func codes(object map[string]any) []string {
	var list []string
	for _, f := range object["findings"].([]any) {
		list = append(list, f.(map[string]any)["code"].(string))
	}
	return list
}

// TestRevertSpares looks at what revert must leave alone, or tell.
func TestRevertSpares(t *testing.T) {
	apply := append([]string{"apply", lab.ServerV4.String() + ":80"}, explicit...)
	const loose = "net.netfilter.nf_conntrack_tcp_loose"

	t.Run("a setting that was so before", func(t *testing.T) {
		fw := newTopology(t).Firewall
		if err := fw.SetSysctl(loose, "0"); err != nil {
			t.Fatal(err)
		}
		mustDo(t, fw, 0, apply...)
		mustDo(t, fw, 0, "revert")
		if value, err := fw.Sysctl(loose); value != "0" {
			t.Errorf("%s is %s, %v", loose, value, err)
		}
	})
	t.Run("rules without a record", func(t *testing.T) {
		fw := newTopology(t).Firewall
		before := run(t, fw, "iptables-nft-save", "-t", "filter")
		mustDo(t, fw, 0, apply...)
		for _, f := range records(t) {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		if found := codes(mustDo(t, fw, 3, "verify")); !slices.Contains(found, "no-record") {
			t.Errorf("verify: %v", found)
		}
		again := mustDo(t, fw, 0, append(slices.Clone(apply), "--first", "server")...)
		if again["changed"] != false || !slices.Contains(codes(again), "no-record") {
			t.Errorf("apply: %v", again)
		}
		mustDo(t, fw, 0, "verify")
		if again := mustDo(t, fw, 0, apply...); again["changed"] != false || len(codes(again)) != 0 {
			t.Errorf("apply: %v", again)
		}
		for _, f := range records(t) {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		if found := codes(mustDo(t, fw, 0, "revert")); !slices.Contains(found, "no-record") {
			t.Errorf("revert: %v", found)
		}
		if after := run(t, fw, "iptables-nft-save"); strings.Contains(after, "SYNPROXYCTL") {
			t.Errorf("left:\n%s\nbefore:\n%s", after, before)
		}
	})
	t.Run("connections that are alive", func(t *testing.T) {
		topo := newTopology(t)
		web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
		mustDo(t, topo.Firewall, 0, "apply", web.String())
		conn, err := topo.Client.Dial(t.Context(), web)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintln(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		if n := number(t, mustDo(t, topo.Firewall, 0, "status"), "connections", "proxied"); n != 1 {
			t.Errorf("%v proxied connections, want 1", n)
		}
		r := mustDo(t, topo.Firewall, 0, "revert", "--now")
		if number(t, r, "remaining") != 1 || r["state"] != "absent" || !slices.Contains(codes(r), "connections-given-up") {
			t.Errorf("revert: %v", r)
		}
	})
}

func records(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(protect.RunDir + "/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no undo record: %v", err)
	}
	return files
}

// TestNFTInTheWay puts into the tables of iptables-nft what only nft can show. Our own tables are then used, or
// the other variant, and what cannot be seen is not touched.
func TestNFTInTheWay(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	runInput(t, fw, `table ip filter {
	chain FORWARD { type filter hook forward priority filter; policy accept; ct mark 1 drop; }
}`, "nft", "-f", "-")
	before := run(t, fw, "nft", "list", "ruleset")
	for _, want := range []string{rules.NFTables, rules.Legacy} {
		args := []string{"apply", web.String()}
		if want == rules.Legacy {
			args = append(args, "--backend", "iptables")
		}
		if done := mustDo(t, fw, 0, args...); done["backend"] != want {
			t.Errorf("backend %v (%v), want %s", done["backend"], done["backend_reason"], want)
		}
	}
	allGood(t, topo.Client, web, lab.LoadConfig{Connections: 5, Mode: lab.ClientFirst})
	mustDo(t, fw, 0, "verify")
	mustDo(t, fw, 5, "apply", web.String(), "--backend", rules.NFT)
	mustDo(t, fw, 0, "revert")
	if after := run(t, fw, "nft", "list", "ruleset"); after != before {
		t.Errorf("nft's own rules were\n%s\nand are\n%s", before, after)
	}
}

// TestUnseenRules hides the protection's own rules from the tool: behind a rule that only nft can show. Nothing may
// then pretend that they are gone.
func TestUnseenRules(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	apply := append([]string{"apply", lab.ServerV4.String() + ":80"}, explicit...)
	mustDo(t, fw, 0, append(apply, "--backend", rules.NFT)...)
	run(t, fw, "iptables-nft", "-P", "FORWARD", "ACCEPT") // which makes the chain
	run(t, fw, "nft", "add", "rule", "ip", "filter", "FORWARD", "ct", "mark", "1", "drop")
	before := dump(t, fw) + recordOf(t)
	mustDo(t, fw, 5, "revert")
	mustDo(t, fw, 5, append(apply, "--backend", rules.Legacy)...)
	mustDo(t, fw, 5, apply...)
	if found := codes(mustDo(t, fw, 3, "verify")); !slices.Contains(found, "backend-unseen") {
		t.Errorf("verify: %v", found)
	}
	if state := mustDo(t, fw, 0, "status")["state"]; state != "drifted" {
		t.Errorf("state %v", state)
	}
	sameDump(t, before, dump(t, fw)+recordOf(t))
	run(t, fw, "nft", "flush", "chain", "ip", "filter", "FORWARD")
	mustDo(t, fw, 0, "revert")
	if left := run(t, fw, "nft", "list", "ruleset"); strings.Contains(left, "SYNPROXYCTL") {
		t.Errorf("left:\n%s", left)
	}
}

// TestRevertSparesTables makes chains and tables of somebody else while the protection stands, which must stay, empty
// as they are; also when the record is lost and the protection moves.
func TestRevertSparesTables(t *testing.T) {
	const theirs = `table ip filter {
	chain mine {
		type filter hook input priority filter + 5; policy accept;
	}
}
table ip6 filter {
	chain mine {
		type filter hook input priority filter + 5; policy accept;
	}
}
table ip6 raw {
}
`
	for _, lost := range []bool{false, true} {
		topo := newTopology(t)
		fw := topo.Firewall
		apply := append([]string{"apply", lab.ServerV4.String() + ":80"}, explicit...)
		mustDo(t, fw, 0, append(apply, "--backend", rules.NFT)...)
		runInput(t, fw, theirs, "nft", "-f", "-")
		if lost {
			for _, f := range records(t) {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
			mustDo(t, fw, 0, append(apply, "--backend", rules.Legacy)...)
		}
		mustDo(t, fw, 0, "revert")
		left := run(t, fw, "nft", "list", "ruleset")
		if !lost && left != theirs {
			t.Errorf("left:\n%s\nwant:\n%s", left, theirs)
		}
		if strings.Count(left, "chain mine") != 2 || !strings.Contains(left, "table ip6 raw") {
			t.Errorf("record lost %v: left:\n%s", lost, left)
		}
	}
}

// TestLookWhileChanging verifies again and again while the protection is changed. A change that is under way is no
// drift.
func TestLookWhileChanging(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	apply := append([]string{"apply", lab.ServerV4.String() + ":80", "--first", "server"}, explicit...)
	mustDo(t, fw, 0, apply...)
	stop := make(chan struct{})
	changed := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				changed <- n
				return
			default:
			}
			if _, stderr, exit := synproxyctl(t, fw, append(apply, "--mss", fmt.Sprint(1400+n%2))...); exit != 0 {
				t.Errorf("apply: exit %d: %s", exit, stderr)
			}
			n++
		}
	}()
	for range 15 {
		mustDo(t, fw, 0, "verify")
	}
	close(stop)
	if n := <-changed; n < 3 {
		t.Errorf("only %d changes meanwhile", n)
	}
}
