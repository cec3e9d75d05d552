package probe

import "golang.org/x/net/bpf"

// maxListed is how many values a filter lists. Jumps in classic BPF reach 255 instructions far.
const maxListed = 200

// accept is the result of a filter that lets the whole packet pass.
var accept = bpf.RetConstant{Val: 0xffffffff}

// dropAll is the filter that a socket gets first: what arrives before the real filter is in place can be drained, and nothing
// arrives between the draining and the real filter.
func dropAll() []bpf.Instruction {
	return []bpf.Instruction{bpf.RetConstant{Val: 0}}
}

// expected is what the filters know about the segments that are about to be sent.
type expected struct {
	ports []uint16 // our ports
	seqs  []uint32 // our sequence numbers, if they are few
	// guard has made the sequence numbers, if they are many.
	guard *guard
}

// tcpFilter lets SYN+ACK and RST pass that acknowledge one of our sequence numbers, so that not even a flood of forged answers reaches
// the socket's buffer. Few are listed; of many the filter knows how they are made, and our ports. For IPv4 the filter sees
// the IP header first, for IPv6 the TCP header (net/ipv4/raw.c, net/ipv6/raw.c).
func tcpFilter(family string, want expected) []bpf.Instruction {
	program := []bpf.Instruction{
		start(family),
		bpf.LoadIndirect{Off: offFlags, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(SYN | ACK | RST)},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(SYN | ACK), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: uint32(RST), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	if want.guard == nil {
		acks := make([]uint32, len(want.seqs))
		for i, seq := range want.seqs {
			acks[i] = seq + 1
		}
		return append(append(program, bpf.LoadIndirect{Off: offAck, Size: 4}), oneOf(acks)...)
	}
	program = append(append(program, bpf.LoadIndirect{Off: offDstPort, Size: 2}), onePort(want.ports)...)
	program = append(program,
		bpf.LoadIndirect{Off: offAck, Size: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: 1},
		bpf.StoreScratch{Src: bpf.RegA, N: scratchSeq},
		bpf.LoadIndirect{Off: 0, Size: 4}, // both ports, the remote one first
		bpf.StoreScratch{Src: bpf.RegA, N: scratchPorts})
	return append(program, want.guard.holds()...)
}

// icmpFilter lets errors pass that quote one of our segments, known as in tcpFilter.
func icmpFilter(family string, want expected) []bpf.Instruction {
	lowest, highest := uint32(icmpUnreachable), uint32(icmpParameter)
	protocol, tcp := uint32(icmpHeader+9), uint32(icmpHeader+ipv4Header)
	if family == familyIPv6 {
		lowest, highest = icmp6Unreachable, icmp6Parameter
		protocol, tcp = icmpHeader+6, icmpHeader+ipv6Header
	}
	program := []bpf.Instruction{
		start(family),
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: lowest, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: highest, SkipTrue: 2},
		bpf.LoadIndirect{Off: protocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protocolTCP, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	if want.guard == nil {
		return append(append(program, bpf.LoadIndirect{Off: tcp + offSeq, Size: 4}), oneOf(want.seqs)...)
	}
	program = append(append(program, bpf.LoadIndirect{Off: tcp, Size: 2}), onePort(want.ports)...)
	program = append(program,
		bpf.LoadIndirect{Off: tcp + offSeq, Size: 4},
		bpf.StoreScratch{Src: bpf.RegA, N: scratchSeq},
		bpf.LoadIndirect{Off: tcp, Size: 2},
		bpf.StoreScratch{Src: bpf.RegA, N: scratchPorts},
		bpf.LoadIndirect{Off: tcp + offDstPort, Size: 2},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 16},
		bpf.LoadScratch{Dst: bpf.RegX, N: scratchPorts},
		bpf.ALUOpX{Op: bpf.ALUOpOr}, // the remote port first, as in an answer
		bpf.StoreScratch{Src: bpf.RegA, N: scratchPorts})
	return append(program, want.guard.holds()...)
}

// start puts the offset of the transport header into register X.
func start(family string) bpf.Instruction {
	if family == familyIPv6 {
		return bpf.LoadConstant{Dst: bpf.RegX, Val: 0}
	}
	return bpf.LoadMemShift{Off: 0}
}

// onePort goes on if register A holds one of our ports. Of too many it goes on with any: the sequence number says enough.
func onePort(ports []uint16) []bpf.Instruction {
	if len(ports) > maxListed {
		return nil
	}
	var program []bpf.Instruction
	for i, port := range ports {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: uint8(len(ports) - i)})
	}
	return append(program, bpf.RetConstant{Val: 0})
}

// oneOf accepts the packet if register A holds one of at most maxListed values.
func oneOf(values []uint32) []bpf.Instruction {
	var program []bpf.Instruction
	for i, value := range values {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(len(values) - i)})
	}
	return append(program, bpf.RetConstant{Val: 0}, accept)
}
