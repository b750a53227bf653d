// The 8-bit floats of caches, from f32: to nearest even, saturating. What is beyond the largest number, infinity
// too, becomes that number; a NaN becomes 0x7f.
//
// From compute capability 8.9 on there is an instruction for two at once. Machine code for 8.9 is made of older
// PTX, so it is used from 9.0 on; elsewhere, and on the host, integers give the same bits.
#pragma once

#include "memory.cuh"

namespace rope {

// SHIFT: bits of f32's mantissa that go. BIAS: what f32's exponent exceeds the format's by. OVER: bits of the
// f32 from which on a number is as good as infinite. LARGEST: the format's largest number.
template <uint32_t SHIFT, uint32_t BIAS, uint32_t OVER, uint32_t LARGEST>
struct Fp8Format {
    static ROPE_FN uint32_t to_bits(float f) {
        constexpr uint32_t SMALLEST_NORMAL = (BIAS + 1) << 23;
        // A float whose last bit is worth the format's smallest number: adding it rounds there.
        constexpr uint32_t UNITS = (BIAS + 1 + SHIFT) << 23;
        const uint32_t sign = bits_of_float(f) >> 24 & 0x80;
        const uint32_t magnitude = bits_of_float(f) & 0x7fffffff;
        const uint32_t odd = magnitude >> SHIFT & 1;
        const uint32_t normal = (magnitude - (BIAS << 23) + ((1u << (SHIFT - 1)) - 1) + odd) >> SHIFT;
        const uint32_t subnormal =
            bits_of_float(add_rn(float_of_bits(magnitude), float_of_bits(UNITS))) - UNITS;
        uint32_t bits = magnitude < SMALLEST_NORMAL ? subnormal : normal;
        bits = sign | (magnitude >= OVER ? LARGEST : bits);
        return magnitude > 0x7f800000 ? 0x7f : bits;
    }
};

struct E4M3 : Fp8Format<20, 120, 0x43e80000, 0x7e> {  // 464, 448
    static ROPE_FN uint32_t pack(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        uint16_t pair;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
        return pair;
#else
        return to_bits(low) | to_bits(high) << 8;
#endif
    }
};

struct E5M2 : Fp8Format<21, 112, 0x47700000, 0x7b> {  // 61440, 57344
    static ROPE_FN uint32_t pack(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        uint16_t pair;
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
        return pair;
#else
        return to_bits(low) | to_bits(high) << 8;
#endif
    }
};

// Floats as a vector of one of these.
template <class Format, int COUNT>
ROPE_FN Raw<COUNT> pack_fp8(const float (&f)[COUNT]) {
    Raw<COUNT> raw;
    if constexpr (COUNT == 1) {
        raw.word[0] = static_cast<uint8_t>(Format::pack(f[0], 0.0f));
    } else if constexpr (COUNT == 2) {
        raw.word[0] = static_cast<uint16_t>(Format::pack(f[0], f[1]));
    } else {
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            raw.word[i] = Format::pack(f[4 * i], f[4 * i + 1]) |
                          Format::pack(f[4 * i + 2], f[4 * i + 3]) << 16;
        }
    }
    return raw;
}

}  // namespace rope
