// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The options of a SYN, as synproxy_parse_options of net/netfilter/nf_synproxy_core.c (6.18) reads them.
#pragma once
#include "maps.h"

enum { KIND_END = 0, KIND_NOP = 1, KIND_MSS = 2, KIND_WSCALE = 3, KIND_SACK_PERM = 4, KIND_TIMESTAMP = 8 };

struct offer {
	__u32 tsval;
	__u16 mss; // 0 if there is none
	__u8 wscale;
	__u8 options; // OPT_*
};

// struct walk goes through options that were copied to the stack. Behind the 40 that there can be is room, so that an
// index needs no more than a mask to be safe.
struct walk {
	__u8 raw[64];
	__u32 at, end;
	struct offer offer;
};

static always_inline __u32 byte_at(const struct walk *w, __u32 at) { return w->raw[at & 63]; }

static long step(__attribute__((unused)) __u32 i, void *ctx)
{
	struct walk *w = ctx;
	__u32 at = w->at, left = w->end - at;

	if (at >= w->end)
		return 1;
	__u32 kind = byte_at(w, at);
	if (kind == KIND_END)
		return 1;
	if (kind == KIND_NOP) {
		w->at = at + 1;
		return 0;
	}
	if (left < 2)
		return 1;
	__u32 size = byte_at(w, at + 1);
	if (size < 2 || size > left)
		return 1;
	w->at = at + size;
	at += 2;
	if (kind == KIND_MSS && size == 4) {
		w->offer.mss = byte_at(w, at) << 8 | byte_at(w, at + 1);
		w->offer.options |= OPT_MSS;
	} else if (kind == KIND_WSCALE && size == 3) {
		__u32 shift = byte_at(w, at);
		w->offer.wscale = shift > 14 ? 14 : shift;
		w->offer.options |= OPT_WSCALE;
	} else if (kind == KIND_SACK_PERM && size == 2) {
		w->offer.options |= OPT_SACK_PERM;
	} else if (kind == KIND_TIMESTAMP && size == 10) {
		w->offer.tsval = byte_at(w, at) << 24 | byte_at(w, at + 1) << 16 | byte_at(w, at + 2) << 8 | byte_at(w, at + 3);
		w->offer.options |= OPT_TIMESTAMP;
	}
	return 0;
}

// walk_options fills the offer of options that are not the usual ones.
verified_once int walk_options(struct walk *w)
{
	if (!w)
		return 0;
	struct walk here = *w; // a loop's data must be on the stack of who calls it
	loop(40, step, &here, 0);
	w->offer = here.offer;
	return 0;
}

// usual_options reads what Linux sends, and who imitates it: MSS, SACK, timestamps, NOP, window scale. It tells whether
// they are such.
static always_inline int usual_options(const __be32 *o, const void *end, __u32 size, struct offer *offer)
{
	if (size != 20 || (void *)(o + 5) > end || (o[0] & be32(0xffff0000)) != be32(0x02040000) ||
	    o[1] != be32(0x0402080a) || (o[4] & be32(0xffffff00)) != be32(0x01030300))
		return 0;
	__u32 shift = be32(o[4]) & 0xff;
	offer->mss = be32(o[0]) & 0xffff;
	offer->tsval = be32(o[2]);
	offer->wscale = shift > 14 ? 14 : shift;
	offer->options = OPT_MSS | OPT_WSCALE | OPT_SACK_PERM | OPT_TIMESTAMP;
	return 1;
}
