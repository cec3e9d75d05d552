// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Answers SYNs in front of the kernel's SYNPROXY, with its cookies and as it would. The client's ACK then meets SYNPROXY
// itself, which finds its own cookie: both have one secret. Whatever is not a SYN to one of the services passes as it
// came, and so does every packet for which something fails.
//
// The same for two places: as early as the driver hands over a frame (XDP), and where the kernel has made a packet of it
// (tc ingress). It needs Linux 6.0: the helpers for cookies. The kernel lets only programs that call themselves GPL use
// them, so this directory may be used under the GPL, version 2, too.
#include "frame.h"

char _license[] SEC("license") = "GPL";

static const __u32 zero = 0;

static always_inline struct service *find(const struct syn *s, const struct settings *own)
{
	struct service *to = map_lookup(&services, &s->key);
	if (!to && own->prefixes) {
		struct prefix p = {.bits = 8 * sizeof(p.key), .key = s->key};
		to = map_lookup(&prefixes, &p);
	}
	return to;
}

// prepare writes the answer to a SYN and returns its size, or 0 if there will be none.
static always_inline __u32 prepare(void *ctx, int xdp, const void *data, const void *end, __u32 l3, struct syn *s,
				 const struct service *to, struct counters *count, struct answer *a)
{
	const __be32 *ip = data + l3;
	int v6 = s->key.family == 6;
	__u32 tcp = v6 ? 40 : 20, size = (s->header - 20) & 63;

	if (to->access || (void *)(ip + (v6 ? 15 : 10)) > end)
		goto leave;
	if (size && !usual_options((void *)ip + tcp + 20, end, size, &s->offer)) {
		struct walk w = {.end = size};
		__u32 at = l3 + tcp + 20;
		if (size > 40 || (xdp ? xdp_load_bytes(ctx, at, w.raw, size) : skb_load_bytes(ctx, at, w.raw, size)))
			goto leave;
		walk_options(&w);
		s->offer = w.offer;
	}
	__s64 seq = cookie(s, ip, v6);
	if (seq < 0) {
		count->failed++;
		return 0;
	}
	s->cookie = seq;
	__u32 length = write_answer(a, s, to);
	return length <= sizeof(a->words) ? length : 0; // it is: this is for the verifier
leave:
	count->left++;
	return 0;
}

static always_inline void answered(struct counters *count, __u32 index)
{
	__u64 *n = map_lookup(&served, &index);
	if (n)
		++*n;
	count->answered++;
}

// turn_round sends the frame back where it came from, without priority, as the kernel sends its own.
static always_inline void turn_round(__be16 *ether, __u32 l3)
{
	__be16 a = ether[0], b = ether[1], c = ether[2];
	ether[0] = ether[3], ether[1] = ether[4], ether[2] = ether[5];
	ether[3] = a, ether[4] = b, ether[5] = c;
	if (l3 >= ETHER + TAG)
		ether[7] &= be16(0xfff);
	if (l3 == ETHER + 2 * TAG)
		ether[9] &= be16(0xfff);
}

SEC("xdp.frags")
int synproxyctl_xdp(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	const struct settings *own = map_lookup(&settings, &zero);
	struct counters *count = map_lookup(&totals, &zero);
	struct syn s = {};
	struct answer a = {};

	if (!own || !count)
		return XDP_PASS;
	__u32 size = xdp_get_buff_len(xdp);
	__u32 l3 = read_frame(data, end, 0, size, own, &s);
	if (!l3)
		return XDP_PASS;
	count->syns++;
	struct service *to = find(&s, own);
	if (!to)
		return XDP_PASS;
	__u32 length = prepare(xdp, 1, data, end, l3, &s, to, count, &a);
	if (!length)
		return XDP_PASS;
	// No frame on a cable is shorter than 60 bytes, and not every driver fills up what a program sends.
	__u32 want = l3 + length, least = size < 60 ? size : 60;
	__u32 keep = want > least ? want : least;
	if (size != keep && xdp_adjust_tail(xdp, (int)keep - (int)size)) {
		count->failed++;
		return XDP_PASS;
	}
	data = (void *)(long)xdp->data, end = (void *)(long)xdp->data_end;
	length = keep - l3;
	if (data + ETHER + 2 * TAG > end || !length || length > sizeof(a.words)) // none of it is: this is for the verifier
		return XDP_PASS;
	turn_round(data, l3);
	// What follows the answer in the frame are zeros, which the answer has behind it.
	if (xdp_store_bytes(xdp, l3, &a.words, length)) {
		count->failed++;
		return XDP_PASS;
	}
	answered(count, to->index);
	return XDP_TX;
}

enum { NEEDED = ETHER + 2 * TAG + 40 + 60 }; // all that is read of a packet

SEC("tc")
int synproxyctl_tc(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct settings *own = map_lookup(&settings, &zero);
	struct counters *count = map_lookup(&totals, &zero);
	__u32 tags = 0, tci = skb->vlan_tci;
	__be16 proto = skb->vlan_proto;
	struct syn s = {};
	struct answer a = {};

	if (!own || !count)
		return TC_ACT_UNSPEC;
	if (skb->vlan_present && !(tags = tag_of(be16(proto), tci)))
		return TC_ACT_UNSPEC;
	__u32 size = skb->len;
	if (unlikely(data + NEEDED > end && data + size > end)) { // headers in pages of their own
		if (skb_pull_data(skb, size < NEEDED ? size : NEEDED))
			return TC_ACT_UNSPEC;
		data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
	}
	__u32 l3 = read_frame(data, end, tags, size, own, &s);
	if (!l3)
		return TC_ACT_UNSPEC;
	count->syns++;
	struct service *to = find(&s, own);
	if (!to)
		return TC_ACT_UNSPEC;
	__u32 length = prepare(skb, 0, data, end, l3, &s, to, count, &a);
	if (!length)
		return TC_ACT_UNSPEC;
	__be16 ether[(ETHER + 2 * TAG) / 2];
	if (data + sizeof(ether) > end)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(ether, data, sizeof(ether));
	turn_round(ether, l3);
	__u32 want = l3 + length;
	if (size != want && skb_change_tail(skb, want, 0))
		goto fail;
	if (skb_store_bytes(skb, 0, ether, l3, 0))
		goto fail;
	if (skb_store_bytes(skb, l3, &a.words, length, 0))
		goto fail;
	if (tags && tci & 0xf000 && (skb_vlan_pop(skb) || skb_vlan_push(skb, proto, tci & 0xfff)))
		goto fail;
	answered(count, to->index);
	return redirect(skb->ifindex, 0);
fail:
	count->failed++;
	return TC_ACT_UNSPEC;
}
