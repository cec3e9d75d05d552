package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What no flood exceeds.
const (
	MaxFloodPackets  = 20_000_000
	MaxFloodDuration = time.Minute
)

// FloodConfig describes a SYN flood. It is bounded in packets and in time, always.
type FloodConfig struct {
	// Interface of the sending host; "" means eth0. The frames go to the machine at the other end of its link.
	Interface string
	// Destination is the attacked service, or the first of many.
	Destination netip.AddrPort
	// Services is how many successive addresses are attacked, at random; 0 means 1. The addresses differ in their last
	// 32 bits only.
	Services int
	// Packets is how many SYNs to send: from 1 to [MaxFloodPackets].
	Packets int
	// Duration ends the flood even when fewer were sent; 0 means 30 s, the most is [MaxFloodDuration].
	Duration time.Duration
	// Rate is how many SYNs to send in a second at most; 0 means as many as the kernel takes.
	Rate float64
	// Threads is how many send at once; 0 means 1, the most is 64. The kernel does the receiver's work for a packet
	// on the sender's CPU, so one thread leaves the other CPUs to the good connections.
	Threads int
	// Sources is where the random source addresses are from; the zero Prefix means [FloodV4] or [FloodV6], whose
	// answers end in silence.
	Sources netip.Prefix
	// Seed makes the same SYNs again; 0 is a seed like any other.
	Seed uint64
}

// FloodResult tells what a flood did.
type FloodResult struct {
	// Sent is how many SYNs the link took, each of which reached the other end's interface.
	Sent int
	// Duration is how long that took.
	Duration time.Duration
}

// Rate returns the SYNs per second.
func (r FloodResult) Rate() float64 { return float64(r.Sent) / r.Duration.Seconds() }

// Flood sends SYNs with random sources, ports, sequence numbers and timestamps, and with the options of a usual
// client, from the host onto one of its links. It returns when all are sent, at the end of its duration or of ctx;
// the latter two are no error.
//
// A flood cannot leave the lab: it only goes out of a veth whose other end is a host of the lab, and refuses to
// run in the network namespace that the program was started in.
func (h *Host) Flood(ctx context.Context, cfg FloodConfig) (FloodResult, error) {
	var res FloodResult
	err := cfg.complete()
	if err == nil {
		res, err = h.flood(ctx, cfg)
	}
	if err != nil {
		return res, fmt.Errorf("host %s: flood: %w", h.name, err)
	}
	return res, nil
}

func (cfg *FloodConfig) complete() error {
	if cfg.Interface == "" {
		cfg.Interface = "eth0"
	}
	if cfg.Duration == 0 {
		cfg.Duration = 30 * time.Second
	}
	if cfg.Threads == 0 {
		cfg.Threads = 1
	}
	dst := cfg.Destination
	if cfg.Sources == (netip.Prefix{}) {
		cfg.Sources = FloodV4
		if dst.Addr().Is6() {
			cfg.Sources = FloodV6
		}
	}
	switch {
	case !dst.IsValid() || dst.Port() == 0:
		return fmt.Errorf("destination %s: not an address and port", dst)
	case cfg.Services < 0 || uint64(lastWord(dst.Addr()))+uint64(cfg.Services) > 1<<32:
		return fmt.Errorf("services %d: there are not as many addresses from %s on", cfg.Services, dst.Addr())
	case cfg.Packets < 1 || cfg.Packets > MaxFloodPackets:
		return fmt.Errorf("packets %d: must be from 1 to %d", cfg.Packets, MaxFloodPackets)
	case cfg.Duration < 0 || cfg.Duration > MaxFloodDuration:
		return fmt.Errorf("duration %v: must be at most %v", cfg.Duration, MaxFloodDuration)
	case cfg.Threads < 0 || cfg.Threads > 64:
		return fmt.Errorf("threads %d: must be from 1 to 64", cfg.Threads)
	case cfg.Rate < 0:
		return fmt.Errorf("rate %g: must not be negative", cfg.Rate)
	case !cfg.Sources.IsValid():
		return fmt.Errorf("sources %s: not a prefix", cfg.Sources)
	case cfg.Sources.Addr().Is4() != dst.Addr().Is4():
		return fmt.Errorf("sources %s: not the family of %s", cfg.Sources, dst)
	}
	return nil
}

// lastWord is the last 32 bits of an address.
func lastWord(a netip.Addr) uint32 {
	b := a.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}

// flood checks where it is and shares the work among the threads.
func (h *Host) flood(ctx context.Context, cfg FloodConfig) (FloodResult, error) {
	p, err := h.port(cfg.Interface)
	if err != nil {
		return FloodResult{}, err
	}
	if err := h.Do(h.mustBeInside); err != nil {
		return FloodResult{}, err
	}
	var wg sync.WaitGroup
	results, errs := make([]FloodResult, cfg.Threads), make([]error, cfg.Threads)
	for i := range cfg.Threads {
		wg.Go(func() { results[i], errs[i] = h.floodThread(ctx, cfg.share(i), p) })
	}
	wg.Wait()
	var sum FloodResult
	for _, r := range results {
		sum.Sent += r.Sent
		sum.Duration = max(sum.Duration, r.Duration)
	}
	return sum, errors.Join(errs...)
}

// share returns the part of thread i.
func (cfg FloodConfig) share(i int) FloodConfig {
	n := cfg.Threads
	cfg.Packets = cfg.Packets*(i+1)/n - cfg.Packets*i/n
	cfg.Rate /= float64(n)
	cfg.Seed += uint64(i) << 32
	return cfg
}

// floodThread sends from one socket.
func (h *Host) floodThread(ctx context.Context, cfg FloodConfig, p peer) (FloodResult, error) {
	fd, err := h.openPacket(p.index, 0, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	})
	if err != nil {
		return FloodResult{}, err
	}
	defer unix.Close(fd)
	syns, err := newSYNs(cfg, p)
	if err != nil {
		return FloodResult{}, err
	}
	return cfg.send(ctx, fd, syns)
}

// mustBeInside refuses the network namespace that the program was started in.
func (h *Host) mustBeInside() error {
	ns, err := inode("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	if ns == h.lab.outerNet {
		return errors.New("this is the machine's own network: refused")
	}
	return nil
}

// send is the loop: a batch, then a look at the clock.
func (cfg *FloodConfig) send(ctx context.Context, fd int, syns *syns) (FloodResult, error) {
	var res FloodResult
	start := time.Now()
	batch := batchSize
	if cfg.Rate > 0 { // a batch at least every 2 ms, so that a slow flood is an even one
		batch = min(batch, max(1, int(cfg.Rate/500)))
	}
	for res.Sent < cfg.Packets && ctx.Err() == nil {
		res.Duration = time.Since(start)
		if res.Duration >= cfg.Duration {
			return res, nil
		}
		if cfg.Rate > 0 {
			due := time.Duration(float64(res.Sent) / cfg.Rate * float64(time.Second))
			if wait := min(due, cfg.Duration) - res.Duration; wait > 0 {
				sleep(ctx, wait)
				continue
			}
		}
		n, err := syns.send(fd, min(batch, cfg.Packets-res.Sent))
		res.Sent += n
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
			return res, err
		}
		if err != nil { // the other end is full: let it work
			runtime.Gosched()
		}
	}
	res.Duration = time.Since(start)
	return res, nil
}
