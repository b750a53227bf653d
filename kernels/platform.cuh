// One spelling of the arithmetic for the GPU and for the host.
//
// Everything in kernels/*.cuh compiles with nvcc for the device and with any C++17 compiler for the
// host, and gives the same bits on both: integers, fma, mul and conversions, each of them rounded
// once as IEEE 754 says. The host must not contract `a * b + c` (-ffp-contract=off).
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

#ifdef __CUDACC__

ROPE_FN float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ROPE_FN float mul_rn(float a, float b) { return __fmul_rn(a, b); }
ROPE_FN float float_of_int(int32_t i) { return __int2float_rn(i); }
ROPE_FN float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
ROPE_FN uint32_t bits_of_float(float f) { return __float_as_uint(f); }
ROPE_FN uint32_t mul_high(uint32_t a, uint32_t b) { return __umulhi(a, b); }

using StepPair = ulonglong2;
// Memory that nothing writes while the kernel runs: through the read-only path.
ROPE_FN StepPair load_steady(const StepPair* address) { return __ldg(address); }

#else

struct alignas(16) StepPair {
    uint64_t x, y;
};
ROPE_FN StepPair load_steady(const StepPair* address) { return *address; }

ROPE_FN float fma_rn(float a, float b, float c) { return fmaf(a, b, c); }
ROPE_FN float mul_rn(float a, float b) { return a * b; }
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
ROPE_FN uint32_t mul_high(uint32_t a, uint32_t b) {
    return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

#endif

// Programmatic dependent launch (sm_90): `wait_for_upstream` returns when the kernels before this one
// have finished and their writes can be seen; `let_downstream_launch` lets the kernel after this one
// start, to wait in its turn. Both do nothing in a launch without the attribute.
ROPE_FN void wait_for_upstream() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
ROPE_FN void let_downstream_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Where a thread stands in its launch. `x`, `y`, `z` count threads in the block.
struct Thread {
    uint32_t block_x, block_y;
    uint32_t x, y, z;
    uint32_t width;  // the block's extent in x
};

#ifdef __CUDACC__
ROPE_FN Thread this_thread() {
    return {blockIdx.x, blockIdx.y, threadIdx.x, threadIdx.y, threadIdx.z, blockDim.x};
}
#endif

// Division of n < 2^31 by a divisor that the host knows: one multiplication.
struct Divisor {
    uint32_t value;       // the divisor, at least 1
    uint32_t multiplier;  // ceil(2^(31 + shift) / value)
    uint32_t shift;       // ceil(log2(value))

    ROPE_FN uint32_t divide(uint32_t n) const { return mul_high(2 * n, multiplier) >> shift; }
};

}  // namespace rope
