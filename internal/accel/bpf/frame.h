// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Which frames are SYNs that this program may judge. Whatever is not plainly one is left to the kernel, which knows
// more: fragments, IP options, extension headers, sources that no packet can have, and all that is for another machine.
#pragma once
#include "answer.h"

enum { ETHER = 14, TAG = 4, PROTO_TCP = 6 };
enum { TYPE_IPV4 = 0x0800, TYPE_IPV6 = 0x86dd, TYPE_VLAN = 0x8100, TYPE_PROVIDER = 0x88a8 };
enum { FLAG_FIN = 1, FLAG_SYN = 2, FLAG_RST = 4, FLAG_ACK = 16, FLAG_ECE = 64, FLAG_CWR = 128 };
enum { TAG_PRESENT = 0x8000, TAG_PROVIDER = 0x1000 };

// tag_of returns what struct key has of a VLAN's tag, or 0 for number 0, which only carries a priority.
static always_inline __u32 tag_of(__u32 type, __u32 tci)
{
	return tci & 0xfff ? TAG_PRESENT | (type == TYPE_PROVIDER ? TAG_PROVIDER : 0) | (tci & 0xfff) : 0;
}

// for_us tells whether the frame is addressed to this interface, by a single machine.
static always_inline int for_us(const __u8 *mac, const struct settings *own)
{
	const __u16 *a = (const __u16 *)mac, *b = (const __u16 *)own->mac;
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && !(mac[6] & 1);
}

// read_tcp reads an exact SYN whose segment has size bytes, and tells whether it is one.
static always_inline int read_tcp(const __be32 *t, const void *end, __u32 size, struct syn *s)
{
	if ((void *)(t + 5) > end)
		return 0;
	const __be16 *ports = (const __be16 *)t;
	__u32 word = be32(t[3]), flags = word >> 16, header = word >> 28 << 2;
	if ((flags & (FLAG_FIN | FLAG_SYN | FLAG_RST | FLAG_ACK)) != FLAG_SYN || header < 20 || header > size)
		return 0;
	s->port = ports[0];
	s->key.port = ports[1];
	s->seq = t[1];
	s->ecn = (flags & (FLAG_ECE | FLAG_CWR)) == (FLAG_ECE | FLAG_CWR);
	s->header = header;
	return 1;
}

static always_inline int read_ipv4(const __be32 *w, const void *end, __u32 size, struct syn *s)
{
	if ((void *)(w + 10) > end)
		return 0;
	__u32 first = be32(w[0]), total = first & 0xffff, third = be32(w[2]), source = be32(w[3]);
	// No options; no fragment; a time to live that lets the packet be forwarded; TCP.
	if (first >> 24 != 0x45 || total < 40 || total > size || be32(w[1]) & 0x3fff || third >> 24 < 2 || (third >> 16 & 0xff) != PROTO_TCP)
		return 0;
	if (fold((__u64)w[0] + w[1] + w[2] + w[3] + w[4]))
		return 0;
	// "This" network, loopback, multicast, reserved and broadcast; and a packet from its own destination.
	if (source >> 24 == 0 || source >> 24 == 127 || source >> 24 >= 224 || w[3] == w[4])
		return 0;
	if (!read_tcp(w + 5, end, total - 20, s))
		return 0;
	s->key.family = 4;
	s->key.address[0] = w[4];
	s->key.address[1] = s->key.address[2] = s->key.address[3] = 0;
	s->source[0] = w[3];
	return 1;
}

static always_inline int read_ipv6(const __be32 *w, const void *end, __u32 size, struct syn *s)
{
	if ((void *)(w + 15) > end)
		return 0;
	__u32 second = be32(w[1]), payload = second >> 16, source = be32(w[2]);
	if (be32(w[0]) >> 28 != 6 || payload < 20 || payload + 40 > size || (second >> 8 & 0xff) != PROTO_TCP || (second & 0xff) < 2)
		return 0;
	// Multicast, link-local, and ::/64 with the unspecified address, loopback and IPv4 in disguise.
	if (source >> 24 == 0xff || source >> 22 == 0xfe80 >> 6 || !(w[2] | w[3]))
		return 0;
	if (w[2] == w[6] && w[3] == w[7] && w[4] == w[8] && w[5] == w[9])
		return 0;
	if (!read_tcp(w + 10, end, payload, s))
		return 0;
	s->key.family = 6;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		s->source[i] = w[2 + i];
		s->key.address[i] = w[6 + i];
	}
	return 1;
}

// read_ip reads what stands at an offset in a frame of size bytes, and returns the offset, or 0 if it is no SYN for us.
static always_inline __u32 read_ip(const void *data, const void *end, __be16 type, __u32 l3, __u32 size, struct syn *s)
{
	if (type == be16(TYPE_IPV4))
		return read_ipv4(data + l3, end, size - l3, s) ? l3 : 0;
	if (type == be16(TYPE_IPV6))
		return read_ipv6(data + l3, end, size - l3, s) ? l3 : 0;
	return 0;
}

// read_frame reads a frame of size bytes, of which data to end can be seen, and returns the offset of the IP header if it
// is a SYN. Tags hold the one that the kernel has taken out of the frame.
static always_inline __u32 read_frame(const void *data, const void *end, __u32 tags, __u32 size, const struct settings *own, struct syn *s)
{
	const __be16 *type = data + 12;
	if (data + ETHER > end || !for_us(data, own))
		return 0;
	s->key.tags = tags;
	if (likely(type[0] != be16(TYPE_VLAN) && type[0] != be16(TYPE_PROVIDER)))
		return read_ip(data, end, type[0], ETHER, size, s);
	if (data + ETHER + TAG > end)
		return 0;
	__u32 tag = tag_of(be16(type[0]), be16(type[1]));
	if (!tag)
		return 0;
	s->key.tags = tags << 16 | tag;
	if (type[2] != be16(TYPE_VLAN) && type[2] != be16(TYPE_PROVIDER))
		return read_ip(data, end, type[2], ETHER + TAG, size, s);
	if (tags || data + ETHER + 2 * TAG > end)
		return 0;
	__u32 inner = tag_of(be16(type[2]), be16(type[3]));
	if (!inner)
		return 0;
	s->key.tags = tag << 16 | inner;
	return read_ip(data, end, type[4], ETHER + 2 * TAG, size, s);
}
