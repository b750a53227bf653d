// One spelling of the arithmetic for the GPU and for the host.
//
// Everything in kernels/ compiles with nvcc for the device and with any C++17 compiler for the host, and
// gives the same bits on both: integers, fma, products, sums, quotients, roots and conversions, each rounded once as IEEE 754 says.
// The host must not contract `a * b + c` (-ffp-contract=off).
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define ROPE_FN __device__ __forceinline__
#else
#include <math.h>
#include <string.h>
#define ROPE_FN inline
#endif

namespace rope {

// The compute capability that is compiled for, 900 where it is 9.0; 0 on the host.
#ifdef __CUDA_ARCH__
constexpr int ARCH = __CUDA_ARCH__;
#else
constexpr int ARCH = 0;
#endif

#ifdef __CUDACC__

ROPE_FN float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ROPE_FN float mul_rn(float a, float b) { return __fmul_rn(a, b); }
ROPE_FN float add_rn(float a, float b) { return __fadd_rn(a, b); }
ROPE_FN float rcp_rn(float a) { return __frcp_rn(a); }
ROPE_FN float float_of_int(int32_t i) { return __int2float_rn(i); }
ROPE_FN float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
ROPE_FN uint32_t bits_of_float(float f) { return __float_as_uint(f); }
ROPE_FN uint32_t umulhi(uint32_t a, uint32_t b) { return __umulhi(a, b); }

// PTX `prmt`: nibble i of `selector` picks byte i of the result, 0 to 3 from `word` and 4 to 7 zero; with
// its upper bit set, the sign of that byte eight times. (`__byte_perm` drops that bit.)
ROPE_FN uint32_t permute_bytes(uint32_t word, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(bytes) : "r"(word), "r"(selector));
    return bytes;
}

// The same number, by which the compiler knows nothing of it: what was worked out from it before is worked out again, and
// takes no registers meanwhile.
ROPE_FN uint32_t opaque(uint32_t n) {
    asm volatile("" : "+r"(n));
    return n;
}

using u64x2 = ulonglong2;
// Memory that nothing writes while the kernel runs: through the read-only path.
ROPE_FN u64x2 ldg(const u64x2* address) { return __ldg(address); }

#else

ROPE_FN float fma_rn(float a, float b, float c) { return fmaf(a, b, c); }
ROPE_FN float mul_rn(float a, float b) { return a * b; }
ROPE_FN float add_rn(float a, float b) { return a + b; }
ROPE_FN float rcp_rn(float a) { return 1.0f / a; }
ROPE_FN float float_of_int(int32_t i) { return static_cast<float>(i); }
ROPE_FN float float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
ROPE_FN uint32_t bits_of_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}
ROPE_FN uint32_t umulhi(uint32_t a, uint32_t b) {
    return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}
ROPE_FN uint32_t permute_bytes(uint32_t word, uint32_t selector) {
    uint32_t bytes = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t nibble = selector >> 4 * i & 15;
        const uint32_t picked = nibble & 4 ? 0 : word >> 8 * (nibble & 3) & 0xff;
        const uint32_t byte = nibble & 8 ? (picked & 0x80 ? 0xff : 0) : picked;
        bytes |= byte << 8 * i;
    }
    return bytes;
}
ROPE_FN uint32_t opaque(uint32_t n) { return n; }

struct alignas(16) u64x2 {
    uint64_t x, y;
};
ROPE_FN u64x2 ldg(const u64x2* address) { return *address; }

#endif

// Division of n < 2^31 by a divisor that the host knows: one multiplication.
struct Divisor {
    uint32_t value;       // the divisor, at least 1
    uint32_t multiplier;  // ceil(2^(31 + shift) / value)
    uint32_t shift;       // ceil(log2(value))

    ROPE_FN uint32_t divide(uint32_t n) const { return umulhi(2 * n, multiplier) >> shift; }
};

}  // namespace rope
