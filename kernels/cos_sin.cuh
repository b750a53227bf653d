// Writes the cos/sin table: one thread's work.
//
//   cos[row][channel], sin[row][channel] for rows of consecutive positions from a start
//
// Both channels of a pair hold the same value, in the order the rotation pairs them: half-split is
// FastChat's and HF's cat(freqs, freqs), interleaved is repeat_interleave(freqs, 2).
//
//   block   x: groups of PAIRS pairs    z: rows
//   grid    x: tiles of rows
#pragma once

#include "params/cos_sin.cuh"
#include "pdl.cuh"
#include "stage/angles.cuh"
#include "vec.cuh"

namespace rope {

template <class Element, bool JOINED, int BYTES>
ROPE_FN void cos_sin_thread(const CosSinParams& params, const Thread& at) {
    using Group = Pairs<Element, JOINED, BYTES>;

    const uint32_t row = at.tile * params.rows_per_block + at.z;
    if (row >= params.rows) return;
    const uint32_t pair = at.x * Group::PAIRS;
    Angles<Group::PAIRS> angles;
    angles.load_steps(params.steps, pair);
    angles.multiply(static_cast<uint64_t>(params.start) + row);
    angles.sin_cos(params.cos_factor, params.sin_factor);

    const uint64_t offset = row * params.row_stride + pair * params.pair_stride;
    const auto put = [&](char* table, const float (&values)[Group::PAIRS]) {
        Group group = {};
        group.map([&](int j, float& x, float& y) { x = y = values[j]; });
        group.store(table + offset, params.partner);
    };
    put(params.cos, angles.cos);
    put(params.sin, angles.sin);
}

}  // namespace rope
