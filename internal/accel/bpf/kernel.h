// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// What this program needs of the kernel's interface to BPF programs: include/uapi/linux/bpf.h of Linux 6.0. All of it is
// fixed for user space, so nothing has to be relocated when the program is loaded.
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;

#define SEC(name) __attribute__((section(name), used))
#define always_inline inline __attribute__((always_inline))
// What is not inlined and not static is verified once, whatever it is called with.
#define verified_once __attribute__((noinline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

// A map is declared by a structure that is never stored: only its type information is read.
#define MAP(name) name SEC(".maps")
#define MAP_TYPE(t) int(*type)[t]
#define MAP_FLAGS(f) int(*map_flags)[f]
#define MAP_ENTRIES(n) int(*max_entries)[n]
#define MAP_KEY(t) t *key
#define MAP_VALUE(t) t *value

enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_LPM_TRIE = 11 };
enum { BPF_F_NO_PREALLOC = 1 };
enum { XDP_PASS = 2, XDP_TX = 3 };
enum { TC_ACT_OK = 0, TC_ACT_UNSPEC = -1 };

struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	__u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end;
};

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((__be16)__builtin_bswap16(x))
#define be32(x) ((__be32)__builtin_bswap32(x))
#else
#define be16(x) ((__be16)(x))
#define be32(x) ((__be32)(x))
#endif

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*skb_store_bytes)(struct __sk_buff *skb, __u32 at, const void *from, __u32 len, __u64 flags) = (void *)9;
static long (*skb_load_bytes)(const struct __sk_buff *skb, __u32 at, void *to, __u32 len) = (void *)26;
static long (*skb_vlan_push)(struct __sk_buff *skb, __be16 proto, __u16 tci) = (void *)18;
static long (*skb_vlan_pop)(struct __sk_buff *skb) = (void *)19;
static long (*redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*skb_change_tail)(struct __sk_buff *skb, __u32 len, __u64 flags) = (void *)38;
static long (*skb_pull_data)(struct __sk_buff *skb, __u32 len) = (void *)39;
static long (*xdp_adjust_tail)(struct xdp_md *xdp, int delta) = (void *)65;
static __u64 (*ktime_get_coarse_ns)(void) = (void *)160;
static long (*loop)(__u32 times, void *step, void *ctx, __u64 flags) = (void *)181;
static __u64 (*xdp_get_buff_len)(struct xdp_md *xdp) = (void *)188;
static long (*xdp_load_bytes)(struct xdp_md *xdp, __u32 at, void *to, __u32 len) = (void *)189;
static long (*xdp_store_bytes)(struct xdp_md *xdp, __u32 at, const void *from, __u32 len) = (void *)190;
static __s64 (*gen_syncookie_ipv4)(const void *iph, const void *th, __u32 len) = (void *)204;
static __s64 (*gen_syncookie_ipv6)(const void *iph, const void *th, __u32 len) = (void *)205;
