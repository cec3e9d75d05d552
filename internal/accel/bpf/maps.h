// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// What user space fills and reads. The sizes of the maps are set when they are made.
#pragma once
#include "kernel.h"

// The options of TCP as the kernel's SYNPROXY numbers them: include/uapi/linux/netfilter/nf_SYNPROXY.h.
enum { OPT_MSS = 1, OPT_WSCALE = 2, OPT_SACK_PERM = 4, OPT_TIMESTAMP = 8, OPT_ECN = 16 };

// struct key is a destination. In the trie a prefix length stands before it, so that what comes first is always
// compared whole.
struct key {
	__u32 tags;   // VLANs, in the machine's order: outer << 16 | inner, or the only one; 0: untagged
	__be16 port;
	__u16 family; // 4 or 6
	__be32 address[4]; // of IPv4 the first word; the rest is zero
};

struct prefix {
	__u32 bits;
	struct key key;
};

// struct service is what SYNPROXY is told of a service. All but the index must be as in the rules.
struct service {
	__u32 index;  // in served
	__u32 access; // not 0: restricted by something that this version does not know; left to netfilter
	__u16 mss;
	__u16 window; // that the SYN+ACK leaves with
	__u8 wscale;
	__u8 options; // OPT_*
	__u8 ttl;     // or hop limit
	__u8 unused;
};

struct settings {
	__u8 mac[6]; // the interface's own
	__u8 prefixes; // 1: the trie is not empty
	__u8 unused;
};

struct counters {
	__u64 syns;     // segments with SYN and without ACK, FIN, RST to this machine, whatever their service
	__u64 answered; // of those, by this program
	__u64 left;     // to a service, but left to netfilter: restricted, or a frame that only the kernel can judge
	__u64 failed;   // the kernel refused a step; left to netfilter
};

struct {
	MAP_TYPE(BPF_MAP_TYPE_HASH);
	MAP_ENTRIES(1);
	MAP_KEY(struct key);
	MAP_VALUE(struct service);
} MAP(services);

struct {
	MAP_TYPE(BPF_MAP_TYPE_LPM_TRIE);
	MAP_FLAGS(BPF_F_NO_PREALLOC);
	MAP_ENTRIES(1);
	MAP_KEY(struct prefix);
	MAP_VALUE(struct service);
} MAP(prefixes);

struct {
	MAP_TYPE(BPF_MAP_TYPE_ARRAY);
	MAP_ENTRIES(1);
	MAP_KEY(__u32);
	MAP_VALUE(struct settings);
} MAP(settings);

struct {
	MAP_TYPE(BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_ENTRIES(1);
	MAP_KEY(__u32);
	MAP_VALUE(struct counters);
} MAP(totals);

// How many SYNs of each service were answered.
struct {
	MAP_TYPE(BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_ENTRIES(1);
	MAP_KEY(__u32);
	MAP_VALUE(__u64);
} MAP(served);
