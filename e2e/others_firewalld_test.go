package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/synproxyctl/synproxyctl/pkg/rules"
)

// firewalldBus lets everybody do everything: only firewalld and its client are on it.
const firewalldBus = `<busconfig>
<type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
</policy>
</busconfig>
`

// firewalldConf is its configuration; %s is the backend.
const firewalldConf = `DefaultZone=public
FirewallBackend=%s
CleanupOnExit=yes
CleanupModulesOnExit=no
IPv6_rpfilter=yes
FlushAllOnReload=yes
`

// firewalldFiles are what firewall-cmd --permanent would write, in three ways to deny the foe. Clients come in from the
// zone public, by its interfaces, or work, by their addresses; the server is in the zone internal.
var firewalldFiles = map[string]map[string]string{
	"rich rule": {
		"zones/public.xml":     `<zone><interface name="eth0"/><interface name="eth2"/>` + firewalldPorts + firewalldDeny + `</zone>`,
		"policies/through.xml": `<policy target="CONTINUE"><ingress-zone name="public"/><egress-zone name="internal"/>` + firewalldPorts + firewalldDeny + `</policy>`,
	},
	"zones by source": {
		"zones/public.xml":     `<zone><interface name="eth0"/><interface name="eth2"/></zone>`,
		"zones/work.xml":       `<zone><source address="$FRIEND"/><source address="$FLOOD"/>` + firewalldPorts + `</zone>`,
		"policies/through.xml": `<policy target="CONTINUE"><ingress-zone name="work"/><egress-zone name="internal"/>` + firewalldPorts + `</policy>`,
	},
	"rich rules that allow": {
		"zones/public.xml":     `<zone target="DROP"><interface name="eth0"/><interface name="eth2"/>` + firewalldAllow + `</zone>`,
		"policies/through.xml": `<policy target="DROP"><ingress-zone name="public"/><egress-zone name="internal"/>` + firewalldAllow + `</policy>`,
	},
}

const (
	firewalldPorts = `<port port="25" protocol="tcp"/><port port="80" protocol="tcp"/>`
	firewalldDeny  = `<rule family="$FAMILY"><source address="$FOE"/><reject/></rule>`
	firewalldAllow = `<rule family="$FAMILY"><source address="$FRIEND"/><accept/></rule><rule family="$FAMILY"><source address="$FLOOD"/><accept/></rule>`
)

// firewalld prepares a real firewalld with a bus and a configuration of its own.
func (s *stand) firewalld(backend, denial string) *annex {
	s.Helper()
	a := s.annex()
	if err := os.Mkdir(filepath.Join(a.dir, "run/dbus"), 0o755); err != nil {
		s.Fatal(err)
	}
	a.mount("/etc/firewalld")
	a.mount("/var/log")
	family := map[rules.Family]string{rules.IPv4: "ipv4", rules.IPv6: "ipv6"}[s.family]
	a.write("/bus.conf", firewalldBus)
	a.write("/etc/firewalld/firewalld.conf", fmt.Sprintf(firewalldConf, backend))
	a.write("/etc/firewalld/zones/internal.xml", `<zone><interface name="eth1"/></zone>`)
	for name, text := range firewalldFiles[denial] {
		a.write("/etc/firewalld/"+name, strings.ReplaceAll(text, "$FAMILY", family))
	}
	a.daemon("dbus-daemon", "--config-file="+a.dir+"/bus.conf", "--nofork", "--nopidfile")
	until(s, "the bus listens", func() bool {
		_, err := os.Stat(filepath.Join(a.dir, "run/dbus/system_bus_socket"))
		return err == nil
	})
	return a
}

// daemon starts a program that runs until the test ends or stop is called.
func (a *annex) daemon(name string, args ...string) (stop func()) {
	a.Helper()
	ctx, cancel := context.WithCancel(a.Context())
	a.Cleanup(cancel)
	cmd := a.command(ctx, name, args...)
	log, err := os.Create(filepath.Join(a.dir, name+".log"))
	if err != nil {
		a.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		a.Fatal(err)
	}
	return func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			a.Error(err)
		}
		_ = cmd.Wait() // how it ends is its own affair
	}
}

// startFirewalld starts firewalld and waits until it has made its rules.
func (a *annex) startFirewalld() (stop func()) {
	a.Helper()
	stop = a.daemon("firewalld", "--nofork", "--nopid")
	ok := false
	for range 40 {
		out, err := a.command(a.Context(), "firewall-cmd", "--state").CombinedOutput()
		if ok = err == nil && strings.Contains(string(out), "running"); ok {
			break
		}
	}
	if !ok {
		log, _ := os.ReadFile(filepath.Join(a.dir, "firewalld.log"))
		a.Fatalf("firewalld does not run\n%s", log)
	}
	return stop
}

// TestFirewalld protects services behind a real firewalld, which is then reloaded both ways, put into and out of panic,
// stopped, and started again.
func TestFirewalld(t *testing.T) {
	for _, c := range []struct {
		place
		backend, own, denial string
		events               []string
	}{
		{place{rules.Input, rules.IPv4}, rules.NFT, "nftables", "rich rule", []string{"--reload", "--panic-on --panic-off"}},
		{place{rules.Forward, rules.IPv6}, rules.NFTables, "nftables", "rich rule", []string{"--complete-reload"}},
		{place{rules.Forward, rules.IPv4}, rules.NFTables, "nftables", "zones by source", []string{"stop", "start"}},
		{place{rules.Input, rules.IPv6}, rules.Legacy, "nftables", "rich rules that allow", []string{"--reload"}},
		{place{rules.Input, rules.IPv6}, rules.NFT, "iptables", "rich rule", []string{"--complete-reload"}},
		{place{rules.Forward, rules.IPv4}, rules.Legacy, "iptables", "zones by source", []string{"--reload", "stop", "start"}},
	} {
		t.Run(fmt.Sprintf("%s-%s-%s %s", c.backend, c.place, c.own, c.denial), func(t *testing.T) {
			t.Parallel()
			s := newStand(t, c.place, c.backend)
			a := s.firewalld(c.own, c.denial)
			stop := a.startFirewalld()
			s.asBefore(true, func() { s.apply() })
			s.flooded()
			for _, event := range c.events {
				switch event {
				case "stop":
					stop()
				case "start":
					a.startFirewalld()
				default:
					for _, arg := range strings.Fields(event) {
						a.run("firewall-cmd", arg)
					}
				}
				s.mended("firewalld "+event, event != "stop")
			}
		})
	}
}
