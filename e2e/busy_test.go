package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// TestBusy looks at a namespace that another instance is changing: status must not wait for long nor call it broken,
// and verify must not call it right. Whoever looks must not keep a confirmation out.
func TestBusy(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst}).String()
	_, out, done := background(t, fw, "apply", web, "--warmup", "5s", "--first", "client", "--json")
	time.Sleep(2 * time.Second) // the probe comes first
	start := time.Now()
	st := mustDo(t, fw, 0, "status")
	if took := time.Since(start); took > 2500*time.Millisecond {
		t.Errorf("status waited for %v", took)
	}
	if st["state"] == "drifted" || !slices.Contains(codes(st), "busy") {
		t.Errorf("status: %v", st)
	}
	if v := mustDo(t, fw, 3, "verify"); v["ok"] != false || !slices.Contains(codes(v), "busy") {
		t.Errorf("verify: %v", v)
	}
	<-done
	if oneObject(t, out.String())["verified"] != true {
		t.Errorf("apply: %s", out)
	}
	mustDo(t, fw, 0, "verify")
	for range 5 {
		mustDo(t, fw, 0, "apply", web, "--try", "1m", "--lock-timeout", "0s")
		_, _, looked := background(t, fw, "status")
		mustDo(t, fw, 0, "confirm", "--lock-timeout", "0s")
		<-looked
	}
}

// TestDrainOvertaken protects the services again while a revert waits for a connection: it must not wait any longer.
func TestDrainOvertaken(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	fw := topo.Firewall
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	mustDo(t, fw, 0, "apply", web.String())
	c := dialTalker(t, "open", topo.Client, web)
	cmd, out, done := background(t, fw, "revert", "--json")
	until(t, "the namespace drains", func() bool { return mustDo(t, fw, 0, "status")["state"] == "draining" })
	mustDo(t, fw, 0, "apply", web.String())
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("revert waits for connections of the new protection")
	}
	if r := oneObject(t, out.String()); cmd.ProcessState.ExitCode() != 5 || r["state"] != "active" {
		t.Errorf("exit %d: %s", cmd.ProcessState.ExitCode(), out)
	}
	alive(t, c)
	mustDo(t, fw, 0, "verify")
}
