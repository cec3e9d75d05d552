// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// From a SYN and what is known of its service to the SYN+ACK, byte for byte as synproxy_send_client_synack of
// net/ipv4/netfilter/nf_synproxy_ipv4.c and its neighbour for IPv6 (net/netfilter/nf_synproxy_core.c, 6.18) send it.
#pragma once
#include "options.h"

// struct syn is what matters of the frame that came in.
struct syn {
	struct key key;
	__be32 source[4];
	__be32 seq;
	__be16 port;  // of the source
	__u16 ecn;    // 1: asks for ECN
	__u64 header; // size of the TCP header; a whole word, since only of those the verifier remembers the bounds
	__u32 cookie; // the sequence number of the answer
	struct offer offer;
};

struct answer {
	__be32 words[20]; // the IP packet, and zeros
};

static always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

// checksum_in puts a checksum, in the order of the wire, into the upper or the lower half of a word of the wire.
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
static always_inline __be32 first_half(__u16 sum) { return sum; }
static always_inline __be32 second_half(__u16 sum) { return (__u32)sum << 16; }
#else
static always_inline __be32 first_half(__u16 sum) { return (__u32)sum << 16; }
static always_inline __be32 second_half(__u16 sum) { return sum; }
#endif

// cookie returns the sequence number in the kernel's order, or a negative error.
static always_inline __s64 cookie(const struct syn *s, const void *ip, int v6)
{
	// All that the helper looks at: ports, number, and the MSS, which 0 stands in for where there is none.
	__be32 tcp[6] = {};
	__be16 *ports = (__be16 *)tcp;
	ports[0] = s->port;
	ports[1] = s->key.port;
	tcp[1] = s->seq;
	tcp[3] = be32(6 << 28 | 1 << 17);
	tcp[5] = be32(KIND_MSS << 24 | 4 << 16 | s->offer.mss);
	return v6 ? gen_syncookie_ipv6(ip, tcp, sizeof(tcp)) : gen_syncookie_ipv4(ip, tcp, sizeof(tcp));
}

// write_tcp writes the segment and its checksum, to which the sum of the addresses is given, and returns its size.
static always_inline __u32 write_tcp(__be32 *t, const struct syn *s, const struct service *to, __u64 sum)
{
	__u32 options = s->offer.options | (s->ecn ? OPT_ECN : 0), size = 20;
	__be16 *ports = (__be16 *)t;

	options &= to->options;
	if (!(options & OPT_TIMESTAMP))
		options &= OPT_MSS;
	ports[0] = s->key.port;
	ports[1] = s->port;
	t[1] = be32(s->cookie);
	t[2] = be32(be32(s->seq) + 1);
	t[4] = 0;
	__be32 *o = t + 5;
	if (options & OPT_MSS) {
		*o++ = be32(KIND_MSS << 24 | 4 << 16 | to->mss);
		size += 4;
	}
	if (options & OPT_TIMESTAMP) {
		__u32 stamp = (__u32)(ktime_get_coarse_ns() / 1000000) & ~0x3fU;
		stamp |= options & OPT_WSCALE ? s->offer.wscale : 0xf;
		stamp |= options & OPT_SACK_PERM ? 1 << 4 : 0;
		stamp |= options & OPT_ECN ? 1 << 5 : 0;
		*o++ = options & OPT_SACK_PERM ? be32(KIND_SACK_PERM << 24 | 2 << 16 | KIND_TIMESTAMP << 8 | 10)
					       : be32(KIND_NOP << 24 | KIND_NOP << 16 | KIND_TIMESTAMP << 8 | 10);
		*o++ = be32(stamp);
		*o++ = be32(s->offer.tsval);
		size += 12;
		if (options & OPT_WSCALE) {
			*o++ = be32(KIND_NOP << 24 | KIND_WSCALE << 16 | 3 << 8 | to->wscale);
			size += 4;
		}
	}
	// SYN and ACK are bits 17 and 20 of this word, ECE is bit 22.
	t[3] = be32(size << 26 | 1 << 20 | 1 << 17 | (options & OPT_ECN ? 1 << 22 : 0) | to->window);
	sum += be32(6 + size);
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += t[i]; // those that were not written are zero
	t[4] = first_half(fold(sum));
	return size;
}

static always_inline __u32 write_ipv4(struct answer *a, const struct syn *s, const struct service *to)
{
	__be32 *w = a->words;
	w[3] = s->key.address[0];
	w[4] = s->source[0];
	__u64 addresses = (__u64)w[3] + w[4];
	__u32 size = 20 + write_tcp(w + 5, s, to, addresses);
	w[0] = be32(0x45000000 | size);
	w[1] = be32(0x4000); // do not fragment
	w[2] = be32(to->ttl << 24 | 6 << 16);
	w[2] |= second_half(fold(addresses + w[0] + w[1] + w[2]));
	return size;
}

static always_inline __u32 write_ipv6(struct answer *a, const struct syn *s, const struct service *to)
{
	__be32 *w = a->words;
	__u64 addresses = 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		w[2 + i] = s->key.address[i];
		w[6 + i] = s->source[i];
		addresses += (__u64)w[2 + i] + w[6 + i];
	}
	__u32 size = write_tcp(w + 10, s, to, addresses);
	w[0] = be32(0x60000000);
	w[1] = be32(size << 16 | 6 << 8 | to->ttl);
	return 40 + size;
}

// write_answer writes the packet into zeros, and returns its size in bytes.
verified_once int write_answer(struct answer *a, const struct syn *s, const struct service *to)
{
	if (!a || !s || !to)
		return 0;
	return s->key.family == 4 ? write_ipv4(a, s, to) : write_ipv6(a, s, to);
}
