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
	seqs  []uint32 // our sequence numbers
}

// tcpFilter lets SYN+ACK and RST pass. While there are few samples, it demands one of the acknowledgement numbers that they can be
// answered with, so that not even a flood of forged answers reaches the socket's buffer; with many it demands one of the
// ports. For IPv4 the filter sees the IP header first, for IPv6 the TCP header (net/ipv4/raw.c, net/ipv6/raw.c).
func tcpFilter(family string, want expected) []bpf.Instruction {
	begin := []bpf.Instruction{
		start(family),
		bpf.LoadIndirect{Off: offFlags, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: uint32(SYN | ACK | RST)},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(SYN | ACK), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: uint32(RST), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	if len(want.seqs) <= maxListed {
		acks := make([]uint32, len(want.seqs))
		for i, seq := range want.seqs {
			acks[i] = seq + 1
		}
		return append(append(begin, bpf.LoadIndirect{Off: offAck, Size: 4}), oneOf(acks)...)
	}
	return append(append(begin, bpf.LoadIndirect{Off: offDstPort, Size: 2}), onePort(want.ports)...)
}

// icmpFilter lets errors pass that quote one of our segments: by sequence number or port, as in tcpFilter.
func icmpFilter(family string, want expected) []bpf.Instruction {
	lowest, highest := uint32(icmpUnreachable), uint32(icmpParameter)
	protocol, tcp := uint32(icmpHeader+9), uint32(icmpHeader+ipv4Header)
	if family == familyIPv6 {
		lowest, highest = icmp6Unreachable, icmp6Parameter
		protocol, tcp = icmpHeader+6, icmpHeader+ipv6Header
	}
	begin := []bpf.Instruction{
		start(family),
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: lowest, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: highest, SkipTrue: 2},
		bpf.LoadIndirect{Off: protocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protocolTCP, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	if len(want.seqs) <= maxListed {
		return append(append(begin, bpf.LoadIndirect{Off: tcp + offSeq, Size: 4}), oneOf(want.seqs)...)
	}
	return append(append(begin, bpf.LoadIndirect{Off: tcp, Size: 2}), onePort(want.ports)...)
}

// start puts the offset of the transport header into register X.
func start(family string) bpf.Instruction {
	if family == familyIPv6 {
		return bpf.LoadConstant{Dst: bpf.RegX, Val: 0}
	}
	return bpf.LoadMemShift{Off: 0}
}

func onePort(ports []uint16) []bpf.Instruction {
	if len(ports) > maxListed {
		return []bpf.Instruction{accept}
	}
	values := make([]uint32, len(ports))
	for i, port := range ports {
		values[i] = uint32(port)
	}
	return oneOf(values)
}

// oneOf accepts the packet if register A holds one of at most maxListed values.
func oneOf(values []uint32) []bpf.Instruction {
	var program []bpf.Instruction
	for i, value := range values {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(len(values) - i)})
	}
	return append(program, bpf.RetConstant{Val: 0}, accept)
}
