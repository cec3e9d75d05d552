package e2e

import (
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestVerifyLive has the command prove what it has applied, and deny what does not hold: without a proof nothing is ok.
func TestVerifyLive(t *testing.T) {
	topo := newTopology(t)
	fw := topo.Firewall
	web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
	mail := places[1].serve(t, topo, 25, lab.ServerConfig{Mode: lab.ServerFirst})
	before := dump(t, fw)
	mustDo(t, fw, 0, "apply", web.String(), mail.String(), "--mode", "tracked", "--backend", rules.NFT)
	applied := dump(t, fw)
	v := mustDo(t, fw, 0, "verify", "--live")
	proofs := v["proofs"].([]any)
	if v["ok"] != true || len(proofs) != 2 {
		t.Fatalf("verify --live: %v", v)
	}
	for _, each := range proofs {
		p := each.(map[string]any)
		if p["verdict"] != "proven" || number(t, p, "forged_answered") != 64 || number(t, p, "data_ms") <= 0 {
			t.Errorf("proof: %v", p)
		}
	}
	sameDump(t, applied, dump(t, fw))
	if stdout, stderr, exit := synproxyctl(t, fw, "verify", "--live"); exit != 0 || strings.Count(stdout, "proven: ") != 2 || stderr != "" {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
	// The service is gone: rules alone are no protection.
	run(t, topo.Server, "iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP")
	v = mustDo(t, fw, 3, "verify", "--live")
	if found := codes(v); v["ok"] != false || len(found) != 1 || found[0] != "live-no-data" {
		t.Errorf("with the server cut off: %v", v)
	}
	mustDo(t, fw, 0, "verify")
	mustDo(t, fw, 0, "revert")
	sameDump(t, before, dump(t, fw))
	if v := mustDo(t, fw, 3, "verify", "--live"); v["ok"] != false {
		t.Errorf("nothing is applied: %v", v)
	}
}
