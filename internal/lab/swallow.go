package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Swallow is a hole at the end of an interface's way out: packets to a prefix vanish there, counted, as fast as a
// network card would take them. The rest passes.
type Swallow struct {
	host   *Host
	counts *ebpf.Map
	link   link.Link
}

// Swallow lets packets to an IPv4 prefix that leave by an interface of the host vanish before they reach the link. It
// needs the rights to load a BPF program.
func (h *Host) Swallow(iface string, to netip.Prefix) (*Swallow, error) {
	s, err := h.swallow(iface, to)
	if err != nil {
		return nil, fmt.Errorf("host %s: swallow %s on %s: %w", h.name, to, iface, err)
	}
	return s, nil
}

func (h *Host) swallow(iface string, to netip.Prefix) (*Swallow, error) {
	if !to.IsValid() || !to.Addr().Is4() {
		return nil, errors.New("not an IPv4 prefix")
	}
	p, err := h.port(iface)
	if err != nil {
		return nil, err
	}
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Name: "lab_swallow", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	if err != nil {
		return nil, err
	}
	s := &Swallow{host: h, counts: counts}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lab_swallow", Type: ebpf.SchedCLS, License: "GPL", Instructions: swallowProgram(counts.FD(), to),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the program: %w", err), counts.Close())
	}
	defer prog.Close()
	err = h.Do(func() (err error) {
		s.link, err = link.AttachTCX(link.TCXOptions{Interface: p.index, Program: prog, Attach: ebpf.AttachTCXEgress})
		return err
	})
	if err == nil {
		err = h.own(s)
	}
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// swallowProgram drops and counts: SYN+ACKs in the first place, the rest in the second.
func swallowProgram(fd int, to netip.Prefix) asm.Instructions {
	const pass, shot = -1, 2 // TCX_NEXT, so that others of the interface have their turn, and TC_ACT_SHOT
	const dst, flags = etherHeader + 16, etherHeader + ipv4Header + 13
	mask := int32(uint64(0xffffffff) << (32 - to.Bits()))
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), // LoadAbs wants the packet there
		asm.LoadAbs(12, asm.Half),
		asm.JNE.Imm(asm.R0, 0x0800, "pass"),
		asm.LoadAbs(dst, asm.Word),
		asm.And.Imm32(asm.R0, mask),
		asm.LoadImm(asm.R1, int64(binary.BigEndian.Uint32(to.Masked().Addr().AsSlice())), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "pass"),
		asm.LoadAbs(flags, asm.Byte), // a frame that is too short ends the program here, with 0
		asm.And.Imm(asm.R0, int32(FIN|SYN|RST|ACK)),
		asm.Mov.Imm(asm.R1, 1),
		asm.JNE.Imm(asm.R0, int32(SYN|ACK), "count"),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word).WithSymbol("count"),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, fd),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "shot"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, shot).WithSymbol("shot"), asm.Return(),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"), asm.Return(),
	}
}

// Count returns how many packets vanished so far: those with SYN and ACK, and others.
func (s *Swallow) Count() (synAcks, others uint64, err error) {
	for i, sum := range []*uint64{&synAcks, &others} {
		var perCPU []uint64
		if err := s.counts.Lookup(uint32(i), &perCPU); err != nil {
			return 0, 0, fmt.Errorf("swallow: %w", err)
		}
		for _, n := range perCPU {
			*sum += n
		}
	}
	return synAcks, others, nil
}

// Close lets the packets pass again. Closing twice is harmless.
func (s *Swallow) Close() error {
	s.host.disown(s)
	return s.release()
}

func (s *Swallow) release() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
		s.link = nil
	}
	return errors.Join(append(errs, s.counts.Close())...)
}
