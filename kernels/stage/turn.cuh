// From a token to sine and cosine of a thread's pairs there.
#pragma once

#include "angles.cuh"
#include "fragment.cuh"

namespace rope {

// By a launch's Params. GENERAL: as the rotation's.
template <bool GENERAL, class Params, int PAIRS>
ROPE_FN void turn(const Params& params, const TokenCoord& coord, uint32_t pair, float cos_factor,
                  float sin_factor, Angles<PAIRS>& angles) {
    if constexpr (GENERAL) {
        const uint64_t* steps = params.steps;
        if (params.sets.ids.first != nullptr) {
            const uint32_t sequence = params.positions.sequence(coord.t, coord.b);
            steps += static_cast<uint64_t>(params.sets.set(sequence)) * params.sets.stride;
            const uint64_t last = steps[params.sets.stride - 1];
            const float factor = float_of_bits(static_cast<uint32_t>(last));
            cos_factor = mul_rn(cos_factor, factor);
            sin_factor = mul_rn(sin_factor, factor);
        }
        angles.load_steps(steps, pair);
    }
    if (GENERAL && params.axes.count != 0) {
        const Ids& ids = params.positions.ids;
        const uint64_t offset = params.positions.offset(coord.b, coord.s);
        // A fourth id costs a load and a choice a pair: three axes do not pay for it.
        if (__builtin_expect(params.axes.count == Axes::MAX, 0)) {
            angles.template multiply<Axes::MAX>(params.axes, ids, offset, pair);
        } else {
            angles.template multiply<Axes::MAX - 1>(params.axes, ids, offset, pair);
        }
    } else {
        angles.multiply(
            params.positions.template position<GENERAL>(params.starts, coord.t, coord.b, coord.s));
    }
    angles.sin_cos(cos_factor, sin_factor);
}

}  // namespace rope
