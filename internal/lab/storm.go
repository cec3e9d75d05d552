package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"
	"unsafe"

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
	// Sources is where the random source addresses are from; the zero Prefix means [FloodV4]. With a single address
	// the port is always the same too, so that all packets are of one flow.
	Sources netip.Prefix
	// CPU is where the storm runs; the receiver's work should be steered to another one.
	CPU int
}

// stormRepeat is how many SYNs one system call sends, unless a signal ends it. Each call begins and ends by waiting for
// all other CPUs, some 20 ms.
const stormRepeat = 1 << 30

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
	case uint64(lastWord(dst.Addr()))+uint64(cfg.Services) > 1<<32:
		return fmt.Errorf("services %d: there are not as many addresses from %s on", cfg.Services, dst.Addr())
	case cfg.Duration < 0 || cfg.Duration > MaxFloodDuration:
		return fmt.Errorf("duration %v: must be at most %v", cfg.Duration, MaxFloodDuration)
	case !cfg.Sources.IsValid() || !cfg.Sources.Addr().Is4():
		return fmt.Errorf("sources %s: not an IPv4 prefix", cfg.Sources)
	case cfg.CPU < 0 || cfg.CPU >= runtime.NumCPU():
		return fmt.Errorf("cpu %d: this machine has %d", cfg.CPU, runtime.NumCPU())
	}
	return nil
}

// Storm sends SYNs as [Host.Flood] does, several times as fast. It needs the rights to load a BPF program, which a user
// namespace does not give. The result's duration is the time from the first SYN to the last: the kernel needs some 20 ms
// to begin and to end. It returns at the end of its duration or of ctx; neither is an error.
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
	sent, err := ebpf.NewMap(&ebpf.MapSpec{Name: "lab_storm", Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: 1})
	if err != nil {
		return res, err
	}
	defer sent.Close()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lab_storm", Type: ebpf.XDP, License: "GPL", Instructions: stormProgram(frame, cfg, sent.FD()),
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
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20) // or others on the machine slow it down
		return runStorm(ctx, cfg.Duration, prog.FD(), frame, p.index)
	})
	var n stormCount
	err = errors.Join(err, sent.Lookup(uint32(0), &n))
	return FloodResult{Sent: int(n.Sent), Duration: time.Duration(n.Last - n.First)}, err
}

// runStorm is one long system call, which a signal ends. The thread is the caller's own.
func runStorm(ctx context.Context, d time.Duration, prog int, frame []byte, index int) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	self := unix.Gettid()
	var over sync.WaitGroup
	done := make(chan struct{})
	over.Go(func() {
		<-ctx.Done()
		// The signal may come before the call, or between two.
		for tick := time.NewTicker(time.Millisecond); ; {
			_ = unix.Tgkill(unix.Getpid(), self, unix.SIGURG) // which the runtime expects at any time
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	})
	defer over.Wait()
	defer close(done)
	for ctx.Err() == nil {
		if err := sendLive(prog, frame, index); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// sendLive is BPF_PROG_TEST_RUN with live frames: bpf(2) and Documentation/bpf/bpf_prog_run.rst of Linux. The library's
// would begin anew after a signal.
func sendLive(prog int, frame []byte, index int) error {
	const testRun, liveFrames, batch = 10, 1 << 1, 64
	// struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
	md := [6]uint32{1: uint32(len(frame)), 3: uint32(index)}
	attr := struct {
		prog, retval, sizeIn, sizeOut   uint32
		in, out                         *byte
		repeat, duration, ctxIn, ctxOut uint32
		context, contextOut             *[6]uint32
		flags, cpu, batchSize, _        uint32
	}{
		prog: uint32(prog), sizeIn: uint32(len(frame)), in: &frame[0], repeat: stormRepeat,
		ctxIn: uint32(unsafe.Sizeof(md)), context: &md, flags: liveFrames, batchSize: batch,
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, testRun, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return errno
	}
	return nil
}
