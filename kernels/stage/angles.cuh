// Phase steps to sine and cosine, for the neighbouring pairs of one thread.
#pragma once

#include "../params/positions.cuh"
#include "../phase.cuh"

namespace rope {

template <int PAIRS>
struct Angles {
    uint64_t step[PAIRS];
    float sin[PAIRS], cos[PAIRS];

    ROPE_FN void load_steps(const uint64_t* steps, uint32_t first) {
        // Two at a time where there are two: 16-byte loads.
        if constexpr (PAIRS % 2 == 0) {
            const u64x2* from = reinterpret_cast<const u64x2*>(steps + first);
#pragma unroll
            for (int i = 0; i < PAIRS / 2; ++i) {
                const u64x2 two = ldg(from + i);
                step[2 * i] = two.x;
                step[2 * i + 1] = two.y;
            }
        } else {
#pragma unroll
            for (int i = 0; i < PAIRS; ++i) step[i] = steps[first + i];
        }
    }

    // The same where asked, in one load.
    ROPE_FN void load_steps_if(bool asked, const uint64_t* steps, uint32_t first) {
        Raw<8 * PAIRS> raw = {};
        load_if(asked, raw, reinterpret_cast<const char*>(steps) + 8 * first);
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            step[i] = static_cast<uint64_t>(raw.word[2 * i + 1]) << 32 | raw.word[2 * i];
        }
    }

    // Steps become phases: all pairs at one position.
    ROPE_FN void multiply(uint64_t position) {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) step[i] *= position;
    }

    // The same where each pair turns by one of up to COUNT ids of its token, the first of them at `offset`.
    template <int COUNT>
    ROPE_FN void multiply(const Axes& axes, const Ids& ids, uint64_t offset, uint32_t first) {
        Ids::Halves halves[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) halves[i] = ids.load<true>(offset + axes.offset(i));
        const uint32_t codes = axes.from(first);
        uint64_t along[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) along[i] = ids.value<true>(halves[i]);
        const uint64_t last = along[COUNT - 1];
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const uint32_t code = codes >> 2 * i;
            const uint64_t high = COUNT > 3 && !(code & 1) ? along[2] : last;
            step[i] *= code & 2 ? high : code & 1 ? along[1] : along[0];
        }
    }

    // (x, y) becomes (x cos - y sin, y cos + x sin): a product and an fma each.
    ROPE_FN void rotate(int i, float& x, float& y) const {
        const float x0 = x;
        x = fma_rn(x0, cos[i], -mul_rn(y, sin[i]));
        y = fma_rn(y, cos[i], mul_rn(x0, sin[i]));
    }

    // Phases become sine and cosine.
    ROPE_FN void sin_cos(float cos_factor, float sin_factor) {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const SinCos exact = rope::sin_cos(step[i]);
            sin[i] = mul_rn(exact.sin, sin_factor);
            cos[i] = mul_rn(exact.cos, cos_factor);
        }
    }
};

}  // namespace rope
