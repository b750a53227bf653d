// Rotates query and key heads by their tokens' positions: one thread's work.
//
//   (x, y)  ->  (x cos - y sin, y cos + x sin)      for every channel pair of every head
//
// One thread owns its pairs: it loads both channels, rotates them and stores them where they lay or
// in another tensor of the same shape. No other thread touches them, so working in place is safe by
// construction. A thread keeps one group of pairs (and so one set of steps) and one token at a time,
// makes sine and cosine once for that token, and takes every `rows`-th head.
//
//   block   x: groups of PAIRS pairs    y: heads    z: tokens
//   grid    x: tiles of tokens          y: slices of the heads of q, then of k
//
// The loads of the first heads are issued before sine and cosine are worked out, which then hide
// behind memory.
#pragma once

#include "pack.cuh"
#include "phase.cuh"
#include "positions.cuh"

namespace rope {

// Heads of one tensor. Pointers are at the first rotated channel of the first row; strides are bytes.
struct Tensor {
    const char* src;
    char* dst;
    int64_t src_batch, src_token, src_head;
    int64_t dst_batch, dst_token, dst_head;
    uint32_t heads;
    // Channels around the rotated ones that a copy out of place carries along; 0 in place.
    uint32_t rest_before, rest_after;
    uint32_t reserved;
};

struct Request {
    const uint64_t* steps;  // 2^-64 turns per position, one a pair; 16-byte aligned
    Tensor q, k;
    Positions positions;
    Divisor seq;          // tokens per sequence
    uint32_t tokens;      // below 2^31
    uint32_t pairs;       // half the rotated channels
    int64_t pair_stride;  // bytes from one pair's first channel to the next one's
    int64_t partner;      // bytes from a pair's first channel to its second
    float cos_factor;     // the scaling's factor
    float sin_factor;     // the same, negative to rotate backwards
    uint32_t heads_per_slice;
    uint32_t tiles_per_block;
};

static_assert(sizeof(Tensor) == 80 && sizeof(Request) == 264, "src/cuda/request.rs mirrors these");

// Sine and cosine of PAIRS neighbouring pairs at one position.
template <int PAIRS>
struct Angles {
    uint64_t step[PAIRS];
    float sin[PAIRS], cos[PAIRS];

    ROPE_FN void load_steps(const uint64_t* steps, uint32_t first) {
#ifdef __CUDACC__
        if constexpr (PAIRS % 2 == 0) {
            const ulonglong2* from = reinterpret_cast<const ulonglong2*>(steps + first);
#pragma unroll
            for (int i = 0; i < PAIRS / 2; ++i) {
                const ulonglong2 two = __ldg(from + i);
                step[2 * i] = two.x;
                step[2 * i + 1] = two.y;
            }
            return;
        }
#endif
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) step[i] = steps[first + i];
    }

    ROPE_FN void turn_to(uint64_t position, float cos_factor, float sin_factor) {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const SinCos exact = sin_cos(step[i] * position);
            sin[i] = mul_rn(exact.sin, sin_factor);
            cos[i] = mul_rn(exact.cos, cos_factor);
        }
    }
};

// A head's row, at this thread's pairs.
struct Row {
    const char* src;
    char* dst;
};

ROPE_FN Row row_of(const Tensor& tensor, uint32_t b, uint32_t s, int64_t lane) {
    return {tensor.src + (b * tensor.src_batch + s * tensor.src_token + lane),
            tensor.dst + (b * tensor.dst_batch + s * tensor.dst_token + lane)};
}

// The rows of one token: q's heads first, then k's.
struct TokenRows {
    Row q, k;

    ROPE_FN Row head(const Request& request, uint32_t h) const {
        const bool is_k = h >= request.q.heads;
        const Row& row = is_k ? k : q;
        const int64_t i = is_k ? h - request.q.heads : h;
        return {row.src + i * (is_k ? request.k.src_head : request.q.src_head),
                row.dst + i * (is_k ? request.k.dst_head : request.q.dst_head)};
    }
};

// Out of place, the channels that do not rotate come along. `row` is at the first rotated channel.
template <class Element>
ROPE_FN void copy_rest(const Request& request, const Tensor& tensor, Row row, const Thread& at) {
    constexpr int BYTES = Element::BYTES;
    const char* src = row.src - static_cast<int64_t>(tensor.rest_before) * BYTES;
    char* dst = row.dst - static_cast<int64_t>(tensor.rest_before) * BYTES;
    const int64_t rotated = static_cast<int64_t>(request.pairs) * 2;
    for (uint32_t i = at.x; i < tensor.rest_before + tensor.rest_after; i += at.width) {
        const int64_t channel = i < tensor.rest_before ? i : i + rotated;
        store<BYTES>(dst + channel * BYTES, load<BYTES>(src + channel * BYTES));
    }
}

// IN_FLIGHT: heads whose loads are issued before the first of them is rotated.
template <class Element, bool JOINED, int BYTES, int IN_FLIGHT>
ROPE_FN void rotate_thread(const Request& request, const Thread& at) {
    using Group = Pairs<Element, JOINED, BYTES>;

    const uint32_t pair = at.x * Group::PAIRS;
    const int64_t lane = pair * request.pair_stride;
    const uint32_t all_heads = request.q.heads + request.k.heads;
    const uint32_t slice = at.block_y * request.heads_per_slice;
    const uint32_t slice_end =
        all_heads - slice > request.heads_per_slice ? slice + request.heads_per_slice : all_heads;

    Angles<Group::PAIRS> angles;
    angles.load_steps(request.steps, pair);

    for (uint32_t tile = 0; tile < request.tiles_per_block; ++tile) {
        const uint32_t t = (at.block_x * request.tiles_per_block + tile) * at.lanes + at.z;
        if (t >= request.tokens) return;
        const uint32_t b = request.seq.divide(t);
        const uint32_t s = t - b * request.seq.value;
        const TokenRows rows = {row_of(request.q, b, s, lane), row_of(request.k, b, s, lane)};

        Group group[IN_FLIGHT];
        const auto load_group = [&](uint32_t first) {
#pragma unroll
            for (int i = 0; i < IN_FLIGHT; ++i) {
                const uint32_t h = first + i * at.rows;
                if (h < slice_end) group[i].load(rows.head(request, h).src, request.partner);
            }
        };
        uint32_t h = slice + at.y;
        load_group(h);
        angles.turn_to(request.positions.position(t, b, s), request.cos_factor, request.sin_factor);

        for (; h < slice_end; h += IN_FLIGHT * at.rows) {
            if (h != slice + at.y) load_group(h);
#pragma unroll
            for (int i = 0; i < IN_FLIGHT; ++i) {
                const uint32_t this_h = h + i * at.rows;
                if (this_h >= slice_end) break;
                group[i].map([&](int j, float& x, float& y) {
                    const float x0 = x;
                    x = fma_rn(x0, angles.cos[j], -mul_rn(y, angles.sin[j]));
                    y = fma_rn(y, angles.cos[j], mul_rn(x0, angles.sin[j]));
                });
                group[i].store(rows.head(request, this_h).dst, request.partner);
            }
        }

        const uint32_t rest = request.q.rest_before + request.q.rest_after +
                              request.k.rest_before + request.k.rest_after;
        if (rest != 0) {
            const TokenRows starts = {row_of(request.q, b, s, 0), row_of(request.k, b, s, 0)};
            for (h = slice + at.y; h < slice_end; h += at.rows) {
                copy_rest<Element>(request, h < request.q.heads ? request.q : request.k,
                                   starts.head(request, h), at);
            }
        }
    }
}

}  // namespace rope
