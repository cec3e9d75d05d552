package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

const interrupted = 130

// interrupt runs the program, sends the signals one after the other once ready says so, and returns what came of it.
func (s *stage) interrupt(ready func() bool, signals []syscall.Signal, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	var out, errOut strings.Builder
	cmd := s.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never ready for a signal: %s%s", out.String(), errOut.String())
		}
	}
	start := time.Now()
	for _, sig := range signals {
		if err := cmd.Process.Signal(sig); err != nil {
			s.t.Errorf("%v: the program had ended: %v", sig, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	_ = cmd.Wait() // the exit status tells
	if took := time.Since(start); took > 10*time.Second {
		s.t.Errorf("it went on for %v", took)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

var interruptions = map[string][]syscall.Signal{
	"SIGINT": {unix.SIGINT}, "SIGTERM": {unix.SIGTERM}, "SIGHUP": {unix.SIGHUP},
	"twice": {unix.SIGINT, unix.SIGINT}, "all": {unix.SIGHUP, unix.SIGINT, unix.SIGTERM},
}

// TestInterruptProbe ends commands that wait for a backend's answer.
func TestInterruptProbe(t *testing.T) {
	s, topo := newCLI(t)
	s.remember()
	asked := func() int {
		return strings.Count(run(t, topo.Server, "iptables-nft-save", "-c"), "[0:0] -A INPUT -p tcp -m tcp --dport 82")
	}
	for name, signals := range interruptions {
		for _, verb := range []string{"probe", "apply"} {
			t.Run(name+" "+verb, func(t *testing.T) {
				s.t = t
				// The rule is new each time: when its counter is no longer 0, the probe is waiting.
				run(t, topo.Server, "iptables-nft", line("-F INPUT")...)
				run(t, topo.Server, "iptables-nft", line("-A INPUT -p tcp --dport 82 -j DROP")...)
				ready := func() bool { return asked() == 0 }
				stdout, stderr, exit := s.interrupt(ready, signals, verb, "--timeout", "30s", server+":80", server+":82")
				if exit != interrupted || stdout != "" || !strings.HasPrefix(stderr, "synproxyctl: ") || !strings.Contains(stderr, "signal received\nhint: ") {
					t.Errorf("exit %d: %s%s", exit, stdout, stderr)
				}
				s.untouched()
			})
		}
	}
}

var nftListing = regexp.MustCompile(`(?s)== nft list ruleset.*== ipset save`)

// slowly makes each change take a while, and tells by a file that the first has begun.
const slowly = `touch REAL/../began; sleep 0.1; text=$(cat); echo "$text" | REAL/iptables-nft-restore "$@"`

// TestInterruptChanges ends apply and revert between two changes: what was begun is rolled back.
func TestInterruptChanges(t *testing.T) {
	s, _ := newCLI(t)
	s.swap(nil, map[string]string{"iptables-nft-restore": slowly})
	began := filepath.Join(s.work, "began")
	ready := func() bool {
		_, err := os.Stat(began)
		return err == nil
	}
	end := func(t *testing.T, signals []syscall.Signal, args ...string) {
		t.Helper()
		s.t = t
		s.remember()
		_ = os.Remove(began) // it may not be there
		stdout, stderr, exit := s.interrupt(ready, signals, append(args, "--json")...)
		object := oneObject(t, stdout)
		fault, _ := object["error"].(map[string]any)
		if exit != interrupted || stderr != "" || fault["code"] != "interrupted" || fault["hint"] == "" {
			t.Errorf("exit %d: %s%s", exit, stdout, stderr)
		}
		s.sameFiles()
		// The chains may have changed places in what nft lists, which says nothing.
		sameDump(t, nftListing.ReplaceAllString(s.dump, ""), nftListing.ReplaceAllString(dump(t, s.host), ""))
	}
	for name, signals := range interruptions {
		t.Run("apply "+name, func(t *testing.T) { end(t, signals, applying(server+":80", "--backend", rules.NFT)...) })
	}
	s.t = t
	s.good(applying(server+":80", "--backend", rules.NFT)...)
	for _, name := range []string{"SIGINT", "all"} {
		signals := interruptions[name]
		t.Run("apply another "+name, func(t *testing.T) { end(t, signals, applying(server+":81", "--backend", rules.NFT)...) })
		t.Run("revert "+name, func(t *testing.T) { end(t, signals, "revert") })
	}
}

// TestNohup sends SIGHUP to a program whose caller ignores it, as nohup does: it goes on.
func TestNohup(t *testing.T) {
	s, _ := newCLI(t)
	s.swap(nil, map[string]string{"iptables-nft-restore": slowly})
	s.prefix = []string{"sh", "-c", `trap "" HUP INT; exec "$@"`, "sh"}
	ready := func() bool {
		_, err := os.Stat(filepath.Join(s.work, "began"))
		return err == nil
	}
	stdout, stderr, exit := s.interrupt(ready, []syscall.Signal{unix.SIGHUP, unix.SIGINT}, applying(server+":80", "--backend", rules.NFT)...)
	if exit != 0 || !strings.Contains(stdout, "applied") {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
}
