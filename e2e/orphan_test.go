package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestKilledWhileWaiting kills an apply whose iptables waits for somebody else's lock. It must not write its rules
// later on, when a revert has long cleaned up.
func TestKilledWhileWaiting(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	foreignRules(t, fw)
	before := dump(t, fw)
	path := filepath.Join(t.TempDir(), "xtables.lock")
	lock := flock.New(path)
	if ok, err := lock.TryLock(); !ok {
		t.Fatal(err)
	}
	defer lock.Close()
	cmd := deedCommand(t, fw, deed{Do: "apply", Services: firstServices, Backend: rules.Legacy})
	cmd.Env = append(cmd.Env, "XTABLES_LOCKFILE="+path)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond)
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	on(t, fw, func() error {
		r, err := (&protect.Host{}).Revert(t.Context(), protect.Removal{Now: true})
		if err == nil && !r.Changed {
			t.Errorf("the apply had not begun: %s", out.String())
		}
		return err
	})
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // iptables asks for the lock every second
	sameDump(t, before, dump(t, fw))
}
