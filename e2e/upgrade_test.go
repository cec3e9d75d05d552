package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// TestUpgrade continues on a live host what version 0.1 has begun, whose undo record had a list of services: nothing
// changes in the kernel until something shall, and everything goes in the end.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	topo := newTopology(t)
	fw := topo.Firewall
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	before := dump(t, fw)
	targets := []string{web.String(), lab.ServerV4.String() + ":443", "[" + lab.ServerV6.String() + "]:80"}
	apply := func(targets ...string) map[string]any {
		return mustDo(t, fw, 0, slices.Concat([]string{"apply", "--mode", "tracked", "--first", "client"}, explicit, targets)...)
	}
	apply(targets...)
	path := hostRecordPath(t, fw)
	asSchema1(t, path)
	held := dump(t, fw)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	status := mustDo(t, fw, 0, "status")
	if n := len(status["services"].([]any)); n != len(targets) || status["state"] != "active" {
		t.Errorf("status: %d services, %v", n, status["state"])
	}
	mustDo(t, fw, 0, "verify")
	if done := apply(targets...); done["changed"] != false {
		t.Errorf("the same again changes %v", done["changes"])
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(old) {
		t.Errorf("a record that need not change has changed: %v\n%s", err, now)
	}
	sameDump(t, held, dump(t, fw))
	dialTalker(t, "proxied", topo.Client, web).conn.Close()

	if done := apply(targets[:2]...); done["changed"] != true {
		t.Error("a service less changes nothing")
	}
	mustDo(t, fw, 0, "verify")
	dialTalker(t, "proxied after the change", topo.Client, web).conn.Close()
	asSchema1(t, path)
	mustDo(t, fw, 0, "revert", "--now")
	sameDump(t, before, dump(t, fw))
}

// asSchema1 writes a record anew as version 0.1 did.
func asSchema1(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rec map[string]any
	if err := json.Unmarshal(text, &rec); err != nil {
		t.Fatal(err)
	}
	services := []any{}
	for _, g := range rec["groups"].([]any) {
		group := g.(map[string]any)
		if group["others"] != nil {
			t.Fatalf("%v", group)
		}
		for _, m := range group["members"].([]any) {
			at := netip.MustParseAddrPort(m.(string))
			service := maps.Clone(group["like"].(map[string]any))
			service["name"], service["probe_at"] = m, m
			service["destination"], service["port"] = fmt.Sprintf("%s/%d", at.Addr(), at.Addr().BitLen()), at.Port()
			services = append(services, service)
		}
	}
	delete(rec, "groups")
	rec["schema"], rec["services"] = 1, services
	if text, err = json.MarshalIndent(rec, "", "  "); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
