// What the rotation is measured against: copies in place over the same bytes, nothing at all, and
// candle-nn's way of doing it.
#include <cuda_bf16.h>
#include <stdint.h>

// Reads and writes vectors, VECTORS a thread; the value changes, so that no store can be left out.
// `place` says where vector i lies.
template <class Vector, int VECTORS, bool READS, class Place>
__device__ __forceinline__ void copy(uint64_t vectors, Place place) {
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * blockDim.x * VECTORS + threadIdx.x;
    Vector value[VECTORS] = {};
    Vector* address[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint64_t at = first + static_cast<uint64_t>(i) * blockDim.x;
        address[i] = at < vectors ? place(at) : nullptr;
        if (READS && address[i] != nullptr) value[i] = *address[i];
    }
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        value[i].x ^= 1;
        if (address[i] != nullptr) *address[i] = value[i];
    }
}

#define BOUNDED extern "C" __global__ void __launch_bounds__(1024)

// One run of memory, read and written; or written only.
#define RUN(VECTORS)                                                                           \
    BOUNDED copy_##VECTORS(uint4* data, uint64_t n) {                                          \
        copy<uint4, VECTORS, true>(n, [&](uint64_t i) { return data + i; });                   \
    }                                                                                          \
    BOUNDED fill_##VECTORS(uint4* data, uint64_t n) {                                          \
        copy<uint4, VECTORS, false>(n, [&](uint64_t i) { return data + i; });                  \
    }
RUN(1)
RUN(2)
RUN(4)
RUN(8)

// Runs of `row` vectors, `pitch` vectors from one to the next: 8-byte vectors, as a row may need.
#define ROWS(VECTORS)                                                                          \
    BOUNDED rows_##VECTORS(uint2* data, uint64_t n, uint32_t row, uint32_t pitch) {            \
        copy<uint2, VECTORS, true>(n, [&](uint64_t i) {                                        \
            const uint32_t at = static_cast<uint32_t>(i);                                      \
            return data + (static_cast<uint64_t>(at / row) * pitch + at % row);                \
        });                                                                                    \
    }
ROWS(1)
ROWS(2)
ROWS(4)
ROWS(8)

extern "C" __global__ void empty() {}

// candle-nn 0.11's `rope`: one tensor a launch, [batch, heads, seq, dim] contiguous, cos and sin
// given as tables of [seq, dim / 2] in the tensor's type, products in that type.
extern "C" __global__ void candle_rope(const __nv_bfloat16* src, const __nv_bfloat16* cos,
                                       const __nv_bfloat16* sin, __nv_bfloat16* dst, uint32_t bh,
                                       uint32_t td, uint32_t d) {
    const uint32_t idx = blockIdx.x * blockDim.x + threadIdx.x;
    if (2 * idx >= bh * td) return;
    const uint32_t i_bh = idx / (td / 2);
    const uint32_t i_td = idx - (td / 2) * i_bh;
    const uint32_t i_t = i_td / (d / 2);
    const uint32_t i_d = i_td - (d / 2) * i_t;
    const uint32_t i1 = i_bh * td + i_t * d + i_d;
    const uint32_t i2 = i1 + d / 2;
    const __nv_bfloat16 c = cos[i_td], s = sin[i_td];
    dst[i1] = __hsub(__hmul(src[i1], c), __hmul(src[i2], s));
    dst[i2] = __hadd(__hmul(src[i1], s), __hmul(src[i2], c));
}
