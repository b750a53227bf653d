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

// How blocks share a token's heads.
enum Sharing {
    APART,  // a block takes heads of q or of k: threads need not ask, which counts where there are few tokens
    LIST,   // of both, k's numbered on from q's: threads take equally many, whatever the numbers of heads
    WALK,   // the same, and blocks that are too few go on over the list
};

// By value: a choice between references would be a load from an address that must first be worked out.
template <class T>
ROPE_FN T pick(bool is_key, const T (&of)[2]) {
    const T of_q = of[0], of_k = of[1];
    return is_key ? of_k : of_q;
}

// HEADS heads of a token: every `heads_per_block`-th from one on, as far as there are.
template <class Element, bool JOINED, int BYTES, int HEADS, Sharing SHARING>
class FlatFragment {
public:
    static constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;

    ROPE_FN FlatFragment(const FlatParams& params, uint32_t t, const Thread& at) {
        const bool of_k = SHARING == APART && at.slice >= params.q_slices;
        const uint32_t slice = at.slice - (of_k ? params.q_slices : 0);
        first = slice * (HEADS * params.heads_per_block) + at.y;
        end = pick(SHARING != APART || of_k, params.end);
        in_range = t < params.tokens;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const bool is_key = SHARING == APART ? of_k : i;
            // Pairs are neighbours: BYTES from one thread's vector to the next one's.
            row[i] = pick(is_key, params.first) +
                     (static_cast<uint64_t>(t) * pick(is_key, params.token) + at.x * BYTES);
            stride[i] = pick(is_key, params.head);
        }
    }

    ROPE_FN bool is_empty() const { return !has(first); }

    ROPE_FN void load(const FlatParams& params) {
#pragma unroll
        for (int i = 0; i < HEADS; ++i) load(params, i, first);
    }

    ROPE_FN void finish(const FlatParams& params, const Angles<PAIRS>& angles) {
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (!has(head(params, i, first))) break;
            finish(params, angles, i);
        }
    }

    // Whether the grid's next round over the list has heads for it; then all of this one's are there.
    ROPE_FN bool goes_on(const FlatParams& params) const {
        return has(first + params.heads_per_round);
    }
    // Each head makes room for one of the next round: as many loads are on their way as before.
    ROPE_FN void go_on(const FlatParams& params, const Angles<PAIRS>& angles) {
        const uint32_t next = first + params.heads_per_round;
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            finish(params, angles, i);
            load(params, i, next);
        }
        first = next;
    }

private:
    ROPE_FN bool has(uint32_t h) const { return in_range && h < end; }
    // The i-th of those from `from` on.
    ROPE_FN uint32_t head(const FlatParams& params, int i, uint32_t from) const {
        return from + i * params.heads_per_block;
    }
    ROPE_FN char* address(const FlatParams& params, uint32_t h) const {
        const bool is_key = SHARING != APART && h >= params.end[0];
        const uint64_t offset = static_cast<uint64_t>(h) * pick(is_key, stride);
        return reinterpret_cast<char*>(pick(is_key, row) + offset);
    }
    ROPE_FN void load(const FlatParams& params, int i, uint32_t from) {
        const uint32_t h = head(params, i, from);
        group[i].load_if(has(h), address(params, h), params.partner, Policy(params.load_hint));
    }
    ROPE_FN void finish(const FlatParams& params, const Angles<PAIRS>& angles, int i) {
        group[i].map([&](int j, float& x, float& y) { angles.rotate(j, x, y); });
        // Kept from the load on, the addresses of many heads would take a third of all registers.
        const uint32_t from = HEADS > 4 ? opaque(first) : first;
        group[i].store(address(params, head(params, i, from)), params.partner,
                       Policy(params.store_hint));
    }

    Pairs<Element, JOINED, BYTES> group[HEADS];
    uint32_t first;      // this thread's first head
    uint32_t end;        // the number behind the last one's
    bool in_range;       // whether there is such a token. Apart from `end`, which a block knows without its threads
    // Of q and of k, or twice of the one that the block takes: the token's head 0, this thread's pairs of it.
    uint64_t row[2];
    uint32_t stride[2];  // and bytes from one head to the next
};

// All loads of a thread must be on their way before it waits for any. The assembler knows no better than to move a load
// down to its use, 100 instructions on and behind the wait for another one (0.2 us, H100); it moves none over a branch, and
// needs none before one where each is predicated. So the way out for threads without work comes behind the loads.
//
// PDL: the launch's, whose order of work it decides. Without, q and k first, since they may come from DRAM; with, whatever
// the kernel before cannot have written before the wait for it.
//
// Blocks that walk are resident all at once, and meet, launch by launch, what they left in their half of L2: 2048 tokens of
// 32 + 8 heads of 128 take 7.8 us for 8.9, L2-hot (H100).
template <class Element, bool JOINED, int BYTES, int HEADS, Sharing SHARING, Pdl PDL>
ROPE_FN void flat_thread(const FlatParams& params, const Thread& at) {
    using Fragment = FlatFragment<Element, JOINED, BYTES, HEADS, SHARING>;
    constexpr int PAIRS = Fragment::PAIRS;
    const uint32_t t = at.tile * params.tokens_per_block + at.z;
    const uint32_t pair = at.x * PAIRS;
    Fragment fragment(params, t, at);
    const bool has_work = !fragment.is_empty();
    Angles<PAIRS> angles;
    if constexpr (PDL != OFF) angles.load_steps(params.steps, pair);
    if constexpr (PDL == ON) {
        launch_dependent_grids();
        wait_on_dependent_grids();
    }
    if constexpr (PDL != POSITIONS_READY) fragment.load(params);
    Ids::Halves id;
    if constexpr (HEADS == 1 && PAIRS <= 2 && PDL != POSITIONS_READY) {
        // Of very few tokens: the position is what takes longest, unless q and k come from DRAM. An id's offset fits 32 bits, of which
        // an address is made in less time.
        id = params.ids.load_if(has_work, t * params.ids.stride);
        if constexpr (PDL == OFF) angles.load_steps_if(has_work, params.steps, pair);
        if (!has_work) return;
    } else {
        if constexpr (PDL != POSITIONS_READY) {
            if (!has_work) return;
        }
        if constexpr (PDL == OFF) angles.load_steps(params.steps, pair);
        id = params.ids.load_if(has_work, static_cast<uint64_t>(t) * params.ids.stride);
    }
    angles.multiply(position_in_run(params, id, t));
    angles.sin_cos(params.cos_factor, params.sin_factor);
    if constexpr (PDL == POSITIONS_READY) {
        launch_dependent_grids();
        wait_on_dependent_grids();
        fragment.load(params);
        if (!has_work) return;
    }
    if constexpr (SHARING == WALK) {
        while (fragment.goes_on(params)) fragment.go_on(params, angles);
    }
    fragment.finish(params, angles);
}

}  // namespace rope
