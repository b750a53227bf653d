// What the rotation is measured against: copies in place over the same bytes, nothing at all, and
// candle-nn's way of doing it.
#include <cuda_bf16.h>

#include "../kernels/memory.cuh"
#include "../kernels/pdl.cuh"

// Vectors to move, and what L2 is asked to do with them.
struct Work {
    char* data;
    uint64_t vectors;
    rope::L2Hint load_hint, store_hint;
};

// Memory as it is, and as L2 is asked to keep it: asking costs a few instructions.
template <int BYTES>
struct Plain {
    using Raw = rope::Raw<BYTES>;
    explicit ROPE_FN Plain(const Work&) {}
    ROPE_FN Raw load(const char* address) const { return rope::load<BYTES>(address); }
    ROPE_FN void store(char* address, const Raw& raw) const { rope::store<BYTES>(address, raw); }
};
template <int BYTES>
struct Kept {
    using Raw = rope::Raw<BYTES>;
    const rope::Policy reading, writing;
    explicit ROPE_FN Kept(const Work& work) : reading(work.load_hint), writing(work.store_hint) {}
    ROPE_FN Raw load(const char* address) const { return rope::load<BYTES>(address, reading); }
    ROPE_FN void store(char* address, const Raw& raw) const {
        rope::store<BYTES>(address, raw, writing);
    }
};

// Reads and writes vectors of BYTES, VECTORS a thread and round; the value changes, so that no store can
// be left out. `place` says where vector i lies, in vectors from the data's start.
template <template <int> class Memory, int BYTES, int VECTORS, int ROUNDS, bool READS, class Place>
ROPE_FN void copy(uint32_t block, const Work& work, Place place) {
    const Memory<BYTES> memory(work);
    const uint64_t tile = static_cast<uint64_t>(blockDim.x) * VECTORS;
    uint64_t first = block * tile * ROUNDS + threadIdx.x;
#pragma unroll 1
    for (int round = 0; round < ROUNDS; ++round, first += tile) {
        rope::Raw<BYTES> value[VECTORS] = {};
        char* address[VECTORS];
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const uint64_t at = first + static_cast<uint64_t>(i) * blockDim.x;
            address[i] = at < work.vectors ? work.data + place(at) * BYTES : nullptr;
            if (READS && address[i] != nullptr) value[i] = memory.load(address[i]);
        }
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            value[i].word[0] ^= 1;
            if (address[i] != nullptr) memory.store(address[i], value[i]);
        }
    }
}

#define BOUNDED extern "C" __global__ void __launch_bounds__(1024)

// One run of memory, read and written; or written only.
#define RUN(name, Memory, VECTORS, ROUNDS, READS)                           \
    BOUNDED name##_##VECTORS(const Work work) {                             \
        const auto place = [](uint64_t i) { return i; };                    \
        copy<Memory, 16, VECTORS, ROUNDS, READS>(blockIdx.x, work, place);  \
    }
// Runs of `row` vectors, `pitch` vectors from one to the next: 8-byte vectors, as a row may need.
#define ROWS(name, Memory, VECTORS)                                             \
    BOUNDED name##_##VECTORS(const Work work, uint32_t row, uint32_t pitch) {   \
        copy<Memory, 8, VECTORS, 1, true>(blockIdx.x, work, [&](uint64_t i) {   \
            const uint32_t at = static_cast<uint32_t>(i);                       \
            return static_cast<uint64_t>(at / row) * pitch + at % row;          \
        });                                                                     \
    }
// Blocks that walk over several tiles may all fit at once, and then meet in each replay what they left
// in their half of L2.
#define FAMILIES(VECTORS)                   \
    RUN(copy, Plain, VECTORS, 1, true)      \
    RUN(copy_kept, Kept, VECTORS, 1, true)  \
    RUN(walk, Plain, VECTORS, 4, true)      \
    RUN(walk_kept, Kept, VECTORS, 4, true)  \
    RUN(fill, Plain, VECTORS, 1, false)     \
    RUN(fill_kept, Kept, VECTORS, 1, false) \
    ROWS(rows, Plain, VECTORS)              \
    ROWS(rows_kept, Kept, VECTORS)
FAMILIES(1)
FAMILIES(2)
FAMILIES(4)
FAMILIES(8)

// Its blocks meet other tokens than the blocks of the kernel after it, as a projection's would; that one
// may start early.
BOUNDED write_backwards(const Work work) {
    const auto place = [](uint64_t i) { return i; };
    rope::launch_dependent_grids();
    copy<Plain, 16, 4, 1, true>(gridDim.x - 1 - blockIdx.x, work, place);
}
// And one that does not let it.
BOUNDED write_backwards_closed(const Work work) {
    const auto place = [](uint64_t i) { return i; };
    copy<Plain, 16, 4, 1, true>(gridDim.x - 1 - blockIdx.x, work, place);
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

// The cut of vLLM's `rotary_embedding`: a block a token, a thread a pair of one head after another, ids of i64, a row of
// cosines and sines in the tensor's type a position, products in that type.
extern "C" __global__ void vllm_rope(const int64_t* ids, __nv_bfloat16* q, __nv_bfloat16* k,
                                     const __nv_bfloat16* table, uint32_t dim, uint32_t q_heads,
                                     uint32_t k_heads) {
    const uint32_t pairs = dim / 2;
    const __nv_bfloat16* cos = table + ids[blockIdx.x] * dim;
    const __nv_bfloat16* sin = cos + pairs;
    const auto rotate = [&](__nv_bfloat16* row, uint32_t heads) {
        for (uint32_t i = threadIdx.x; i < heads * pairs; i += blockDim.x) {
            const uint32_t pair = i % pairs;
            __nv_bfloat16* x = row + i / pairs * dim + pair;
            const __nv_bfloat16 c = __ldg(cos + pair), s = __ldg(sin + pair), a = x[0], b = x[pairs];
            x[0] = __hsub(__hmul(a, c), __hmul(b, s));
            x[pairs] = __hadd(__hmul(b, c), __hmul(a, s));
        }
    };
    rotate(q + uint64_t(blockIdx.x) * q_heads * dim, q_heads);
    rotate(k + uint64_t(blockIdx.x) * k_heads * dim, k_heads);
}
