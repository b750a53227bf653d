// What norm, rotation and append are measured against, for bf16 and half-split pairs: a copy of the same bytes; norms and an
// append as launches of their own; and one launch that gives each head a warp, as vLLM's and TensorRT-LLM's do.
#include <cuda_bf16.h>

#include "../kernels/fp8.cuh"
#include "../kernels/memory.cuh"
#include "../kernels/pdl.cuh"

// Rows of q, k and v of a token, end to end, and caches of k and of v whose slots' heads are end to end.
struct Work {
    char* rows;
    uint32_t row;                  // bytes of a token
    uint32_t q, k, v;              // bytes of its q, k and v
    char* caches[2];
    uint32_t slot;                 // bytes from one slot to the next
    uint32_t dim, v_dim;           // channels of a head
    uint32_t tokens;
    const int64_t* slots;
    const int64_t* positions;
    const float* table;            // [positions, dim]: cos, then sin
    const __nv_bfloat16* weights[2];
    rope::L2Hint load_hint, store_hint;
};

using Vector = rope::Raw<16>;
using Half = rope::Raw<8>;

__device__ __forceinline__ Half to_e4m3(const Vector& vector) {
    Half bytes;
    for (int i = 0; i < 2; ++i) {
        const auto two = [&](int word) {
            const float low = __uint_as_float(vector.word[word] << 16);
            const float high = __uint_as_float(vector.word[word] & 0xffff0000u);
            return rope::E4M3().pack(low, high);
        };
        bytes.word[i] = two(2 * i) | two(2 * i + 1) << 16;
    }
    return bytes;
}

template <bool FP8>
__device__ __forceinline__ void store_cache(char* to, uint32_t at, const Vector& vector) {
    if (FP8) {
        rope::store<8>(to + at / 2, to_e4m3(vector));
    } else {
        rope::store<16>(to + at, vector);
    }
}

// Where byte `at` of a token's row goes: in place, or to a cache.
template <bool FP8>
__device__ __forceinline__ void put(const Work& work, uint32_t token, uint32_t at, int64_t slot,
                                    const Vector& vector, rope::Policy policy) {
    if (at < work.q) {
        rope::store<16>(work.rows + static_cast<uint64_t>(token) * work.row + at, vector, policy);
    } else {
        const bool is_v = at >= work.q + work.k;
        char* cache = (is_v ? work.caches[1] : work.caches[0]) + slot * work.slot;
        store_cache<FP8>(cache, at - work.q - (is_v ? work.k : 0), vector);
    }
}

// VECTORS a thread: nothing but the bytes, and the slots that say where they go.
template <bool FP8, int VECTORS>
__device__ __forceinline__ void copy(const Work& work) {
    const rope::Policy reading(work.load_hint), writing(work.store_hint);
    const uint32_t per_token = (work.q + work.k + work.v) / 16;
    const uint32_t first = blockIdx.x * blockDim.x * VECTORS + threadIdx.x;
    Vector vector[VECTORS];
    int64_t slot[VECTORS];
    uint32_t token[VECTORS], at[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint32_t n = first + i * blockDim.x;
        token[i] = n / per_token;
        at[i] = (n - token[i] * per_token) * 16;
        if (token[i] >= work.tokens) continue;
        vector[i] = rope::load<16>(work.rows + static_cast<uint64_t>(token[i]) * work.row + at[i],
                                   reading);
        slot[i] = at[i] < work.q ? 0 : work.slots[token[i]];
    }
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if (token[i] >= work.tokens) continue;
        vector[i].word[0] ^= 1;
        put<FP8>(work, token[i], at[i], slot[i], vector[i], writing);
    }
}

// The append: keys and values, a block a token.
template <bool FP8>
__device__ __forceinline__ void append(const Work& work) {
    const rope::Policy none(work.load_hint);
    const uint32_t token = blockIdx.x;
    const int64_t slot = work.slots[token];
    const char* row = work.rows + static_cast<uint64_t>(token) * work.row;
    for (uint32_t at = work.q + threadIdx.x * 16; at < work.q + work.k + work.v;
         at += blockDim.x * 16) {
        put<FP8>(work, token, at, slot, rope::load<16>(row + at), none);
    }
}

__device__ __forceinline__ float warp_sum(float sum) {
    for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
    return sum;
}

// A warp a head of q and k, of which `first` are left out: RMSNorm in place.
template <int DIM>
__device__ __forceinline__ void norm(const Work& work, uint32_t first, uint32_t count) {
    constexpr int OWN = DIM / 32;
    const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    const uint32_t token = warp / count, head = warp - token * count + first;
    if (token >= work.tokens) return;
    __nv_bfloat16* row = reinterpret_cast<__nv_bfloat16*>(
        work.rows + static_cast<uint64_t>(token) * work.row + head * DIM * 2);
    const __nv_bfloat16* weights = head >= work.q / (DIM * 2) ? work.weights[1] : work.weights[0];
    using Own = rope::Raw<OWN * 2>;
    Own raw = *reinterpret_cast<const Own*>(row + lane * OWN);
    const Own w = *reinterpret_cast<const Own*>(weights + lane * OWN);
    auto* x = reinterpret_cast<__nv_bfloat16*>(&raw);
    const auto* by = reinterpret_cast<const __nv_bfloat16*>(&w);
    float sum = 0;
    for (int i = 0; i < OWN; ++i) sum += __bfloat162float(x[i]) * __bfloat162float(x[i]);
    const float inverse = rsqrtf(warp_sum(sum) / DIM + 1e-6f);
    for (int i = 0; i < OWN; ++i) {
        x[i] = __float2bfloat16(__bfloat162float(x[i]) * inverse * __bfloat162float(by[i]));
    }
    *reinterpret_cast<Own*>(row + lane * OWN) = raw;
}

// A warp a head: norm, rotation by a table of cos and sin in f32, append. A half of the warp has the partners of the other.
template <int DIM, bool FP8, bool NORM>
__device__ __forceinline__ void warp_a_head(const Work& work, bool early) {
    constexpr int OWN = DIM / 32;
    using Own = rope::Raw<OWN * 2>;
    if (early) {
        rope::launch_dependent_grids();
        rope::wait_on_dependent_grids();
    }
    const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    const uint32_t heads = (work.q + work.k + work.v) / (DIM * 2), rotated = (work.q + work.k) / (DIM * 2);
    const uint32_t token = warp / heads, head = warp - token * heads;
    if (token >= work.tokens) return;
    const uint32_t at = (head * DIM + lane * OWN) * 2;
    char* row = work.rows + static_cast<uint64_t>(token) * work.row;
    Own raw = *reinterpret_cast<const Own*>(row + at);
    auto* elements = reinterpret_cast<__nv_bfloat16*>(&raw);
    if (head < rotated) {
        float x[OWN];
        for (int i = 0; i < OWN; ++i) x[i] = __bfloat162float(elements[i]);
        if (NORM) {
            float sum = 0;
            for (int i = 0; i < OWN; ++i) sum += x[i] * x[i];
            const float inverse = rsqrtf(warp_sum(sum) / DIM + 1e-6f);
            const Own w = *reinterpret_cast<const Own*>((at >= work.q ? work.weights[1] : work.weights[0]) + lane * OWN);
            const auto* by = reinterpret_cast<const __nv_bfloat16*>(&w);
            for (int i = 0; i < OWN; ++i) x[i] *= inverse * __bfloat162float(by[i]);
        }
        const float* cos = work.table + work.positions[token] * DIM;
        const float* sin = cos + DIM / 2;
        for (int i = 0; i < OWN; ++i) {
            const float other = __shfl_xor_sync(~0u, x[i], 16);
            const uint32_t pair = (lane % 16) * OWN + i;
            const float turned = lane < 16 ? -other : other;
            elements[i] = __float2bfloat16(x[i] * cos[pair] + turned * sin[pair]);
        }
    }
    if (at < work.q) {
        *reinterpret_cast<Own*>(row + at) = raw;
        return;
    }
    const bool is_v = at >= work.q + work.k;
    const uint32_t within = at - work.q - (is_v ? work.k : 0);
    char* cache = (is_v ? work.caches[1] : work.caches[0]) + work.slots[token] * work.slot;
    if constexpr (FP8) {
        for (int i = 0; i < OWN; i += 2) {
            const float low = __bfloat162float(elements[i]), high = __bfloat162float(elements[i + 1]);
            *reinterpret_cast<uint16_t*>(cache + within / 2 + i) =
                static_cast<uint16_t>(rope::E4M3().pack(low, high));
        }
    } else {
        *reinterpret_cast<Own*>(cache + within) = raw;
    }
}

#define KERNEL extern "C" __global__ void __launch_bounds__(512)
#define COPIES(VECTORS)                                                                   \
    KERNEL append_copy_bf16_##VECTORS(const __grid_constant__ Work work) { copy<false, VECTORS>(work); }    \
    KERNEL append_copy_e4m3_##VECTORS(const __grid_constant__ Work work) { copy<true, VECTORS>(work); }
COPIES(1)
COPIES(2)
COPIES(4)

KERNEL append_only_bf16(const __grid_constant__ Work work) { append<false>(work); }
KERNEL append_only_e4m3(const __grid_constant__ Work work) { append<true>(work); }

#define BY_DIM(DIM)                                                                              \
    KERNEL norm_##DIM(const __grid_constant__ Work work, uint32_t first, uint32_t count) {                         \
        norm<DIM>(work, first, count);                                                           \
    }                                                                                            \
    KERNEL warp_a_head_bf16_norm_##DIM(const __grid_constant__ Work work, uint32_t early) {                        \
        warp_a_head<DIM, false, true>(work, early);                                              \
    }                                                                                            \
    KERNEL warp_a_head_e4m3_norm_##DIM(const __grid_constant__ Work work, uint32_t early) {                        \
        warp_a_head<DIM, true, true>(work, early);                                               \
    }                                                                                            \
    KERNEL warp_a_head_bf16_none_##DIM(const __grid_constant__ Work work, uint32_t early) {                        \
        warp_a_head<DIM, false, false>(work, early);                                             \
    }                                                                                            \
    KERNEL warp_a_head_e4m3_none_##DIM(const __grid_constant__ Work work, uint32_t early) {                        \
        warp_a_head<DIM, true, false>(work, early);                                              \
    }
BY_DIM(64)
BY_DIM(128)
BY_DIM(256)
