package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// TestGroups protects services that share rules and a set, and one of other options, in each place, by each backend
// and in each mode: each is served with its own options, and each is counted by itself.
func TestGroups(t *testing.T) {
	turn := 0
	for _, backend := range backends {
		for _, mode := range []rules.Mode{rules.ModeNotrack, rules.ModeTracked} {
			p := places[turn%len(places)]
			turn++
			t.Run(fmt.Sprintf("%s-%s-%s", backend, mode, p), func(t *testing.T) {
				topo := newTopology(t)
				var services []netip.AddrPort
				args := []string{"apply", "--backend", backend, "--mode", string(mode), "--first", "client"}
				for i, cfg := range []lab.ServerConfig{{}, {}, {ReceiveBuffer: 64 << 10}} {
					cfg.Mode = lab.ClientFirst
					at := p.serve(t, topo, uint16(80+i), cfg)
					services, args = append(services, at), append(args, at.String())
				}
				foreignRules(t, topo.Firewall)
				before := dump(t, topo.Firewall)
				done := mustDo(t, topo.Firewall, 0, args...)
				scales := map[any]bool{}
				for _, s := range done["services"].([]any) {
					scales[s.(map[string]any)["options"].(map[string]any)["wscale"]] = true
				}
				if len(scales) != 2 {
					t.Fatalf("window scales %v: the third server should have another", scales)
				}
				if backend == rules.NFTables {
					checkObjects(t, topo.Firewall, p.family, scales)
				}
				for _, at := range services { // a foe of what is not proxied, behind all rules
					dropBareSYNs(t, topo, p, rules.NFTables, at)
				}
				for i, at := range services {
					allGood(t, topo.Client, at, lab.LoadConfig{Connections: 10 + i, Mode: lab.ClientFirst})
					// The same port again, whose last entry is still there.
					allGood(t, topo.Client, at, lab.LoadConfig{Connections: 3, LocalPort: uint16(20000 + i), Mode: lab.ClientFirst, Reset: true})
					allGood(t, topo.Firewall, at, lab.LoadConfig{Connections: 3, Mode: lab.ClientFirst}) // not proxied
				}
				status := mustDo(t, topo.Firewall, 0, "status")
				for i, s := range status["services"].([]any) {
					if n := s.(map[string]any)["syn_received"]; n != float64(13+i) {
						t.Errorf("service %d: %v SYNs, want %d", i, n, 13+i)
					}
				}
				if again := mustDo(t, topo.Firewall, 0, args...); again["changed"] != false {
					t.Errorf("the same again changes %v", again["changes"])
				}
				run(t, topo.Firewall, "nft", "delete table inet witness")
				if r := mustDo(t, topo.Firewall, 0, "revert"); r["state"] != "absent" {
					t.Errorf("revert: %v", r)
				}
				sameDump(t, before, dump(t, topo.Firewall))
			})
		}
	}
}

// checkObjects reads our table by a library that had no part in writing it: there is an object for each window scale
// of the services, and the map holds a member for each of three.
func checkObjects(t *testing.T, fw *lab.Host, f rules.Family, scales map[any]bool) {
	t.Helper()
	family := map[rules.Family]nftables.TableFamily{rules.IPv4: nftables.TableFamilyIPv4, rules.IPv6: nftables.TableFamilyIPv6}[f]
	err := fw.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: rules.SetPrefix, Family: family}
		objects, err := conn.GetNamedObjects(table)
		if err != nil {
			return err
		}
		for _, o := range objects {
			proxy, ok := o.(*nftables.NamedObj).Obj.(*expr.SynProxy)
			if !ok || !proxy.WscaleValueSet || !scales[float64(proxy.Wscale)] || !proxy.Timestamp || !proxy.SackPerm || !proxy.MssValueSet {
				t.Errorf("object %+v: not that of a service", o)
			}
		}
		if len(objects) != len(scales) {
			t.Errorf("%d objects for %d kinds of options", len(objects), len(scales))
		}
		sets, err := conn.GetSets(table)
		if err != nil {
			return err
		}
		for _, s := range sets {
			if members, err := conn.GetSetElements(s); err != nil || len(members) != 3 {
				t.Errorf("set %s: %d members, %v", s.Name, len(members), err)
			}
		}
		if len(sets) != 2 {
			t.Errorf("%d sets, want the map and the one that counts", len(sets))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestForeignSet wants a set of our name and another type to be left alone, and told.
func TestForeignSet(t *testing.T) {
	for _, c := range []struct{ backend, make, unmake string }{
		{rules.NFT, "ipset create synproxyctl_n4_odd hash:ip", "ipset destroy synproxyctl_n4_odd"},
		{rules.NFTables, "nft add table ip synproxyctl; add set ip synproxyctl odd { type inet_service; }", "nft delete table ip synproxyctl"},
	} {
		t.Run(c.backend, func(t *testing.T) {
			topo := newTopology(t)
			program, rest, _ := strings.Cut(c.make, " ")
			words := strings.Fields(rest)
			if program == "nft" {
				words = []string{rest}
			}
			run(t, topo.Firewall, program, words...)
			before := dump(t, topo.Firewall)
			web := place{rules.Forward, rules.IPv4}.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			args := []string{"apply", web.String(), "--backend", c.backend}
			told := fmt.Sprint(mustDo(t, topo.Firewall, 5, args...)["error"])
			if !strings.Contains(told, "odd") || !strings.Contains(told, "type") {
				t.Errorf("the error does not name the set: %s", told)
			}
			sameDump(t, before, dump(t, topo.Firewall))
			program, rest, _ = strings.Cut(c.unmake, " ")
			run(t, topo.Firewall, program, strings.Fields(rest)...)
			mustDo(t, topo.Firewall, 0, args...)
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 5, Mode: lab.ClientFirst})
		})
	}
}
