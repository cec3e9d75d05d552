package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// newCLI is a stage with a server behind it, or on it.
func newCLI(t *testing.T) (*stage, *lab.Topology) {
	t.Helper()
	t.Parallel()
	topo := newTopology(t)
	forward4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	return newStage(t, topo.Firewall), topo
}

// good runs a command line with --json, which must succeed, and returns the object.
func (s *stage) good(args ...string) map[string]any {
	s.t.Helper()
	return s.exits(0, args...)
}

// exits is [stage.good] for any exit status.
func (s *stage) exits(want int, args ...string) map[string]any {
	s.t.Helper()
	stdout, stderr, exit := s.synproxyctl("", append(args, "--json")...)
	if exit != want || stderr != "" {
		s.t.Fatalf("%v: exit %d, want %d: %s%s", args, exit, want, stdout, stderr)
	}
	return oneObject(s.t, stdout)
}

func TestFlagsStandAnywhere(t *testing.T) {
	s, _ := newCLI(t)
	web := server + ":80"
	roundTrip := regexp.MustCompile(`"rtt_us":\d+`)
	for _, same := range [][]string{
		{
			"probe --count 2 --timeout 500ms --json " + web, "probe " + web + " --count 2 --timeout 500ms --json", "--json probe --count=2 " + web + " --timeout=500ms",
			"probe -count 2 -timeout 500ms -json " + web, "--json=true probe --count 2 --timeout 500ms -- " + web, "probe --count 9 --count 2 " + web + " --timeout 500ms --json=false --json",
		},
		{
			"apply --json --dry-run --mss 1460 --wscale 7 --sack-perm --timestamps=false " + web, "apply " + web + " --json --timestamps=0 --sack-perm --wscale 007 --mss 1460 --dry-run",
			"--lock-timeout 3s --json apply --mss 1460 " + web + " --wscale 7 --sack-perm --dry-run --timestamps=false",
		},
		{"help apply", "apply --help", "apply -h", "--help apply", "apply " + web + " --help", "-h apply --mss 7"},
		{"help", "--help", "-h", "-help"},
		{"version", "--version"},
	} {
		var first string
		for _, words := range same {
			stdout, stderr, exit := s.synproxyctl("", line(words)...)
			stdout = roundTrip.ReplaceAllString(stdout, "rtt")
			if first == "" {
				first = stdout
			}
			if exit != 0 || stderr != "" || stdout != first || stdout == "" {
				t.Errorf("%s: exit %d, %s\n%s\nwant\n%s", words, exit, stderr, stdout, first)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	s, _ := newCLI(t)
	for _, name := range append(line("probe apply status top verify revert confirm doctor demo"), "config check", "config example", "config schema") {
		stdout, _, exit := s.synproxyctl("", append([]string{"help"}, line(name)...)...)
		if exit != 0 || !strings.Contains(stdout, "Usage: synproxyctl "+name) || !strings.Contains(stdout, "\nFlags:\n") || !strings.Contains(stdout, "\nExamples:\n") {
			t.Errorf("help %s: exit %d\n%s", name, exit, stdout)
		}
		for text := range strings.Lines(stdout) {
			if len(text) > 81 {
				t.Errorf("help %s: more than 80 columns: %s", name, text)
			}
		}
	}
	if object := s.good("help", "apply"); !strings.Contains(fmt.Sprint(object["text"]), "--mss") {
		t.Errorf("help --json: %v", object)
	}
	if object := s.good("version"); object["version"] == "" {
		t.Errorf("version --json: %v", object)
	}
}

// TestDryRunIsReality compares what --dry-run announces with what apply then reports, from nothing and from another state.
func TestDryRunIsReality(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			s, topo := newCLI(t)
			six := places[3].serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst}).String()
			foreignRules(t, s.host)
			for _, args := range [][]string{{server + ":80"}, {six, server + ":80", "--mss", "1400"}, {six}} {
				args = append([]string{"apply", "--backend", backend}, args...)
				s.remember()
				dry := s.good(append(args, "--dry-run")...)
				s.untouched()
				if _, err := os.Lstat(filepath.Join(s.run, "synproxyctl")); s.files == "" && err == nil {
					t.Error("--dry-run made /run/synproxyctl")
				}
				done := s.good(args...)
				if dry["dry_run"] != true || dry["verified"] != false || done["dry_run"] != false || done["verified"] != true || done["changed"] != true {
					t.Errorf("dry: %v\ndone: %v", dry, done)
				}
				for _, object := range []map[string]any{dry, done} {
					delete(object["connections"].(map[string]any), "seen") // what a warm-up sees is not known before
				}
				for _, differs := range []string{"dry_run", "verified"} {
					delete(dry, differs)
					delete(done, differs)
				}
				if diff := cmp.Diff(dry, done); diff != "" {
					t.Errorf("%v (-announced +done):\n%s", args, diff)
				}
			}
		})
	}
}

// TestNames protects all addresses of a name.
func TestNames(t *testing.T) {
	s, topo := newCLI(t)
	six := places[3].serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	for name, content := range map[string]string{
		"nsswitch": "hosts: files\n",
		"hosts":    fmt.Sprintf("%s web.example\n%s web.example\n", lab.ServerV6, lab.ServerV4),
	} {
		if err := os.WriteFile(filepath.Join(s.work, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.setup = `mount --bind "$WORK/nsswitch" /etc/nsswitch.conf; mount --bind "$WORK/hosts" /etc/hosts`
	done := s.good("apply", "web.example:80", "--backend", "iptables-nft")
	var got []string
	for _, each := range done["services"].([]any) {
		service := each.(map[string]any)
		got = append(got, fmt.Sprint(service["name"], " ", service["destination"], " ", service["family"]))
	}
	want := []string{"web.example:80 " + lab.ServerV4.String() + " ipv4", "web.example:80 " + lab.ServerV6.String() + " ipv6"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	for p, at := range map[place]netip.AddrPort{forward4: netip.MustParseAddrPort(server + ":80"), places[3]: six} {
		dropBareSYNs(t, topo, p, "iptables-nft", at)
		allGood(t, topo.Client, at, lab.LoadConfig{Connections: 5, Mode: lab.ClientFirst})
	}
}
