package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestAnotherTool lets another program insert and remove its rules all the time in the chains that we use. None of them
// may be lost, and ours must be right, or the error say what is wrong.
func TestAnotherTool(t *testing.T) {
	for _, backend := range backends {
		for _, verb := range []string{"-A", "-I"} { // behind our jumps, and before them
			t.Run(backend+verb, func(t *testing.T) {
				t.Parallel()
				topo := newTopology(t)
				fw, program := topo.Firewall, on4.program(backend)
				web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst}).String()
				apply := slices.Concat([]string{"apply", web, "--backend", backend, "--mode", "tracked", "--first"}, []string{"client"}, explicit)
				stop := make(chan struct{})
				var wg sync.WaitGroup
				kept := 0
				wg.Go(func() {
					for n := 1; ; n++ {
						for _, at := range []string{"filter FORWARD", "mangle FORWARD", "security FORWARD"} {
							table, chain, _ := strings.Cut(at, " ")
							rule := []string{chain, "-p", "udp", "--dport", fmt.Sprint(n), "-j", "ACCEPT"}
							run(t, fw, program, append([]string{"--wait", "5", "-t", table, verb}, rule...)...)
							if n%2 == 0 {
								run(t, fw, program, append([]string{"--wait", "5", "-t", table, "-D"}, rule...)...)
							}
						}
						kept = (n + 1) / 2
						select {
						case <-stop:
							return
						default:
						}
					}
				})
				good := 0
				for i := range 20 {
					stdout, stderr, exit := synproxyctl(t, fw, append(slices.Clone(apply), "--mss", fmt.Sprint(1300+i))...)
					switch {
					case exit == 0:
						good++
					case exit != failed || !strings.Contains(stderr, "meanwhile") && !strings.Contains(stderr, "does not hold what was written") || !strings.Contains(stderr, "hint: "):
						t.Errorf("apply: exit %d: %s%s", exit, stdout, stderr)
					}
				}
				close(stop)
				wg.Wait()
				t.Logf("%d of 20 applies went through, beside %d rules of somebody else", good, kept)
				// One that finds a rule put before its own jump gives up, and says so.
				if (verb == "-A" || backend == rules.NFTables) && good < 15 {
					t.Errorf("only %d of 20 applies went through", good)
				}
				mustDo(t, fw, 0, apply...)
				mustDo(t, fw, 0, "verify")
				mustDo(t, fw, 0, "revert")
				for _, table := range []string{"filter", "mangle", "security"} {
					left := run(t, fw, program, "-t", table, "-S", "FORWARD")
					if n := strings.Count(left, "-p udp"); n != kept || strings.Contains(left, "SYNPROXYCTL") {
						t.Errorf("%s: %d rules of somebody else, want %d:\n%s", table, n, kept, left)
					}
				}
			})
		}
	}
}

// TestTwoInstances runs two commands at once: one waits for the other, and the end is as if they had run one after the
// other.
func TestTwoInstances(t *testing.T) {
	for _, backend := range []string{rules.NFT, rules.NFTables} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			twoInstances(t, backend)
		})
	}
}

func twoInstances(t *testing.T, backend string) {
	t.Helper()
	topo := newTopology(t)
	fw := topo.Firewall
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst}).String()
	runInput(t, fw, trackAll, "nft", "-f", "-")
	one := slices.Concat([]string{"apply", web, "--backend", backend, "--first", "client"}, explicit)
	two := slices.Concat(one, []string{"--mss", "1400"})
	absent := inAnyOrder(dump(t, fw)) + hostRecord(t, fw)
	state := func() string { return inAnyOrder(dump(t, fw)) + hostRecord(t, fw) }
	ends := func(args ...string) string {
		mustDo(t, fw, 0, args...)
		return state()
	}
	first := ends(one...)
	second := ends(two...)
	mustDo(t, fw, 0, "revert")
	revert := []string{"revert"}
	for _, c := range []struct {
		a, b    []string
		allowed []string
	}{
		{one, two, []string{first, second}},
		{one, revert, []string{first, absent}},
		{two, []string{"revert", "--now"}, []string{second, absent}},
		{revert, revert, []string{absent}},
	} {
		for i := range 3 {
			what := fmt.Sprintf("%s and %s, %d", c.a[0], c.b[0], i)
			if c.a[0] == "revert" {
				mustDo(t, fw, 0, one...)
				held := dialTalker(t, "proxied", topo.Client, netip.MustParseAddrPort(web))
				time.AfterFunc(2*time.Second, func() { held.conn.Close() })
			}
			_, out1, done1 := background(t, fw, c.a...)
			_, out2, done2 := background(t, fw, c.b...)
			<-done1
			<-done2
			if now := state(); !slices.Contains(c.allowed, now) {
				t.Errorf("%s: %s\n%s\n%s", what, firstDifference(c.allowed[0], now), out1, out2)
			}
			for _, out := range []string{out1.String(), out2.String()} {
				// A drain may be overtaken by an apply, and says so.
				if strings.Contains(out, "hint:") && !strings.Contains(out, "applied again") {
					t.Errorf("%s: %s", what, out)
				}
			}
		}
	}
	mustDo(t, fw, 0, "revert")
	sameDump(t, absent, state())
}
