// Element types, and vectors of them as they lie in memory.
//
// Arithmetic is f32 whatever the storage. A NaN that is stored is the canonical one of its type, as
// the GPU's own conversions and arithmetic make it.
#pragma once

#include "memory.cuh"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace rope {

struct F32 {
    static constexpr int BYTES = 4;
    static ROPE_FN float from_bits(uint32_t bits) { return float_of_bits(bits); }
    static ROPE_FN uint32_t to_bits(float f) {
#ifdef __CUDACC__
        return bits_of_float(f);
#else
        return f != f ? 0x7fffffffu : bits_of_float(f);
#endif
    }
};

struct F16 {
    static constexpr int BYTES = 2;
    static ROPE_FN float from_bits(uint32_t bits) {
#ifdef __CUDACC__
        return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
#else
        const uint32_t sign = (bits & 0x8000u) << 16;
        const uint32_t magnitude = (bits & 0x7fffu) << 13;
        // 2^112 moves the exponent's bias from 15 to 127, subnormals included.
        const float scaled = float_of_bits(magnitude) * 0x1p112f;
        const bool special = (bits & 0x7c00u) == 0x7c00u;
        return float_of_bits(sign | (special ? magnitude | 0x7f800000u : bits_of_float(scaled)));
#endif
    }
    static ROPE_FN uint32_t to_bits(float f) {
#ifdef __CUDACC__
        return __half_as_ushort(__float2half_rn(f));
#else
        if (f != f) return 0x7fffu;
        const uint32_t sign = (bits_of_float(f) >> 16) & 0x8000u;
        const uint32_t magnitude = bits_of_float(f) & 0x7fffffffu;
        if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
        if (magnitude < 0x38800000u) {                         // below 2^-14: units of 2^-24
            const float shifted = float_of_bits(magnitude) + 0.5f;
            return sign | (bits_of_float(shifted) - 0x3f000000u);
        }
        const uint32_t odd = (magnitude >> 13) & 1;
        return sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13);
#endif
    }
    static ROPE_FN uint32_t pack(float low, float high) {
#ifdef __CUDACC__
        const __half2 pair = __floats2half2_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&pair);
#else
        return to_bits(low) | to_bits(high) << 16;
#endif
    }
    static ROPE_FN float low(uint32_t word) { return from_bits(word & 0xffffu); }
    static ROPE_FN float high(uint32_t word) { return from_bits(word >> 16); }
};

struct BF16 {
    static constexpr int BYTES = 2;
    static ROPE_FN float from_bits(uint32_t bits) { return float_of_bits(bits << 16); }
    static ROPE_FN uint32_t to_bits(float f) {
#ifdef __CUDACC__
        return __bfloat16_as_ushort(__float2bfloat16_rn(f));
#else
        if (f != f) return 0x7fffu;
        const uint32_t bits = bits_of_float(f);
        return (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
#endif
    }
    static ROPE_FN uint32_t pack(float low, float high) {
#ifdef __CUDACC__
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&pair);
#else
        return to_bits(low) | to_bits(high) << 16;
#endif
    }
    static ROPE_FN float low(uint32_t word) { return float_of_bits(word << 16); }
    static ROPE_FN float high(uint32_t word) { return float_of_bits(word & 0xffff0000u); }
};

// The elements of a Raw as floats, and back.
template <class T, int BYTES>
ROPE_FN void unpack(const Raw<BYTES>& raw, float (&f)[BYTES / T::BYTES]) {
    if constexpr (BYTES == T::BYTES || T::BYTES == 4) {
#pragma unroll
        for (int i = 0; i < BYTES / T::BYTES; ++i) f[i] = T::from_bits(raw.word[i]);
    } else {
#pragma unroll
        for (int i = 0; i < BYTES / 4; ++i) {
            f[2 * i] = T::low(raw.word[i]);
            f[2 * i + 1] = T::high(raw.word[i]);
        }
    }
}
template <class T, int BYTES>
ROPE_FN Raw<BYTES> pack(const float (&f)[BYTES / T::BYTES]) {
    Raw<BYTES> raw;
    if constexpr (BYTES == T::BYTES || T::BYTES == 4) {
#pragma unroll
        for (int i = 0; i < BYTES / T::BYTES; ++i) {
            raw.word[i] = static_cast<decltype(raw.word[0] + 0u)>(T::to_bits(f[i]));
        }
    } else {
#pragma unroll
        for (int i = 0; i < BYTES / 4; ++i) raw.word[i] = T::pack(f[2 * i], f[2 * i + 1]);
    }
    return raw;
}

// PAIRS channel pairs of one head: the part of a row that one thread owns.
//
// Joined: the two channels of a pair are neighbours, and one vector holds whole pairs.
// Split: first channels in one vector, second channels in another, `partner` bytes further on. That
// is the half-split order; with vectors of one element it also serves interleaved pairs that are
// not aligned to a pair.
template <class Element, bool JOINED, int BYTES>
struct Pairs {
    static constexpr int PAIRS = BYTES / Element::BYTES / (JOINED ? 2 : 1);
    static constexpr int VECTORS = JOINED ? 1 : 2;
    static_assert(PAIRS >= 1, "a joined vector holds at least one pair");

    Raw<BYTES> raw[VECTORS];

    // By a Policy, or by none.
    template <class... Policy>
    ROPE_FN void load(const char* address, uint32_t partner, Policy... policy) {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            raw[i] = rope::load<BYTES>(address + i * partner, policy...);
        }
    }
    template <class Policy>
    ROPE_FN void load_if(bool asked, const char* address, uint32_t partner, Policy policy) {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            rope::load_if<BYTES>(asked, raw[i], address + i * partner, policy);
        }
    }
    template <class... Policy>
    ROPE_FN void store(char* address, uint32_t partner, Policy... policy) const {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            rope::store<BYTES>(address + i * partner, raw[i], policy...);
        }
    }

    // f(pair index, x, y) of every pair.
    template <class F>
    ROPE_FN void each(F f) const {
        Pairs copy = *this;
        copy.map(f);
    }

    // The pair (x, y) becomes f(pair index, x, y), in place.
    template <class F>
    ROPE_FN void map(F f) {
        constexpr int N = BYTES / Element::BYTES;
        float a[VECTORS][N];
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) unpack<Element, BYTES>(raw[i], a[i]);
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            if constexpr (JOINED) {
                f(i, a[0][2 * i], a[0][2 * i + 1]);
            } else {
                f(i, a[0][i], a[1][i]);
            }
        }
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) raw[i] = pack<Element, BYTES>(a[i]);
    }
};

}  // namespace rope
