// Writes the cos/sin table itself: one thread's work.
//
//   cos[row][channel], sin[row][channel] for rows of consecutive positions from a start
//
// Both channels of a pair hold the same value, in the order the rotation pairs them: half-split is
// FastChat's and HF's cat(freqs, freqs), interleaved is repeat_interleave(freqs, 2).
//
//   block   x: groups of PAIRS pairs    z: rows
//   grid    x: tiles of rows
#pragma once

#include "rotate.cuh"

namespace rope {

// q.dst is cos and k.dst is sin, each [tokens, 1 head]; nothing is read.
template <class Element, bool JOINED, int BYTES>
ROPE_FN void cos_sin_thread(const Request& request, const Thread& at) {
    using Group = Pairs<Element, JOINED, BYTES>;

    const uint32_t pair = at.x * Group::PAIRS;
    const int64_t lane = pair * request.pair_stride;
    Angles<Group::PAIRS> angles;
    angles.load_steps(request.steps, pair);

    for (uint32_t tile = 0; tile < request.tiles_per_block; ++tile) {
        const uint32_t t = (at.block_x * request.tiles_per_block + tile) * at.lanes + at.z;
        if (t >= request.tokens) return;
        angles.turn_to(request.positions.position(t, 0, t), request.cos_factor,
                       request.sin_factor);
        Group cos = {}, sin = {};
        cos.map([&](int j, float& x, float& y) { x = y = angles.cos[j]; });
        sin.map([&](int j, float& x, float& y) { x = y = angles.sin[j]; });
        cos.store(row_of(request.q, 0, t, lane).dst, request.partner);
        sin.store(row_of(request.k, 0, t, lane).dst, request.partner);
    }
}

}  // namespace rope
