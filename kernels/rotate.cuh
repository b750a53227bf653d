// Rotates query and key heads by their tokens' positions: one thread's work.
//
//   (x, y)  ->  (x cos - y sin, y cos + x sin)      for every channel pair of every head
//
// One thread owns its pairs: it loads both channels, rotates them and stores them where they lay or
// in another tensor of the same shape. No other thread touches them, so working in place is safe by
// construction. A thread takes one group of pairs in a few heads of one token: sine and cosine are
// made once for all of them, after their loads have been issued, and hide behind memory.
//
//   block   x: groups of PAIRS pairs    y: heads    z: tokens
//   grid    x: tiles of tokens          y: slices of heads
//
// q and k apart: a slice is of one tensor, so everything about the tensor is the block's. Together: a
// slice is of both, and sine and cosine serve both; for many query heads to a key head.
#pragma once

#include "params/rotate.cuh"
#include "stage/fragment.cuh"
#include "stage/pass_through.cuh"
#include "stage/turn.cuh"

namespace rope {

// A fragment of one tensor of the call, from end to end.
template <class Element, bool JOINED, int BYTES, int HEADS>
struct RotateFragment {
    HeadFragment<Element, JOINED, BYTES, HEADS> fragment;

    static ROPE_FN HeadRange range(const RotateParams& params, int tensor) {
        return {params.heads[tensor], params.heads_per_block};
    }

    ROPE_FN void locate(const RotateParams& params, int tensor, const TokenCoord& coord,
                        uint32_t slice, const Thread& at) {
        fragment.locate(params.src[tensor], range(params, tensor), coord,
                        slice * HEADS * params.heads_per_block + at.y);
    }

    ROPE_FN void load(const RotateParams& params, int tensor) {
        fragment.load(params.src[tensor], range(params, tensor), params.partner, params.load_hint);
    }

    ROPE_FN void finish(const RotateParams& params, int tensor, const TokenCoord& coord,
                        const Angles<Pairs<Element, JOINED, BYTES>::PAIRS>& angles,
                        const Thread& at) {
        // In place there is nothing left to work out between sine and cosine and the stores.
        char* from = params.src[tensor].first + fragment.offset;
        char* to = from;
        int64_t head_bytes = fragment.head_bytes;
        const bool in_place = params.in_place[tensor];
        if (!in_place) {
            const Rows& rows = params.dst[tensor];
            to = rows.first + (rows.offset(coord.b, coord.s, fragment.first) + coord.pair_offset);
            head_bytes = params.heads_per_block * rows.head;
        }
        const Policy policy(params.store_hint);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (!fragment.has(i, range(params, tensor))) break;
            fragment.rotate(i, angles);
            fragment.group[i].store(to + i * head_bytes, params.partner, policy);
        }
        if (in_place) return;
        for (int i = 0; i < HEADS && fragment.has(i, range(params, tensor)); ++i) {
            pass_through<Element>(params.pass_through[tensor], params.pairs,
                                  from + (i * fragment.head_bytes - coord.pair_offset),
                                  to + (i * head_bytes - coord.pair_offset), at);
        }
    }
};

// GENERAL: pairs may turn by positions of their own (M-RoPE), sequences by frequencies of their own, and ids
// may be u32. Kernels of their own, since the others are at their best when they are short.
//
// The order of a thread's work: `locate` works out addresses, `load` issues loads, `finish` rotates and
// stores.
template <int PAIRS, bool GENERAL, class Locate, class Load, class Finish>
ROPE_FN void rotate_token(const RotateParams& params, const Thread& at, Locate locate, Load load,
                          Finish finish) {
    TokenCoord coord;
    coord.t = at.tile * params.tokens_per_block + at.z;
    coord.b = params.seq.divide(coord.t);
    coord.s = coord.t - coord.b * params.seq.value;
    const uint32_t pair = at.x * PAIRS;
    coord.pair_offset = pair * params.pair_stride;
    locate(coord);
    // Only now: what comes after a branch waits for it, and `locate` has much to wait for already.
    if (coord.t >= params.tokens) return;

    Angles<PAIRS> angles;
    float cos_factor = params.cos_factor, sin_factor = params.sin_factor;
    if constexpr (!GENERAL) angles.load_steps(params.steps, pair);
    // Sine and cosine hide behind the loads; or, where positions were ready long ago, behind the
    // kernel before, whose q and k are still to come.
    const bool early = params.pdl == POSITIONS_READY;
    if (!early) {
        if (params.pdl == ON) {
            launch_dependent_grids();
            wait_on_dependent_grids();
        }
        load();
    }
    turn<GENERAL>(params, coord, pair, cos_factor, sin_factor, angles);
    if (early) {
        launch_dependent_grids();
        wait_on_dependent_grids();
        load();
    }
    finish(coord, angles);
}

// HEADS heads of q, or of k.
template <class Element, bool JOINED, int BYTES, int HEADS, bool GENERAL>
ROPE_FN void rotate_apart_thread(const RotateParams& params, const Thread& at) {
    constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    const int tensor = at.slice >= params.q_slices;
    const uint32_t slice = at.slice - (tensor ? params.q_slices : 0);
    RotateFragment<Element, JOINED, BYTES, HEADS> fragment;
    rotate_token<PAIRS, GENERAL>(
        params, at,
        [&](const TokenCoord& coord) { fragment.locate(params, tensor, coord, slice, at); },
        [&] { fragment.load(params, tensor); },
        [&](const TokenCoord& coord, const Angles<PAIRS>& angles) {
            fragment.finish(params, tensor, coord, angles, at);
        });
}

// Q heads of q and K heads of k.
template <class Element, bool JOINED, int BYTES, int Q, int K, bool GENERAL>
ROPE_FN void rotate_together_thread(const RotateParams& params, const Thread& at) {
    constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    RotateFragment<Element, JOINED, BYTES, Q> q;
    RotateFragment<Element, JOINED, BYTES, K> k;
    rotate_token<PAIRS, GENERAL>(
        params, at,
        [&](const TokenCoord& coord) {
            q.locate(params, 0, coord, at.slice, at);
            k.locate(params, 1, coord, at.slice, at);
        },
        [&] {
            q.load(params, 0);
            k.load(params, 1);
        },
        [&](const TokenCoord& coord, const Angles<PAIRS>& angles) {
            q.finish(params, 0, coord, angles, at);
            k.finish(params, 1, coord, angles, at);
        });
}

// Q heads of q together with K heads of k; or, where K is 0, Q heads of either.
template <class Element, bool JOINED, int BYTES, int Q, int K, bool GENERAL>
ROPE_FN void rotate_thread(const RotateParams& params, const Thread& at) {
    if constexpr (K == 0) {
        rotate_apart_thread<Element, JOINED, BYTES, Q, GENERAL>(params, at);
    } else {
        rotate_together_thread<Element, JOINED, BYTES, Q, K, GENERAL>(params, at);
    }
}

}  // namespace rope
