// What the rotation is measured against: copies in place over the same bytes, nothing at all, and
// candle-nn's way of doing it.
#include <cuda_bf16.h>
#include <stdint.h>

// Reads and writes vectors, VECTORS a thread and round; the value changes, so that no store can be left
// out. `place` says where vector i lies.
template <class Vector, int VECTORS, int ROUNDS, bool READS, class Place>
__device__ __forceinline__ void copy(uint32_t block, uint64_t vectors, Place place) {
    const uint64_t tile = static_cast<uint64_t>(blockDim.x) * VECTORS;
    uint64_t first = block * tile * ROUNDS + threadIdx.x;
#pragma unroll 1
    for (int round = 0; round < ROUNDS; ++round, first += tile) {
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
}

#define BOUNDED extern "C" __global__ void __launch_bounds__(1024)

// One run of memory, read and written; or written only.
#define RUN(name, VECTORS, ROUNDS, READS)                          \
    BOUNDED name##_##VECTORS(uint4* data, uint64_t n) {            \
        const auto place = [&](uint64_t i) { return data + i; };   \
        copy<uint4, VECTORS, ROUNDS, READS>(blockIdx.x, n, place); \
    }
// Runs of `row` vectors, `pitch` vectors from one to the next: 8-byte vectors, as a row may need.
#define ROWS(VECTORS)                                                               \
    BOUNDED rows_##VECTORS(uint2* data, uint64_t n, uint32_t row, uint32_t pitch) { \
        copy<uint2, VECTORS, 1, true>(blockIdx.x, n, [&](uint64_t i) {              \
            const uint32_t at = static_cast<uint32_t>(i);                           \
            return data + (static_cast<uint64_t>(at / row) * pitch + at % row);     \
        });                                                                         \
    }
// Blocks that walk over several tiles may all fit at once, and then meet in each replay what they left
// in their half of L2.
#define FAMILIES(VECTORS)        \
    RUN(copy, VECTORS, 1, true)  \
    RUN(walk, VECTORS, 4, true)  \
    RUN(fill, VECTORS, 1, false) \
    ROWS(VECTORS)
FAMILIES(1)
FAMILIES(2)
FAMILIES(4)
FAMILIES(8)

// Its blocks meet other tokens than the blocks of the kernel after it, as a projection's would; that one
// may start early.
BOUNDED write_backwards(uint4* data, uint64_t n) {
    asm volatile("griddepcontrol.launch_dependents;");
    copy<uint4, 4, 1, true>(gridDim.x - 1 - blockIdx.x, n, [&](uint64_t i) { return data + i; });
}

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
