package probe

import "golang.org/x/net/bpf"

// guardBits is how many bits of a guarded sequence number its other bits and the ports decide. The rest is as random as ever: who
// has seen through the hash still has one chance in four millions to guess an answer that counts.
const guardBits = 10

// The two parts of a guarded sequence number.
const (
	guardShift = 32 - guardBits
	freeMask   = 1<<guardShift - 1
)

// guard makes sequence numbers that a socket filter can tell from most others without a list of them, which for thousands of samples would not fit
// into a filter (4,096 instructions). Their upper bits are a keyed hash of the lower ones and the ports, in arithmetic that classic BPF has. It is
// no seal: it keeps the receive buffer free of all but one of 1,024 forged answers. What counts as an answer is decided by the
// whole number.
type guard struct{ key [4]uint32 }

// newGuard takes its key from words that nobody can guess. The factors have to be odd, so that no bit is lost.
func newGuard(words []uint32) guard {
	return guard{[4]uint32{words[0], words[1] | 1, words[2] | 1, words[3] | 1}}
}

// sequence turns a random number into a guarded one for the segments between two ports.
func (g guard) sequence(random uint32, remote, ours uint16) uint32 {
	free := random & freeMask
	x := (free ^ g.key[0]) * g.key[1]
	x ^= x >> 15
	x = (x ^ (uint32(remote)<<16 | uint32(ours))) * g.key[2]
	x ^= x >> 13
	x *= g.key[3]
	return x>>guardShift<<guardShift | free
}

// Where filters keep the sequence number, the ports, and what they are computing.
const (
	scratchSeq = iota
	scratchPorts
	scratchHash
)

// holds accepts a packet if the sequence number in scratchSeq belongs to the ports in scratchPorts. It does what sequence does.
func (g guard) holds() []bpf.Instruction {
	fold := func(shift uint32) []bpf.Instruction {
		return []bpf.Instruction{
			bpf.StoreScratch{Src: bpf.RegA, N: scratchHash},
			bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: shift},
			bpf.LoadScratch{Dst: bpf.RegX, N: scratchHash},
			bpf.ALUOpX{Op: bpf.ALUOpXor},
		}
	}
	program := []bpf.Instruction{
		bpf.LoadScratch{Dst: bpf.RegA, N: scratchSeq},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: freeMask},
		bpf.ALUOpConstant{Op: bpf.ALUOpXor, Val: g.key[0]},
		bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: g.key[1]},
	}
	program = append(program, fold(15)...)
	program = append(program,
		bpf.LoadScratch{Dst: bpf.RegX, N: scratchPorts},
		bpf.ALUOpX{Op: bpf.ALUOpXor},
		bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: g.key[2]})
	program = append(program, fold(13)...)
	return append(program,
		bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: g.key[3]},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: guardShift},
		bpf.StoreScratch{Src: bpf.RegA, N: scratchHash},
		bpf.LoadScratch{Dst: bpf.RegA, N: scratchSeq},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: guardShift},
		bpf.LoadScratch{Dst: bpf.RegX, N: scratchHash},
		bpf.JumpIfX{Cond: bpf.JumpEqual, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		accept)
}
