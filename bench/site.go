package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

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

// site is the network of one contender: a lab's topology, with all services on its server.
type site struct {
	*lab.Topology
	contender contender
	size      int
	port      uint16
	hole      *lab.Swallow
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
	if err := s.prepare(ctx); err != nil {
		return nil, fmt.Errorf("%s, %d services: %w", c.name, size, errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *site) prepare(ctx context.Context) error {
	err := errors.Join(
		s.Firewall.AddRoute(servicesPrefix, lab.ServerV4),
		s.Server.AddLocal(servicesPrefix),
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
	if _, err := s.Firewall.Swallow("eth2", unrelatedPrefix); err != nil {
		return err
	}
	for port, mode := range map[uint16]lab.Mode{servicePort: lab.ClientFirst, bannerPort: lab.ServerFirst} {
		at := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
		if _, err := s.Server.Serve(ctx, lab.ServerConfig{Address: at, Mode: mode}); err != nil {
			return err
		}
	}
	return nil
}

// mode is who speaks first at the site's services.
func (s *site) mode() lab.Mode {
	if s.port == bannerPort {
		return lab.ServerFirst
	}
	return lab.ClientFirst
}

// install lets the contender protect its services, and makes sure that a good connection to one of them passes.
func (s *site) install(ctx context.Context) error {
	if err := s.contender.install(ctx, s); err != nil {
		return fmt.Errorf("%s, %d services: install: %w", s.contender.name, s.size, err)
	}
	res, err := s.Client.Load(ctx, netip.AddrPortFrom(service(s.size-1), s.port), lab.LoadConfig{Connections: 3, Mode: s.mode()})
	if err == nil && res.Failed > 0 {
		err = fmt.Errorf("good connections do not pass: %v", res)
	}
	if err != nil {
		return fmt.Errorf("%s, %d services: %w", s.contender.name, s.size, err)
	}
	return nil
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
