package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	for _, name := range line("probe apply status verify revert demo") {
		stdout, _, exit := s.synproxyctl("", "help", name)
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

// shape lists the keys of a JSON value with the types that their values have, one line for each.
func shape(v any) []string {
	types := map[string]map[string]bool{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		name := map[bool]string{true: "null"}[v == nil]
		switch v := v.(type) {
		case map[string]any:
			name = "object"
			for key, value := range v {
				walk(strings.TrimPrefix(path+"."+key, "."), value)
			}
		case []any:
			name = "array"
			for _, value := range v {
				walk(path+"[]", value)
			}
		case string, float64, bool:
			name = fmt.Sprintf("%T", v)
		}
		if types[path] == nil {
			types[path] = map[string]bool{}
		}
		types[path][name] = true
	}
	walk("", v)
	delete(types, "")
	var list []string
	for path, names := range types {
		list = append(list, path+" "+strings.Join(slices.Sorted(maps.Keys(names)), "|"))
	}
	return slices.Sorted(slices.Values(list))
}

// The keys of each object, as the contract has them; behind a + stand those that were added since. Where a key may be
// missing, the runs below make it appear.
const (
	probeShape = `
command string
results array
results[] object
results[].address string
results[].consistent bool
results[].family string
results[].iptables string
results[].nft string
results[].options object
results[].options.mss float64|null
results[].options.sack_perm bool
results[].options.timestamps bool
results[].options.wscale float64|null
results[].port float64
results[].rtt_us float64|null
results[].samples float64
results[].speaks null|string
results[].target string
results[].ttl float64|null
results[].variants array
results[].verdict string
results[].window float64|null
schema float64
+results[].local bool
+results[].mss_answered float64
+results[].notes array
+results[].notes[] string
+results[].reason string
+results[].sent float64`
	applyShape = `
backend string
changed bool
changes array
changes[] object
changes[].action string
changes[].after string
changes[].before string
changes[].chain string
changes[].family string
changes[].key string
changes[].kind string
changes[].rule string
changes[].table string
command string
dry_run bool
findings array
findings[] object
findings[].code string
findings[].hint string
findings[].message string
findings[].severity string
schema float64
services array
services[] object
services[].destination string
services[].family string
services[].hook string
services[].interfaces array
services[].interfaces[] string
services[].name string
services[].options object
services[].options.mss float64
services[].options.sack_perm bool
services[].options.timestamps bool
services[].options.wscale float64
services[].port float64
services[].source string
verified bool
+backend_reason string
+services[].first string
+services[].third_ack string`
	statusShape = `
backend string
command string
connections object
connections.proxied float64
conntrack object
conntrack.count float64
conntrack.max float64
counters object
counters.conn_reopened float64
counters.cookie_invalid float64
counters.cookie_retrans float64
counters.cookie_valid float64
counters.syn_received float64
findings array
findings[] object
findings[].code string
findings[].hint string
findings[].message string
findings[].severity string
schema float64
services array
services[] object
services[].destination string
services[].family string
services[].hook string
services[].interfaces array
services[].interfaces[] string
services[].name string
services[].options object
services[].options.mss float64
services[].options.sack_perm bool
services[].options.timestamps bool
services[].options.wscale float64
services[].port float64
services[].source string
state string
sysctls array
sysctls[] object
sysctls[].have string
sysctls[].key string
sysctls[].ok bool
sysctls[].want string
+services[].first string
+services[].third_ack string`
	verifyShape = `
command string
findings array
findings[] object
findings[].code string
findings[].hint string
findings[].message string
findings[].severity string
ok bool
schema float64`
	revertShape = `
changed bool
command string
findings array
remaining float64
schema float64
state string
+findings[] object
+findings[].code string
+findings[].hint string
+findings[].message string
+findings[].severity string`
	errorShape = `
command string
error object
error.code string
error.hint string
error.message string
schema float64`
)

// TestJSONShape compares the keys and types of every object with those of the contract, none more and none less.
func TestJSONShape(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	badServers(t, topo)
	s := newStage(t, topo.Firewall)
	local := place{"input", "ipv4"}.serve(t, topo, 443, lab.ServerConfig{Mode: lab.ServerFirst}).String()
	web := server + ":80"
	check := func(object map[string]any, want string) {
		t.Helper()
		lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(want, "\n+", "\n")), "\n")
		slices.Sort(lines)
		if diff := cmp.Diff(lines, shape(object)); diff != "" {
			text, _ := json.Marshal(object)
			t.Errorf("%s (-want +got):\n%s\nof %s", object["command"], diff, text)
		}
	}
	check(s.exits(honestNo, "probe", "--connect", "--timeout", "200ms", web, local, server+":81", server+":82", server+":83"), probeShape)
	// Without timestamps there is a finding.
	apply := line("apply --interface eth0 --mss 1460 --wscale 7 --sack-perm --timestamps=false " + local + " " + web)
	check(s.good(append(apply, "--dry-run")...), applyShape)
	check(s.good(apply...), applyShape)
	run(t, s.host, "iptables-nft", line("-t raw -F SYNPROXYCTL_PRE")...)
	check(s.good("status"), statusShape)
	check(s.exits(honestNo, "verify"), verifyShape)
	if err := s.host.SetSysctl("net.netfilter.nf_conntrack_tcp_loose", "1"); err != nil {
		t.Fatal(err)
	}
	if path := s.recordPath(); os.Remove(path) != nil {
		t.Fatalf("no undo record at %s", path)
	}
	check(s.good("revert"), revertShape) // with a finding, since the record is lost
	check(s.exits(badUsage, "apply"), errorShape)
	check(s.exits(badUsage, "nonsense"), errorShape)
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
