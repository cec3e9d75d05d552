package e2e

import (
	"bytes"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// revert takes the protection away. It must wait for the fresh connections, which are proxied and go on, until they
// end.
func (s *soakRun) revert(fresh []*lab.Soak) {
	s.Helper()
	path, err := program()
	if err != nil {
		s.Fatal(err)
	}
	begun := time.Now()
	var out, errOut bytes.Buffer
	cmd := s.topo.Firewall.Command(s.Context(), path, "revert", "--json")
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()

	state := ""
	for state != "draining" {
		if time.Since(begun) > 15*time.Second {
			s.Fatalf("the state is %q, 15 s after revert began\n%s%s", state, out.Bytes(), errOut.Bytes())
		}
		time.Sleep(100 * time.Millisecond)
		state, _ = mustDo(s, s.topo.Firewall, 0, "status")["state"].(string)
	}
	s.Logf("%s revert drains %v after its begin", begun.Format(clock), time.Since(begun).Round(time.Millisecond))
	s.pass("draining")
	select {
	case err := <-done:
		s.Fatalf("revert did not wait for the connections under protection: %v\n%s%s", err, out.Bytes(), errOut.Bytes())
	default:
	}
	s.reportSoak("opened under protection", s.end(fresh))
	ended := time.Now()
	select {
	case err := <-done:
		s.Logf("revert returned %v after the last of them", time.Since(ended).Round(time.Millisecond))
		r := oneObject(s, out.String())
		if err != nil || r["state"] != "absent" || r["remaining"] != 0.0 {
			s.Errorf("revert: %v, %v\n%s", err, r, errOut.Bytes())
		}
	case <-time.After(15 * time.Second):
		s.Fatalf("revert still waits, 15 s after the last connection under protection ended\n%s", errOut.Bytes())
	}
}
