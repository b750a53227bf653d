// The 8-bit floats of caches, from f32: to nearest even, saturating. What is beyond the largest number, infinity
// too, becomes that number; a NaN becomes 0x7f.
//
// From compute capability 8.9 on there is an instruction for two at once. Machine code for 8.9 is made of older
// PTX, so it is used from 9.0 on; elsewhere, and on the host, integers give the same bits.
#pragma once

#include "memory.cuh"

namespace rope {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

#define ROPE_FP8(Format, instruction)                                                      \
    struct Format {                                                                        \
        ROPE_FN uint32_t pack(float low, float high) const {                               \
            uint16_t pair;                                                                 \
            asm(instruction " %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));            \
            return pair;                                                                   \
        }                                                                                  \
    };
ROPE_FP8(E4M3, "cvt.rn.satfinite.e4m3x2.f32")
ROPE_FP8(E5M2, "cvt.rn.satfinite.e5m2x2.f32")
#undef ROPE_FP8

// `convert` with the format, each in code of its own.
template <class Convert>
ROPE_FN void with_fp8(bool is_e4m3, Convert convert) {
    if (is_e4m3) {
        convert(E4M3());
    } else {
        convert(E5M2());
    }
}

#else

struct Fp8 {
    uint32_t shift;    // bits of f32's mantissa that go
    uint32_t bias;     // what f32's exponent exceeds the format's by
    uint32_t over;     // bits of the f32 from which on a number is as good as infinite
    uint32_t largest;  // the format's largest number

    ROPE_FN uint32_t to_bits(float f) const {
        const uint32_t smallest_normal = (bias + 1) << 23;
        // A float whose last bit is worth the format's smallest number: adding it rounds there.
        const uint32_t units = (bias + 1 + shift) << 23;
        const uint32_t sign = bits_of_float(f) >> 24 & 0x80;
        const uint32_t magnitude = bits_of_float(f) & 0x7fffffff;
        const uint32_t odd = magnitude >> shift & 1;
        const uint32_t normal = (magnitude - (bias << 23) + ((1u << (shift - 1)) - 1) + odd) >> shift;
        const uint32_t subnormal =
            bits_of_float(add_rn(float_of_bits(magnitude), float_of_bits(units))) - units;
        uint32_t bits = magnitude < smallest_normal ? subnormal : normal;
        bits = sign | (magnitude >= over ? largest : bits);
        return magnitude > 0x7f800000 ? 0x7f : bits;
    }
    ROPE_FN uint32_t pack(float low, float high) const {
        return to_bits(low) | to_bits(high) << 8;
    }
};

// `convert` with the format, in the same code: a conversion is some fifteen instructions.
template <class Convert>
ROPE_FN void with_fp8(bool is_e4m3, Convert convert) {
    convert(is_e4m3 ? Fp8{20, 120, 0x43e80000, 0x7e}    // 464, 448
                    : Fp8{21, 112, 0x47700000, 0x7b});  // 61440, 57344
}

#endif

// Floats as a vector of one of these.
template <int COUNT, class Format>
ROPE_FN Raw<COUNT> pack_fp8(const Format& format, const float (&f)[COUNT]) {
    Raw<COUNT> raw;
    if constexpr (COUNT == 1) {
        raw.word[0] = static_cast<uint8_t>(format.pack(f[0], 0.0f));
    } else if constexpr (COUNT == 2) {
        raw.word[0] = static_cast<uint16_t>(format.pack(f[0], f[1]));
    } else {
#pragma unroll
        for (int i = 0; i < COUNT / 4; ++i) {
            raw.word[i] = format.pack(f[4 * i], f[4 * i + 1]) |
                          format.pack(f[4 * i + 2], f[4 * i + 3]) << 16;
        }
    }
    return raw;
}

}  // namespace rope
