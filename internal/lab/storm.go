package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// StormConfig describes a flood that is faster than any receiver of this kernel: the frames are made by a program in
// the kernel and handed to the other end of the link as XDP frames. It is bounded as a [FloodConfig] is.
type StormConfig struct {
	// Interface of the sending host; "" means eth0. The other end must take XDP frames: see [Host.TakeXDP].
	Interface string
	// Destination is the attacked service, or the first of many. IPv4 only.
	Destination netip.AddrPort
	// Services is how many successive addresses are attacked, each as often as the others; 0 means 1.
	Services int
	// Duration is how long to send; 0 means one second, the most is [MaxFloodDuration].
	Duration time.Duration
	// Rate is how many SYNs to send in a second at most; 0 means as many as the CPU makes.
	Rate float64
	// Sources is where the random source addresses are from; the zero Prefix means [FloodV4]. With a single address
	// the port is always the same too, so that all packets are of one flow.
	Sources netip.Prefix
	// CPU is where the storm runs; the receiver's work should be steered to another one.
	CPU int
}

// stormChunk is how many SYNs a system call sends at most, and so how exact the end is: some milliseconds.
const stormChunk = 8192

func (cfg *StormConfig) complete() error {
	if cfg.Interface == "" {
		cfg.Interface = "eth0"
	}
	if cfg.Services == 0 {
		cfg.Services = 1
	}
	if cfg.Duration == 0 {
		cfg.Duration = time.Second
	}
	if cfg.Sources == (netip.Prefix{}) {
		cfg.Sources = FloodV4
	}
	dst := cfg.Destination
	switch {
	case !dst.IsValid() || dst.Port() == 0 || !dst.Addr().Is4():
		return fmt.Errorf("destination %s: not an IPv4 address and port", dst)
	case cfg.Services < 0 || cfg.Services > 1<<24:
		return fmt.Errorf("services %d: must be from 1 to %d", cfg.Services, 1<<24)
	case uint64(binary.BigEndian.Uint32(dst.Addr().AsSlice()))+uint64(cfg.Services) > 1<<32:
		return fmt.Errorf("services %d: there are not as many addresses from %s on", cfg.Services, dst.Addr())
	case cfg.Duration < 0 || cfg.Duration > MaxFloodDuration:
		return fmt.Errorf("duration %v: must be at most %v", cfg.Duration, MaxFloodDuration)
	case cfg.Rate < 0:
		return fmt.Errorf("rate %g: must not be negative", cfg.Rate)
	case !cfg.Sources.IsValid() || !cfg.Sources.Addr().Is4():
		return fmt.Errorf("sources %s: not an IPv4 prefix", cfg.Sources)
	case cfg.CPU < 0 || cfg.CPU >= runtime.NumCPU():
		return fmt.Errorf("cpu %d: this machine has %d", cfg.CPU, runtime.NumCPU())
	}
	return nil
}

// Storm sends SYNs as [Host.Flood] does, several times as fast. It needs the rights to load a BPF program, which a user
// namespace does not give. It returns at the end of its duration or of ctx; neither is an error.
func (h *Host) Storm(ctx context.Context, cfg StormConfig) (FloodResult, error) {
	var res FloodResult
	err := cfg.complete()
	if err == nil {
		res, err = h.storm(ctx, cfg)
	}
	if err != nil {
		return res, fmt.Errorf("host %s: storm: %w", h.name, err)
	}
	return res, nil
}

func (h *Host) storm(ctx context.Context, cfg StormConfig) (FloodResult, error) {
	var res FloodResult
	p, err := h.port(cfg.Interface)
	if err != nil {
		return res, err
	}
	frame, err := stormFrame(cfg, p)
	if err != nil {
		return res, err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lab_storm", Type: ebpf.XDP, License: "GPL", Instructions: stormProgram(frame, cfg),
	})
	if err != nil {
		return res, fmt.Errorf("load the program: %w", err)
	}
	defer prog.Close()
	err = h.Do(func() error {
		if err := h.mustBeInside(); err != nil {
			return err
		}
		var cpus unix.CPUSet
		cpus.Set(cfg.CPU)
		if err := unix.SchedSetaffinity(0, &cpus); err != nil {
			return fmt.Errorf("cpu %d: %w", cfg.CPU, err)
		}
		res, err = runStorm(ctx, cfg, prog, frame, p.index)
		return err
	})
	return res, err
}

// runStorm sends in pieces, with a look at the clock between them.
func runStorm(ctx context.Context, cfg StormConfig, prog *ebpf.Program, frame []byte, index int) (FloodResult, error) {
	const liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	// struct xdp_md of linux/bpf.h: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
	md := [6]uint32{1: uint32(len(frame)), 3: uint32(index)}
	var res FloodResult
	chunk := stormChunk
	if cfg.Rate > 0 { // at least every millisecond, so that a slow storm is an even one
		chunk = min(chunk, max(1, int(cfg.Rate/1000)))
	}
	start := time.Now()
	for ctx.Err() == nil {
		res.Duration = time.Since(start)
		if res.Duration >= cfg.Duration {
			break
		}
		n := chunk
		if cfg.Rate > 0 {
			due := int(cfg.Rate*res.Duration.Seconds()) - res.Sent
			if due < chunk {
				sleep(ctx, time.Duration(float64(chunk-due)/cfg.Rate*float64(time.Second)))
				continue
			}
			n = min(due, stormChunk)
		}
		_, err := prog.Run(&ebpf.RunOptions{Data: frame, Context: md[:], Repeat: uint32(n), Flags: liveFrames})
		if err != nil && !errors.Is(err, unix.EINTR) {
			return res, fmt.Errorf("send: %w", err)
		}
		res.Sent += n
	}
	return res, nil
}
