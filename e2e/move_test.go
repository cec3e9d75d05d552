package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/synproxyctl/synproxyctl/internal/lab"
	"github.com/synproxyctl/synproxyctl/internal/protect"
	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// newBusyServices is a soak of two services, 30 ms away from 20 clients, without its usual course.
func newBusyServices(t *testing.T, c soakCase) *soakRun {
	t.Helper()
	s := &soakRun{soakCase: c, T: t, topo: newWAN(t, lab.RelayConfig{Delay: 30 * time.Millisecond}), begun: time.Now(), phase: 20}
	host, addr := place{c.hook, rules.IPv4}.host(s.topo)
	for i, mode := range soakModes {
		s.servers = append(s.servers, serve(t, host, lab.ServerConfig{Address: netip.AddrPortFrom(addr, uint16(80+i)), Mode: mode}))
	}
	foreignRules(t, s.topo.Firewall)
	runInput(t, s.topo.Firewall, trackAll, "nft", "-f", "-")
	return s
}

// TestMoveUnderLoad leads busy services from each backend to each other one. Not one connection may be lost, neither
// those that are open throughout nor new ones.
func TestMoveUnderLoad(t *testing.T) {
	for _, hook := range []rules.Hook{rules.Input, rules.Forward} {
		t.Run(string(hook), func(t *testing.T) {
			t.Parallel()
			s := newBusyServices(t, soakCase{rules.NFT, hook, true, 0})
			before := inAnyOrder(dump(t, s.topo.Firewall))
			old, short := s.open(true), s.load(10)
			s.apply("install")
			fresh := s.open(true)
			for _, backend := range []string{rules.Legacy, rules.NFTables, rules.NFT, rules.NFTables, rules.Legacy, rules.NFT} {
				s.backend = backend
				s.apply("move to " + backend)
				s.pass("by " + backend)
				mustDo(t, s.topo.Firewall, 0, "verify")
			}
			s.report("short", short())
			s.reportSoak("opened before", s.end(old))
			s.reportSoak("opened under protection", s.end(fresh))
			mustDo(t, s.topo.Firewall, 0, "revert")
			sameDump(t, before, inAnyOrder(dump(t, s.topo.Firewall)))
		})
	}
}

// TestSharedUnderLoad changes services that share rules and a set while they are used: one goes and comes back, one
// gets other options, which lead to other rules, all do, and the last of them is alone.
func TestSharedUnderLoad(t *testing.T) {
	with := func(port uint16, change func(*protect.Service)) protect.Service {
		return webService(lab.ServerV4, port, rules.ModeTracked, func(s *protect.Service) {
			s.First = rules.FirstServer
			if change != nil {
				change(s)
			}
		})
	}
	smaller := func(s *protect.Service) { s.Options.MSS = ptr[uint16](1400) }
	untracked := func(s *protect.Service) { s.Mode = rules.ModeNotrack }
	steps := []struct {
		name     string
		services []protect.Service
	}{
		{"alike", []protect.Service{with(80, nil), with(81, nil), with(82, nil)}},
		{"one goes", []protect.Service{with(80, nil), with(81, nil)}},
		{"it is back", []protect.Service{with(80, nil), with(81, nil), with(82, nil)}},
		{"one has other options", []protect.Service{with(80, nil), with(81, smaller), with(82, nil)}},
		{"all have", []protect.Service{with(80, smaller), with(81, smaller), with(82, smaller)}},
		{"one is not tracked", []protect.Service{with(80, untracked), with(81, smaller), with(82, smaller)}},
		{"two are not", []protect.Service{with(80, untracked), with(81, untracked), with(82, smaller)}},
		{"one goes that is used", []protect.Service{with(81, untracked), with(82, smaller)}},
		{"alike again", []protect.Service{with(80, nil), with(81, nil), with(82, nil)}},
	}
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			s := newBusyServices(t, soakCase{backend, rules.Forward, true, 0})
			short := s.load(10)
			var open []*lab.Soak
			for i, step := range steps {
				on(t, s.topo.Firewall, func() error { return applyIn(&protect.Host{}, step.services, backend) })
				if i == 0 {
					open = s.open(true)
				}
				s.pass(step.name)
				mustDo(t, s.topo.Firewall, 0, "verify")
			}
			s.report("short", short())
			s.reportSoak("open throughout", s.end(open))
		})
	}
}

// ours returns the lines of a dump that bear our name, in any order: a backup also brings chains back that are not ours.
func ours(dump string) string {
	lines := slices.DeleteFunc(strings.Split(dump, "\n"), func(line string) bool {
		return !strings.Contains(strings.ToLower(line), rules.SetPrefix)
	})
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestTwoBackends brings rules of ours back from a backup, beside those of another backend. verify tells, and apply
// takes them away.
func TestTwoBackends(t *testing.T) {
	for _, c := range []struct{ left, now string }{
		{rules.NFT, rules.NFTables}, {rules.Legacy, rules.NFTables}, {rules.NFTables, rules.NFT}, {rules.NFTables, rules.Legacy}, {rules.NFT, rules.Legacy},
	} {
		t.Run(c.left+" beside "+c.now, func(t *testing.T) {
			t.Parallel()
			topo := newTopology(t)
			fw := topo.Firewall
			web := on4.serve(t, topo, 80, lab.ServerConfig{Mode: lab.ClientFirst})
			foreignRules(t, fw)
			apply := slices.Concat([]string{"apply", web.String(), lab.ServerV4.String() + ":81"}, explicit, []string{"--first", "client", "--backend"})
			mustDo(t, fw, 0, append(apply, c.left)...)
			sets, saved := run(t, fw, "ipset", "save"), ""
			if c.left != rules.NFTables {
				saved = run(t, fw, c.left+"-save")
			}
			mustDo(t, fw, 0, append(apply, c.now)...)
			right := ours(dump(t, fw))
			mustDo(t, fw, 0, "verify")
			if c.left == rules.NFTables {
				run(t, fw, "nft", "add table ip synproxyctl; add chain ip synproxyctl SYNPROXYCTL_RAW_OUTPUT { type filter hook output priority -300; }")
			} else {
				runInput(t, fw, sets, "ipset", "restore", "-exist")
				runInput(t, fw, saved, c.left+"-restore")
			}
			if found := codes(mustDo(t, fw, 3, "verify")); !slices.Contains(found, "two-backends") {
				t.Errorf("verify found %v", found)
			}
			if state := mustDo(t, fw, 0, "status")["state"]; state != "drifted" {
				t.Errorf("state %v", state)
			}
			if done := mustDo(t, fw, 0, append(apply, c.now)...); done["changed"] != true {
				t.Errorf("apply: %v", done)
			}
			mustDo(t, fw, 0, "verify")
			sameDump(t, right, ours(dump(t, fw)))
			allGood(t, topo.Client, web, lab.LoadConfig{Connections: 10, Mode: lab.ClientFirst})
		})
	}
}

// TestSetInTheWay puts a set of another type where ours would be.
func TestSetInTheWay(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			fw := newTopology(t).Firewall
			foreignRules(t, fw)
			apply := slices.Concat([]string{"apply", lab.ServerV4.String() + ":80,443", "--backend", backend, "--first", "client"}, explicit)
			mustDo(t, fw, 0, apply...)
			names := setNames(t, fw, backend)
			name := names[slices.Index(names, "$SET")+1]
			mustDo(t, fw, 0, "revert", "--now")
			occupy, remove := "ipset create "+name+" hash:ip", "ipset destroy "+name
			if backend == rules.NFTables {
				occupy = "nft 'add table ip synproxyctl; add set ip synproxyctl " + name + " { type inet_service; }'"
				remove = "nft delete table ip synproxyctl"
			}
			shell(t, fw, occupy)
			before := dump(t, fw)
			for _, more := range [][]string{{"--dry-run"}, nil} {
				object := mustDo(t, fw, 5, append(apply, more...)...)
				if text := fmt.Sprint(object["error"]); !strings.Contains(text, name) {
					t.Errorf("error %s", text)
				}
				sameDump(t, before, dump(t, fw))
			}
			if record := hostRecord(t, fw); record != "" {
				t.Errorf("a record is left: %s", record)
			}
			shell(t, fw, remove)
			mustDo(t, fw, 0, apply...)
			mustDo(t, fw, 0, "verify")
		})
	}
}

// TestWithoutPrograms goes through the life of a protection on a host that has no program for rules or sets.
func TestWithoutPrograms(t *testing.T) {
	s, topo := newCLI(t)
	web := netip.MustParseAddrPort(server + ":80")
	dropBareSYNs(t, topo, on4, rules.NFTables, web)
	s.remember()
	s.swap(line("*tables* nft ipset conntrack ip tc"), nil)
	if found := codes(s.good("doctor", web.String())); len(found) != 0 {
		t.Errorf("doctor: %v", found)
	}
	done := s.good(applying(web.String(), server+":81")...)
	if done["backend"] != rules.NFTables || done["verified"] != true {
		t.Errorf("apply: %v", done)
	}
	allGood(t, topo.Client, web, lab.LoadConfig{Connections: 20, Mode: lab.ClientFirst})
	s.good("verify", "--probe")
	if st := s.good("status"); st["state"] != "active" || number(t, st, "counters", "cookie_valid") != 20 {
		t.Errorf("status: %v", st)
	}
	if again := s.good(applying(web.String(), server+":81")...); again["changed"] != false {
		t.Errorf("again: %v", again)
	}
	s.good(applying(web.String(), "--mss", "1400")...)
	if r := s.good("revert"); r["state"] != "absent" {
		t.Errorf("revert: %v", r)
	}
	s.untouched()
}
