// Rotates in place what most calls bring: tokens in one run, each with an id or the next position. One thread's work.
//
// As rotate.cuh, with nothing to choose: no batches, no ragged sequences, no other target. Two lines of parameters, and a
// third to a half of its instructions: up to 64 tokens take 6 to 12 % less time (H100).
//
//   block   x: groups of PAIRS pairs    y: heads    z: tokens
//   grid    x: tiles of tokens          y: slices of heads
#pragma once

#include "params/flat.cuh"
#include "pdl.cuh"
#include "stage/angles.cuh"
#include "vec.cuh"

namespace rope {

// Of q or of k. By value: a choice between references would be a load from an address that must first be worked out.
template <class T>
ROPE_FN T pick(bool is_key, T of_q, T of_k) {
    return is_key ? of_k : of_q;
}

// HEADS heads of q or of k: every `heads_per_block`-th from the first on, as far as there are.
template <class Element, bool JOINED, int BYTES, int HEADS>
struct FlatFragment {
    static constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    // Bytes from one thread's first pair to the next one's: pairs are neighbours.
    static constexpr uint32_t GROUP = BYTES;

    Pairs<Element, JOINED, BYTES> group[HEADS];
    bool has[HEADS];
    char* first;
    uint32_t between;  // bytes from one of its heads to the next

    ROPE_FN void locate(const FlatParams& params, bool is_key, uint32_t t, uint32_t slice,
                        const Thread& at) {
        const uint32_t rows = params.heads_per_block;
        const uint32_t head = pick(is_key, params.head[0], params.head[1]);
        const uint32_t heads = pick<uint32_t>(is_key, params.heads[0], params.heads[1]);
        const uint32_t token = pick(is_key, params.token[0], params.token[1]);
        const uint32_t h = slice * (HEADS * rows) + at.y;
        first = pick(is_key, params.first[0], params.first[1]) +
                (static_cast<uint64_t>(t) * token + (h * head + at.x * GROUP));
        between = rows * head;
#pragma unroll
        for (int i = 0; i < HEADS; ++i) has[i] = t < params.tokens && h + i * rows < heads;
    }

    ROPE_FN void load(const FlatParams& params) {
        const Policy policy(params.load_hint);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            group[i].load_if(has[i], first + i * between, params.partner, policy);
        }
    }

    ROPE_FN void finish(const FlatParams& params, const Angles<PAIRS>& angles) {
        const Policy policy(params.store_hint);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (!has[i]) break;
            group[i].map([&](int j, float& x, float& y) { angles.rotate(j, x, y); });
            group[i].store(first + i * between, params.partner, policy);
        }
    }
};

// All loads of a thread must be on their way before it waits for any. The assembler knows no better than to move a load
// down to its use, 100 instructions on and behind the wait for another one (0.2 us, H100); it moves none over a branch, and
// needs none before one where each is predicated. So the way out for threads without work comes behind the loads.
//
// PDL: the launch's, whose order of work it decides. Without, q and k first, since they may come from DRAM; with, whatever
// the kernel before cannot have written before the wait for it.
template <int PAIRS, Pdl PDL, class... Fragments>
ROPE_FN void rotate_flat(const FlatParams& params, uint32_t t, uint32_t pair,
                         Fragments&... fragments) {
    const bool has_work = (fragments.has[0] || ...);
    Angles<PAIRS> angles;
    if constexpr (PDL != OFF) angles.load_steps(params.steps, pair);
    if constexpr (PDL == ON) {
        launch_dependent_grids();
        wait_on_dependent_grids();
    }
    if constexpr (PDL != POSITIONS_READY) {
        (fragments.load(params), ...);
        if (!has_work) return;
    }
    if constexpr (PDL == OFF) angles.load_steps(params.steps, pair);
    const Ids::Halves id = params.ids.load_if(has_work, static_cast<uint64_t>(t) * params.ids.stride);
    const uint64_t from = static_cast<uint64_t>(params.start) + t * params.counts;
    angles.multiply(params.ids.value<false>(id) + from);
    angles.sin_cos(params.cos_factor, params.sin_factor);
    if constexpr (PDL == POSITIONS_READY) {
        launch_dependent_grids();
        wait_on_dependent_grids();
        (fragments.load(params), ...);
        if (!has_work) return;
    }
    (fragments.finish(params, angles), ...);
}

// Q heads of q together with K heads of k; or, where K is 0, Q heads of either.
template <class Element, bool JOINED, int BYTES, int Q, int K, Pdl PDL>
ROPE_FN void flat_thread(const FlatParams& params, const Thread& at) {
    constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    const uint32_t t = at.block_x * params.tokens_per_block + at.z;
    const uint32_t pair = at.x * PAIRS;
    FlatFragment<Element, JOINED, BYTES, Q> q;
    if constexpr (K == 0) {
        const bool is_key = at.block_y >= params.q_slices;
        q.locate(params, is_key, t, at.block_y - (is_key ? params.q_slices : 0), at);
        rotate_flat<PAIRS, PDL>(params, t, pair, q);
    } else {
        FlatFragment<Element, JOINED, BYTES, K> k;
        q.locate(params, false, t, at.block_y, at);
        k.locate(params, true, t, at.block_y, at);
        rotate_flat<PAIRS, PDL>(params, t, pair, q, k);
    }
}

}  // namespace rope
