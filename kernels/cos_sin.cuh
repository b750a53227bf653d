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

// The first tensor is cos and the second sin, each [tokens, 1 head]; nothing is read.
template <class Element, bool JOINED, int BYTES>
ROPE_FN void cos_sin_thread(const Request& request, const Thread& at) {
    using Group = Pairs<Element, JOINED, BYTES>;

    const uint32_t t = at.block_x * request.lanes + at.z;
    if (t >= request.tokens) return;
    const uint32_t pair = at.x * Group::PAIRS;
    Angles<Group::PAIRS> angles;
    angles.load_steps(request.steps, pair);
    angles.move_to(request.positions.position(request.starts, t, 0, t));
    angles.turn(request.cos_factor, request.sin_factor);

    const uint32_t lane = pair * request.pair_stride;
    const auto put = [&](const Rows& table, const float (&values)[Group::PAIRS]) {
        Group group = {};
        group.map([&](int j, float& x, float& y) { x = y = values[j]; });
        group.store(table.first + (t * table.token + lane), request.partner);
    };
    put(request.dst[0], angles.cos);
    put(request.dst[1], angles.sin);
}

}  // namespace rope
