// Turns in, sine and cosine out.
//
// A pair's step is its turns per position, as a 64-bit fraction of a turn. `step * position` wraps
// modulo 2^64, which *is* the reduction modulo one turn, so the phase is off by no more than
// |position| * 2^-65 turns. What is left is a quadrant and at most an eighth of a turn either way,
// where two short polynomials in f32 are good to 7e-8 at any position.
#pragma once

#include "arith.cuh"

namespace rope {

struct SinCos {
    float sin, cos;
};

// `phase` in units of 2^-64 turns. Its upper half decides: the lower one is worth 1.5e-9 radians.
ROPE_FN SinCos sin_cos(uint64_t phase) {
    const uint32_t turns = static_cast<uint32_t>(phase >> 32);  // 2^-32 turns
    // Bits 31 and 30 of `nearest` are the quadrant; the other 30 bits of `turns`, read as a signed
    // number, are the distance to it.
    const uint32_t nearest = turns + 0x20000000u;
    const int32_t rest = static_cast<int32_t>(turns << 2);
    const float u = mul_rn(float_of_int(rest), 0x1p-32f);  // quarter turns, in [-1/2, 1/2]

    // Minimax on [-1/2, 1/2] for sin(pi/2 u) and cos(pi/2 u); largest absolute error 4.1e-9 and
    // 4.1e-10 before rounding. Chosen coefficient by coefficient so that each is an f32.
    const float v = mul_rn(u, u);
    float s = fma_rn(v, -0x1.2ef848p-8f, 0x1.4668e6p-4f);
    s = fma_rn(v, s, -0x1.4abbe6p-1f);
    s = fma_rn(u, 0x1.921fb6p+0f, mul_rn(mul_rn(u, v), s));
    float c = fma_rn(v, 0x1.d47d46p-11f, -0x1.55b146p-6f);
    c = fma_rn(v, c, 0x1.03c1aep-2f);
    c = fma_rn(v, c, -0x1.3bd3ccp+0f);
    c = fma_rn(v, c, 1.0f);

    // A quarter turn on: its sign is the cosine's, and differs from that of `nearest` in odd quadrants.
    const uint32_t next = nearest + 0x40000000u;
    const bool odd = static_cast<int32_t>(nearest ^ next) < 0;
    const float sin_abs = odd ? c : s;
    const float cos_abs = odd ? s : c;
    const uint32_t sin_sign = nearest & 0x80000000u;
    const uint32_t cos_sign = next & 0x80000000u;
    return {float_of_bits(bits_of_float(sin_abs) ^ sin_sign),
            float_of_bits(bits_of_float(cos_abs) ^ cos_sign)};
}

}  // namespace rope
