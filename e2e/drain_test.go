package e2e

import (
	"bytes"
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// alive fails the test if a connection does not answer.
func alive(t testing.TB, l *talker) {
	t.Helper()
	if err := l.talk(); err != nil {
		t.Error(err)
	}
}

// background runs the program under test and returns what ends with it.
func background(t testing.TB, host *lab.Host, args ...string) (cmd *lab.Command, stdout *bytes.Buffer, done chan struct{}) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	stdout = &bytes.Buffer{}
	cmd = host.Command(ctx, path, unhurried(args)...)
	cmd.Stdout, cmd.Stderr = stdout, stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done = make(chan struct{})
	go func() {
		_ = cmd.Wait() // the exit status tells
		close(done)
	}()
	return cmd, stdout, done
}

// until waits for a condition for five seconds at most.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestDrain reverts while proxied connections are open: they live on, new ones go to the server itself, and the last
// rules and settings go with the last connection.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, c := range combinations() {
		backend, p, mode := c.backend, c.place, c.mode
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel() // most of the time goes by in waiting
			topo := newTopology(t)
			fw := topo.Firewall
			web := p.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			if backend == rules.Legacy {
				foreignRules(t, fw) // its tables cannot be unmade
			}
			before := inAnyOrder(dump(t, fw))
			mustDo(t, fw, 0, "apply", web.String(), "--backend", backend, "--mode", string(mode))
			c, half := dialTalker(t, "whole", topo.Client, web), dialTalker(t, "half", topo.Client, web)
			cmd, out, done := background(t, fw, "revert", "--json")
			until(t, "the namespace drains", func() bool {
				st := mustDo(t, fw, 0, "status")
				return st["state"] == "draining" && number(t, st, "connections", "proxied") == 2 && loosely(t, fw) == "1"
			})
			if found := codes(mustDo(t, fw, 3, "verify")); !slices.Contains(found, "draining") {
				t.Errorf("verify found %v", found)
			}
			alive(t, c)
			proxied := number(t, mustDo(t, fw, 0, "status"), "counters", "syn_received")
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 10, Mode: lab.ClientFirst})
			if n := number(t, mustDo(t, fw, 0, "status"), "counters", "syn_received"); n != proxied {
				t.Errorf("%v SYNs were answered while the namespace drained", n-proxied)
			}
			// One is half closed, with the server's answer still to come.
			if err := half.conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(half.conn, "last words\n"); err != nil {
				t.Fatal(err)
			}
			if err := half.conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if answer, err := half.in.ReadString('\n'); err != nil || answer != "last words\n" {
				t.Errorf("half closed: %q, %v", answer, err)
			}
			half.conn.Close()
			time.Sleep(300 * time.Millisecond)
			alive(t, c)
			select {
			case <-done:
				t.Fatalf("revert did not wait: %s", out)
			default:
			}
			c.conn.Close()
			<-done
			r := oneObject(t, out.String())
			if cmd.ProcessState.ExitCode() != 0 || r["state"] != "absent" || number(t, r, "remaining") != 0 {
				t.Errorf("exit %d: %s", cmd.ProcessState.ExitCode(), out)
			}
			sameDump(t, before, inAnyOrder(dump(t, fw)))
		})
	}
}

// loosely reads the setting of loose tracking.
func loosely(t testing.TB, host *lab.Host) string {
	t.Helper()
	value, err := host.Sysctl("net.netfilter.nf_conntrack_tcp_loose")
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestDrainBounded looks at the ends of a drain other than the last connection's.
func TestDrainBounded(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	fw := topo.Firewall
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	before := dump(t, fw)
	apply := []string{"apply", web.String()}
	mustDo(t, fw, 0, apply...)
	c := dialTalker(t, "proxied", topo.Client, web)
	draining := func(r map[string]any) {
		t.Helper()
		if r["state"] != "draining" || number(t, r, "remaining") != 1 {
			t.Errorf("revert: %v", r)
		}
		alive(t, c)
	}
	draining(mustDo(t, fw, 0, "revert", "--drain", "0s"))
	start := time.Now()
	draining(mustDo(t, fw, 0, "revert", "--drain", "700ms"))
	if took := time.Since(start); took < 700*time.Millisecond || took > 3*time.Second {
		t.Errorf("a drain of at most 700ms took %v", took)
	}
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGHUP} {
		cmd, out, done := background(t, fw, "revert", "--json")
		time.Sleep(500 * time.Millisecond)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
		<-done
		draining(oneObject(t, out.String()))
		if exit := cmd.ProcessState.ExitCode(); exit != 130 {
			t.Errorf("%v: exit %d", sig, exit)
		}
	}
	// Protected again, while another waits for the end.
	cmd, out, done := background(t, fw, "revert", "--json")
	time.Sleep(300 * time.Millisecond)
	mustDo(t, fw, 0, apply...)
	alive(t, c)
	mustDo(t, fw, 0, "verify")
	c.conn.Close()
	<-done
	if exit := cmd.ProcessState.ExitCode(); exit != 5 {
		t.Errorf("the drain that was overtaken: exit %d: %s", exit, out)
	}
	mustDo(t, fw, 0, "verify")
	allGood(t, topo.Client, web, lab.LoadConfig{Connections: 10, Mode: lab.ClientFirst})
	// Given up.
	c = dialTalker(t, "given up", topo.Client, web)
	draining(mustDo(t, fw, 0, "revert", "--drain", "0s"))
	if r := mustDo(t, fw, 0, "revert", "--now"); r["state"] != "absent" || number(t, r, "remaining") != 1 {
		t.Errorf("revert --now: %v", r)
	}
	sameDump(t, before, dump(t, fw))
	if r := mustDo(t, fw, 0, "revert"); r["changed"] != false {
		t.Errorf("revert again: %v", r)
	}
	mustDo(t, fw, 2, "revert", "--now", "--drain", "1s")
}
