// RMSNorm of a head: x / sqrt(mean(x^2) + eps), times a weight a channel.
//
// The sum has one order, whatever the cut: a complete binary tree over the head's pairs, neighbours first, absent
// pairs zero. A sum of two does not depend on which is first, so every lane of a row ends up with the same bits, and
// so does the CPU.
#pragma once

#include "arith.cuh"

namespace rope {

ROPE_FN float pair_square(float x, float y) { return fma_rn(y, y, mul_rn(x, x)); }

// The reciprocal of the root of m, a number from 2^-101 on, infinity or NaN; both rounded once.
//
// The toolkit's own code for the two, without the branches to what smaller numbers need: the same bits for every float from
// 2^-101 on (all of them compared on an H100), and half of the kernel's length.
ROPE_FN float rcp_sqrt_rn(float m) {
#ifdef __CUDACC__
    float y, z;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(m));
    float root = __fmul_rn(m, y);
    root = __fmaf_rn(__fmaf_rn(-root, root, m), __fmul_rn(y, 0.5f), root);
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(z) : "f"(root));
    const float reciprocal = __fmaf_rn(z, -__fmaf_rn(z, root, -1.0f), z);
    return bits_of_float(m) == 0x7f800000u ? 0.0f : reciprocal;
#else
    return 1.0f / sqrtf(m);
#endif
}

// 1 / sqrt(mean + eps), two roundings to the mean and two to its root: off by no more than 8.9e-8. A sum that overflows
// makes it zero, as PyTorch's does.
ROPE_FN float inverse_rms(float sum, float inverse_dim, float eps) {
    return rcp_sqrt_rn(add_rn(mul_rn(sum, inverse_dim), eps));
}

#ifdef __CUDACC__

// Each of COUNT sums, over the lanes of a row whose number is a power of two, 32 at most.
template <int COUNT>
ROPE_FN void warp_sums(float* sums, uint32_t lanes) {
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const float other = __shfl_xor_sync(~0u, sums[i], step);
            if (step < lanes) sums[i] = add_rn(sums[i], other);
        }
    }
}

// The same over `width` threads, several warps where it is more than 32. All threads of the block, which is of whole
// warps, call it; `shared` holds COUNT floats a warp.
template <int COUNT>
ROPE_FN void row_sums(float* sums, uint32_t width, uint32_t thread, float* shared) {
    warp_sums<COUNT>(sums, width);
    if (width <= 32) return;
    const uint32_t warp = thread / 32, lane = thread % 32, warps = width / 32;
    if (lane == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) shared[warp * COUNT + i] = sums[i];
    }
    __syncthreads();
    // Lane i takes the sum of the row's warp i, over and over again.
    const uint32_t of = (warp & ~(warps - 1)) + (lane & (warps - 1));
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sums[i] = shared[of * COUNT + i];
    warp_sums<COUNT>(sums, warps);
}

#endif

}  // namespace rope
