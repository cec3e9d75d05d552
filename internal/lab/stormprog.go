package lab

import (
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf/asm"
)

// Offsets in the frame of a storm: Ethernet, IPv4 without options, TCP with those of [SYNOptions].
const (
	stormIPSum  = etherHeader + 10
	stormSource = etherHeader + 12
	stormDest   = etherHeader + 16
	stormTCP    = etherHeader + ipv4Header
	stormSeq    = stormTCP + 4
	stormTCPSum = stormTCP + 16
	stormTSval  = stormTCP + tcpHeader + tsvalOffset
)

// stormCount is what the program leaves: how many SYNs it has made, and the time of the first, and of the last whose
// number is a multiple of stormLook, in nanoseconds.
type stormCount struct{ Sent, First, Last uint64 }

const stormLook = 64

// stormFrame is the SYN that all others are copies of. What differs is zero, and the checksums hold the sums of the
// rest, not yet complemented.
func stormFrame(cfg StormConfig, p peer) ([]byte, error) {
	zero := netip.IPv4Unspecified()
	packet, err := Segment{
		Source: netip.AddrPortFrom(zero, 0), Destination: netip.AddrPortFrom(zero, cfg.Destination.Port()),
		Flags: SYN, Window: 64240, Options: SYNOptions(1460, 7, 0),
	}.Marshal()
	if err != nil {
		return nil, err
	}
	f := frame(p.far, p.mac, packet)
	for _, at := range []int{stormIPSum, stormTCPSum} {
		binary.BigEndian.PutUint16(f[at:], ^binary.BigEndian.Uint16(f[at:]))
	}
	return f, nil
}

// stormProgram writes the frame anew each time, since the receiver gives its memory back as it left it, with other
// addresses or a smaller time to live; fills in a random source, port, sequence number and timestamp, and one of the
// destinations; and sends it, counted. The sums of checksums do not mind the byte order, so they are made in the machine's.
func stormProgram(f []byte, cfg StormConfig, counter int) asm.Instructions {
	const (
		data, sum, tmp = asm.R7, asm.R8, asm.R1
		addresses      = asm.R9 // sum of both, which the TCP checksum needs too
	)
	native := binary.NativeEndian
	in := asm.Instructions{
		asm.LoadMem(data, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R2, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R3, data),
		asm.Add.Imm(asm.R3, int32(len(f))),
		asm.JGT.Reg(asm.R3, asm.R2, "drop"),
	}
	for at := 0; at < len(f); {
		switch rest := len(f) - at; {
		case rest >= 8:
			in = append(in, asm.LoadImm(tmp, int64(native.Uint64(f[at:])), asm.DWord), asm.StoreMem(data, int16(at), tmp, asm.DWord))
			at += 8
		case rest >= 4:
			in = append(in, asm.StoreImm(data, int16(at), int64(native.Uint32(f[at:])), asm.Word))
			at += 4
		default:
			in = append(in, asm.StoreImm(data, int16(at), int64(native.Uint16(f[at:])), asm.Half))
			at += 2
		}
	}
	random := asm.FnGetPrandomU32.Call()
	wild := 32 - cfg.Sources.Bits()
	base := binary.BigEndian.Uint32(cfg.Sources.Masked().Addr().AsSlice())
	// The source.
	in = append(in, random,
		asm.LoadImm(tmp, int64(uint64(1)<<wild-1), asm.DWord), asm.And.Reg(asm.R0, tmp),
		asm.LoadImm(tmp, int64(base), asm.DWord), asm.Or.Reg(asm.R0, tmp),
		asm.HostTo(asm.BE, asm.R0, asm.Word), asm.StoreMem(data, stormSource, asm.R0, asm.Word),
		asm.Mov.Reg(addresses, asm.R0))
	// The destination: a random number of 32 bits, scaled.
	in = append(in, random,
		asm.Mul.Imm(asm.R0, int32(cfg.Services)), asm.RSh.Imm(asm.R0, 32),
		asm.LoadImm(tmp, int64(binary.BigEndian.Uint32(cfg.Destination.Addr().AsSlice())), asm.DWord), asm.Add.Reg(asm.R0, tmp),
		asm.HostTo(asm.BE, asm.R0, asm.Word), asm.StoreMem(data, stormDest, asm.R0, asm.Word),
		asm.Add.Reg(addresses, asm.R0))
	// The checksum of the IP header.
	in = append(in,
		asm.Mov.Imm(sum, int32(native.Uint16(f[stormIPSum:]))), asm.Add.Reg(sum, addresses))
	in = append(in, foldInto(data, stormIPSum, sum, tmp)...)
	// The sequence number, which is the timestamp too.
	in = append(in,
		asm.Mov.Imm(sum, int32(native.Uint16(f[stormTCPSum:]))), asm.Add.Reg(sum, addresses),
		random,
		asm.StoreMem(data, stormSeq, asm.R0, asm.Word), asm.StoreMem(data, stormTSval, asm.R0, asm.Word),
		asm.Add.Reg(sum, asm.R0), asm.Add.Reg(sum, asm.R0))
	// The source port, from 1024 on.
	in = append(in, random, asm.And.Imm(asm.R0, 0xffff))
	if wild == 0 {
		in = append(in, asm.Mov.Imm(asm.R0, 1024))
	}
	in = append(in, asm.Or.Imm(asm.R0, 1024),
		asm.HostTo(asm.BE, asm.R0, asm.Half), asm.StoreMem(data, stormTCP, asm.R0, asm.Half), asm.Add.Reg(sum, asm.R0))
	in = append(in, foldInto(data, stormTCPSum, sum, tmp)...)
	const drop, tx = 1, 3 // XDP_DROP, XDP_TX
	// Count it, and look at the clock now and then: a stormCount.
	return append(in,
		asm.LoadMapValue(data, counter, 0),
		asm.LoadMem(asm.R0, data, 0, asm.DWord),
		asm.Mov.Reg(sum, asm.R0),
		asm.And.Imm(asm.R0, stormLook-1),
		asm.JNE.Imm(asm.R0, 0, "count"),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(data, 16, asm.R0, asm.DWord),
		asm.JNE.Imm(sum, 0, "count"),
		asm.StoreMem(data, 8, asm.R0, asm.DWord),
		asm.Add.Imm(sum, 1).WithSymbol("count"),
		asm.StoreMem(data, 0, sum, asm.DWord),
		asm.Mov.Imm(asm.R0, tx), asm.Return(),
		asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"), asm.Return())
}

// foldInto stores the complement of a one's complement sum of up to 64 bits.
func foldInto(data asm.Register, at int16, sum, tmp asm.Register) asm.Instructions {
	in := asm.Instructions{
		asm.Mov.Reg(tmp, sum), asm.RSh.Imm(tmp, 32),
		asm.LSh.Imm(sum, 32), asm.RSh.Imm(sum, 32), asm.Add.Reg(sum, tmp),
	}
	for range 3 { // 33 bits become 16
		in = append(in, asm.Mov.Reg(tmp, sum), asm.RSh.Imm(tmp, 16), asm.And.Imm(sum, 0xffff), asm.Add.Reg(sum, tmp))
	}
	return append(in, asm.Xor.Imm(sum, 0xffff), asm.StoreMem(data, at, sum, asm.Half))
}
