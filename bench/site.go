package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synproxyctl/synproxyctl/internal/lab"
)

const (
	// senderCPU makes the floods, the good connections and everything else that is not measured.
	senderCPU = 0
	// receiverCPU does all work for the packets that come to the firewall from outside, and nothing else.
	receiverCPU = 1

	servicePort = 80 // of a server that waits for the client
	bannerPort  = 25 // of a server that speaks first
	bulkPort    = 5001
	maxServices = 100_000
)

var (
	// servicesPrefix holds the services: successive addresses, all of them the server's own.
	servicesPrefix = netip.MustParsePrefix("10.80.0.0/15")
	// unrelatedPrefix is routed through the firewall too, and protected by nobody.
	unrelatedPrefix = netip.MustParsePrefix("10.90.0.0/24")
)

// service returns the address of service i.
func service(i int) netip.Addr {
	base := servicesPrefix.Addr().As4()
	binary.BigEndian.PutUint32(base[:], binary.BigEndian.Uint32(base[:])+uint32(i))
	return netip.AddrFrom4(base)
}

// addrPort returns service i at a port.
func addrPort(i int, port uint16) netip.AddrPort { return netip.AddrPortFrom(service(i), port) }

// site is the network of one contender: a lab's topology, with all services on its server.
type site struct {
	*lab.Topology
	contender contender
	size      int
	port      uint16
	hole      *lab.Swallow // for answers to the flood
	aside     *lab.Swallow // for unrelated packets that have passed
}

// newSite builds the network; nothing is protected yet. A nil wan means a plain link to the client.
func newSite(ctx context.Context, world *lab.World, c contender, size int, port uint16, wan *lab.RelayConfig) (_ *site, err error) {
	s := &site{contender: c, size: size, port: port}
	if wan == nil {
		s.Topology, err = world.NewTopology()
	} else {
		s.Topology, err = world.NewTopologyOver(*wan)
	}
	if err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, wan == nil); err != nil {
		return nil, fmt.Errorf("%s, %d services: %w", c.name, size, errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *site) prepare(ctx context.Context, floods bool) error {
	err := errors.Join(s.Firewall.AddRoute(servicesPrefix, lab.ServerV4), s.Server.AddLocal(servicesPrefix))
	if err == nil && floods {
		err = s.prepareFloods(ctx)
	}
	if err != nil {
		return err
	}
	for port, mode := range map[uint16]lab.Mode{servicePort: lab.ClientFirst, bannerPort: lab.ServerFirst, bulkPort: lab.Bulk} {
		at := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
		if _, err := s.Server.Serve(ctx, lab.ServerConfig{Address: at, Mode: mode}); err != nil {
			return err
		}
	}
	return nil
}

// prepareFloods takes care that nothing but the receiving CPU limits what the firewall can answer.
func (s *site) prepareFloods(ctx context.Context) (err error) {
	err = errors.Join(
		s.Firewall.AddRoute(unrelatedPrefix, lab.AttackerV4),
		s.Firewall.TakeXDP("eth2"),
		// Without queues of their own, what is forwarded would share the receiving CPU's backlog with the flood.
		s.Firewall.TakeXDP("eth1"),
		s.Server.TakeXDP("eth0"),
		s.Firewall.Unsegmented("eth1"),
		s.Server.Unsegmented("eth0"),
		s.Firewall.Steer(ctx, "eth2", receiverCPU),
		s.Firewall.Steer(ctx, "eth0", receiverCPU),
	)
	if err != nil {
		return err
	}
	if s.hole, err = s.Firewall.Swallow("eth2", lab.FloodV4); err != nil {
		return err
	}
	s.aside, err = s.Firewall.Swallow("eth2", unrelatedPrefix)
	return err
}

// mode is who speaks first at the site's services.
func (s *site) mode() lab.Mode {
	if s.port == bannerPort {
		return lab.ServerFirst
	}
	return lab.ClientFirst
}

// install lets the contender protect its services, and makes sure that good connections to the last of them pass.
func (s *site) install(ctx context.Context) error {
	err := s.contender.install(ctx, s)
	if err == nil {
		err = s.passes(ctx, s.size-1)
	}
	if err != nil {
		return fmt.Errorf("%s, %d services: %w", s.contender.name, s.size, err)
	}
	return nil
}

// passes makes sure that good connections to services pass; indices below 0 are none.
func (s *site) passes(ctx context.Context, services ...int) error {
	for _, i := range services {
		if i < 0 {
			continue
		}
		if err := s.greet(ctx, addrPort(i, s.port)); err != nil {
			return fmt.Errorf("%s: %w: %w", addrPort(i, s.port), errBroken, err)
		}
	}
	return nil
}

// greet makes a connection.
func (s *site) greet(ctx context.Context, at netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if s.port == bulkPort {
		_, err := s.Client.Transfer(ctx, at, lab.Upload, 1000)
		return err
	}
	res, err := s.Client.Load(ctx, at, lab.LoadConfig{Connections: 1, Mode: s.mode()})
	if err == nil && res.Failed > 0 {
		err = errors.New(res.String())
	}
	return err
}

// pin keeps this process, and what it starts from now on, on the CPU of the sender, or gives it all CPUs again.
func pin(on bool) error {
	var cpus unix.CPUSet
	for i := range runtime.NumCPU() {
		if !on || i == senderCPU {
			cpus.Set(i)
		}
	}
	return eachThread(func(tid int) error { return unix.SchedSetaffinity(tid, &cpus) })
}
