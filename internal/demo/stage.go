package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

// stage is a set of machines: client, firewall, server and attacker.
type stage struct {
	topo    *lab.Topology
	server  *lab.Server
	cookies bool
}

// firewallRules are what a firewall in front of a web server usually has: they track connections, let known ones
// and new ones to the service pass, and nothing else.
const firewallRules = `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -p tcp -m tcp --dport %d -m conntrack --ctstate NEW -j ACCEPT
COMMIT
`

// newStage builds the machines and starts the server. The caller closes them.
func newStage(ctx context.Context, w *lab.World, cookies bool) (*stage, error) {
	topo, err := w.NewTopology()
	if err != nil {
		return nil, err
	}
	s := &stage{topo: topo, cookies: cookies}
	if err := s.setUp(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *stage) close() error { return s.topo.Close() }

func (s *stage) setUp(ctx context.Context) error {
	// The tool itself says best what is missing on this machine.
	var state Status
	if err := s.tool(ctx, &state, "status"); err != nil {
		return err
	}
	if state.State != "absent" {
		return fmt.Errorf("a firewall that was just made is %q", state.State)
	}
	restore := findProgram("iptables-nft-restore", "iptables-legacy-restore")
	cmd := s.topo.Firewall.Command(ctx, restore)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(firewallRules, target.Port()))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rules of the firewall: %s: %w: %s", restore, err, bytes.TrimSpace(out))
	}
	cookies := "0"
	if s.cookies {
		cookies = "1"
	}
	// The kernel's limit depends on the machine's memory; above the backlog it does not matter.
	err := errors.Join(
		s.topo.Server.SetSysctl("net.ipv4.tcp_syncookies", cookies),
		s.topo.Server.SetSysctl("net.ipv4.tcp_max_syn_backlog", "4096"),
	)
	if err != nil {
		return err
	}
	s.server, err = s.topo.Server.Serve(ctx, lab.ServerConfig{Address: target, Backlog: backlog})
	return err
}
