package probe

import (
	"encoding/binary"
	"net/netip"
)

const protocolTCP = 6

// onesSum adds the 16-bit words of b to sum, in ones' complement arithmetic that is not yet folded (RFC 1071). The
// carries of 64 KiB fit into 32 bits, and no segment is longer than that.
func onesSum(sum uint32, b []byte) uint32 {
	for len(b) >= 2 {
		sum += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// pseudoSum sums the pseudo-header of a TCP segment of the given length: RFC 9293, 3.1 for IPv4 and RFC 8200, 8.1 for
// IPv6. Both give the same sum for the same fields, because the words are only arranged differently.
func pseudoSum(src, dst netip.Addr, length int) uint32 {
	sum := onesSum(0, src.AsSlice())
	sum = onesSum(sum, dst.AsSlice())
	return sum + protocolTCP + uint32(length)
}

// checksumValid tells whether the TCP checksum of b, a whole segment, is right, or will be.
//
// On a loopback, veth or virtio device the sender leaves the sum to hardware that does not exist (CHECKSUM_PARTIAL in
// include/linux/skbuff.h), and a raw socket sees the field hold the sum of the pseudo-header only. A raw IPv4 socket
// cannot be told which packets those are (a packet socket could, by TP_STATUS_CSUMNOTREADY, but it sees addresses before
// NAT is undone, see [openRaw]). So exactly that one other value is accepted, too: of 65,536 random corruptions two pass
// instead of one. A forger, who can compute either value, is kept out by ports and acknowledgement instead.
func checksumValid(src, dst netip.Addr, b []byte) bool {
	if len(b) < minHeader {
		return false
	}
	pseudo := pseudoSum(src, dst, len(b))
	if fold(onesSum(pseudo, b)) == 0xffff {
		return true
	}
	return binary.BigEndian.Uint16(b[offChecksum:]) == fold(pseudo)
}
