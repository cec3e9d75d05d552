package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

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
results[].connected bool|null
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
+connections object
+connections.local float64
+connections.routed null
+connections.seen float64
+connections.tracked bool
+connections.warmup_seconds float64
+services[].first string
+services[].mode string
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
+services[].mode string
+services[].third_ack string
+services[].syn_received float64`
	pendingShape = `
pending object
pending.deadline string
pending.seconds_left float64`
	// connectionsShape is of a host that was tracking them; of others nobody knows how many are routed.
	connectionsShape = `
connections object
connections.local float64
connections.routed float64
connections.seen float64
connections.tracked bool
connections.warmup_seconds float64`
	confirmShape = `
command string
schema float64
services array
services[] object
services[].destination string
services[].family string
services[].first string
services[].hook string
services[].interfaces array
services[].interfaces[] string
services[].mode string
services[].name string
services[].options object
services[].options.mss float64
services[].options.sack_perm bool
services[].options.timestamps bool
services[].options.wscale float64
services[].port float64
services[].source string
services[].third_ack string`
	doctorShape = `
backend string
command string
findings array
findings[] object
findings[].code string
findings[].hint string
findings[].message string
findings[].severity string
ok bool
schema float64
+services array
+services[] object
+services[].destination string
+services[].family string
+services[].first string
+services[].hook string
+services[].interfaces array
+services[].interfaces[] string
+services[].mode string
+services[].name string
+services[].options object
+services[].options.mss float64
+services[].options.sack_perm bool
+services[].options.timestamps bool
+services[].options.wscale float64
+services[].port float64
+services[].source string
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
	lastVerifyShape = `
last_verify object
last_verify.findings object
last_verify.findings.error float64
last_verify.findings.info float64
last_verify.findings.warning float64
last_verify.last_probe object
last_verify.last_probe.asked float64
last_verify.last_probe.differ float64
last_verify.last_probe.silent float64
last_verify.last_probe.time string
last_verify.live bool
last_verify.ok bool
last_verify.probed bool
last_verify.time string`
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
	part := func(object map[string]any, key, want string) {
		t.Helper()
		only := map[string]any{}
		if value, ok := object[key]; ok {
			only[key] = value
		}
		if diff := cmp.Diff(strings.Fields(want), strings.Fields(strings.Join(shape(only), "\n"))); diff != "" {
			t.Errorf("%s of %s (-want +got):\n%s", key, object["command"], diff)
		}
	}
	check(s.exits(honestNo, "probe", "--connect", "--timeout", "200ms", web, local, server+":81", server+":82", server+":83"), probeShape)
	// Without timestamps there is a finding.
	apply := line("apply --interface eth0 --mss 1460 --wscale 7 --sack-perm --timestamps=false " + local + " " + web)
	check(s.good(append(apply, "--dry-run")...), applyShape)
	check(s.good(apply...), applyShape)
	run(t, s.host, "nft", "flush chain ip synproxyctl SYNPROXYCTL_RAW_PREROUTING")
	check(s.good("status"), statusShape)
	check(s.exits(honestNo, "verify", "--probe"), verifyShape)
	part(s.good("status"), "last_verify", lastVerifyShape)
	check(s.good(line("doctor --interface eth0 "+local+" "+web)...), doctorShape)
	check(s.exits(unsupported, "confirm"), errorShape)
	part(s.good(append(apply, "--try", "60s", "--dry-run")...), "pending", "") // nothing is pending of what was not done
	tried := s.good(append(apply, "--try", "60s")...)
	part(tried, "pending", pendingShape)
	part(tried, "connections", connectionsShape)
	part(s.good("status"), "pending", pendingShape)
	check(s.good("confirm"), confirmShape)
	part(s.good("status"), "pending", "")
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
