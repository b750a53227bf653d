// Rotates query and key heads by their tokens' positions: one thread's work.
//
//   (x, y)  ->  (x cos - y sin, y cos + x sin)      for every channel pair of every head
//
// One thread owns its pairs: it loads both channels, rotates them and stores them where they lay or
// in another tensor of the same shape. No other thread touches them, so working in place is safe by
// construction. A thread takes one group of pairs in a few heads of one token: sine and cosine are
// made once for all of them, after their loads have been issued, and hide behind memory.
//
//   block   x: groups of PAIRS pairs    y: heads    z: tokens
//   grid    x: tiles of tokens          y: slices of heads
//
// q and k apart: a slice is of one tensor, so everything about the tensor is the block's. Together: a
// slice is of both, and sine and cosine serve both; for many query heads to a key head.
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
    uint32_t in_place;  // 1: dst and its strides are those of src
};

// Which of several sets of frequencies each sequence turns by.
struct Sets {
    const void* ids;  // one a sequence; null: the first set for all
    uint32_t stride;  // u64 from one set to the next
    uint32_t last;    // the last set: what an id beyond it, or below zero, means
    uint32_t wide;    // ids are i64, else i32
    uint32_t reserved;

    ROPE_FN uint32_t set(uint32_t sequence) const {
        const uint64_t id = wide ? static_cast<const uint64_t*>(ids)[sequence]
                                 : static_cast<const uint32_t*>(ids)[sequence];
        return id < last ? static_cast<uint32_t>(id) : last;
    }
};

struct Request {
    // 2^-64 turns per position, one a pair, and then the factor's bits; 16-byte aligned. Set by set.
    const uint64_t* steps;
    Sets sets;
    Tensor tensors[2];      // q and k
    Positions positions;
    Divisor seq;          // tokens per sequence
    uint32_t tokens;      // below 2^31
    uint32_t pairs;       // half the rotated channels
    uint32_t q_slices;    // q and k apart: blocks in y that work on q; the others work on k
    uint32_t pair_stride;  // bytes from one pair's first channel to the next one's
    uint32_t partner;      // bytes from a pair's first channel to its second
    float cos_factor;     // the scaling's factor; 1 where each set has its own
    float sin_factor;     // the same, negative to rotate backwards
    uint32_t overlap;     // with the kernel before: an Overlap
};

// How much of the kernel before may still be running (programmatic dependent launch).
enum Overlap : uint32_t {
    NONE = 0,
    LAUNCH = 1,           // it may, until anything that it could have written is touched
    POSITIONS_READY = 2,  // the same, and it does not write positions
};

static_assert(sizeof(Tensor) == 80 && sizeof(Request) == 304, "src/kernel/request.rs mirrors these");

// Sine and cosine of PAIRS neighbouring pairs at one position.
template <int PAIRS>
struct Angles {
    uint64_t step[PAIRS];
    float sin[PAIRS], cos[PAIRS];

    ROPE_FN void load_steps(const uint64_t* steps, uint32_t first) {
        // Two at a time where there are two: 16-byte loads.
        if constexpr (PAIRS % 2 == 0) {
            const StepPair* from = reinterpret_cast<const StepPair*>(steps + first);
#pragma unroll
            for (int i = 0; i < PAIRS / 2; ++i) {
                const StepPair two = load_steady(from + i);
                step[2 * i] = two.x;
                step[2 * i + 1] = two.y;
            }
        } else {
#pragma unroll
            for (int i = 0; i < PAIRS; ++i) step[i] = steps[first + i];
        }
    }

    // Steps become phases.
    ROPE_FN void move_to(uint64_t position) {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) step[i] *= position;
    }

    // The same where each pair goes along an axis of its own.
    ROPE_FN void move_along(const Positions& positions, uint32_t first, uint32_t b, uint32_t s) {
        const uint64_t along[3] = {positions.along(0, b, s), positions.along(1, b, s),
                                   positions.along(2, b, s)};
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const uint32_t axis = positions.axis(first + i);
            step[i] *= axis == 0 ? along[0] : axis == 1 ? along[1] : along[2];
        }
    }

    ROPE_FN void turn(float cos_factor, float sin_factor) {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const SinCos exact = sin_cos(step[i]);
            sin[i] = mul_rn(exact.sin, sin_factor);
            cos[i] = mul_rn(exact.cos, cos_factor);
        }
    }
};

// Out of place, the channels that do not rotate come along. Rows are at the first rotated channel.
template <class Element>
ROPE_FN void copy_rest(const Tensor& tensor, uint32_t pairs, const char* src, char* dst,
                       const Thread& at) {
    constexpr int BYTES = Element::BYTES;
    const int64_t before = tensor.rest_before;
    const int64_t rotated = static_cast<int64_t>(pairs) * 2;
    for (uint32_t i = at.x; i < tensor.rest_before + tensor.rest_after; i += at.width) {
        const int64_t channel = (i < before ? i : i + rotated) - before;
        store<BYTES>(dst + channel * BYTES, load<BYTES>(src + channel * BYTES));
    }
}

// Where a thread works: its token, and its pairs.
struct Place {
    uint32_t t, b, s;  // token of the launch, sequence, token of the sequence
    uint32_t lane;     // bytes from a row's first rotated channel to this thread's first pair
};

// HEADS heads of one tensor at one place: every `rows`-th from the thread's own on.
template <class Element, bool JOINED, int BYTES, int HEADS>
struct Share {
    using Group = Pairs<Element, JOINED, BYTES>;

    Group group[HEADS];
    uint32_t first;    // head
    const char* src;   // the thread's first pair of it
    int64_t src_step;  // bytes from one of the thread's heads to the next

    // Addresses, which need not wait for anything.
    ROPE_FN void take(const Tensor& tensor, const Place& place, uint32_t slice, const Thread& at) {
        first = slice * HEADS * at.rows + at.y;
        src = tensor.src + (place.b * tensor.src_batch + place.s * tensor.src_token +
                            first * tensor.src_head + place.lane);
        src_step = at.rows * tensor.src_head;
    }

    ROPE_FN void load(const Request& request, const Tensor& tensor, const Thread& at) {
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (first + i * at.rows < tensor.heads) {
                group[i].load(src + i * src_step, request.partner);
            }
        }
    }

    ROPE_FN void rotate(const Request& request, const Tensor& tensor, const Place& place,
                        const Angles<Group::PAIRS>& angles, const Thread& at) {
        // In place there is nothing left to work out between sine and cosine and the stores.
        char* dst = const_cast<char*>(src);
        int64_t dst_step = src_step;
        if (!tensor.in_place) {
            dst = tensor.dst + (place.b * tensor.dst_batch + place.s * tensor.dst_token +
                                first * tensor.dst_head + place.lane);
            dst_step = at.rows * tensor.dst_head;
        }
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (first + i * at.rows >= tensor.heads) break;
            group[i].map([&](int j, float& x, float& y) {
                const float x0 = x;
                x = fma_rn(x0, angles.cos[j], -mul_rn(y, angles.sin[j]));
                y = fma_rn(y, angles.cos[j], mul_rn(x0, angles.sin[j]));
            });
            group[i].store(dst + i * dst_step, request.partner);
        }
        if (tensor.rest_before + tensor.rest_after != 0) {
            for (int i = 0; i < HEADS && first + i * at.rows < tensor.heads; ++i) {
                copy_rest<Element>(tensor, request.pairs, src + (i * src_step - place.lane),
                                   dst + (i * dst_step - place.lane), at);
            }
        }
    }
};

// MANY: pairs that turn by positions of their own, or sequences by sets of frequencies of their own, may
// be asked for. Kernels of their own, since the others are at their best when they are short.
//
// A thread's work from end to end: `take` works out its shares' addresses, `load` issues their loads,
// `rotate` finishes them.
template <int PAIRS, bool MANY, class Take, class Load, class Rotate>
ROPE_FN void rotate_place(const Request& request, const Thread& at, Take take, Load load,
                          Rotate rotate) {
    Place place;
    place.t = at.block_x * at.lanes + at.z;
    if (place.t >= request.tokens) return;
    place.b = request.seq.divide(place.t);
    place.s = place.t - place.b * request.seq.value;
    const uint32_t pair = at.x * PAIRS;
    place.lane = pair * request.pair_stride;

    const uint64_t* steps = request.steps;
    float cos_factor = request.cos_factor, sin_factor = request.sin_factor;
    if (MANY && request.sets.ids != nullptr) {
        // The kernel before may write the choice, as it may write positions.
        if (request.overlap == LAUNCH) wait_for_upstream();
        const bool ragged = request.positions.cu_seqlens != nullptr;
        const uint32_t sequence = ragged ? request.positions.sequence_of(place.t) : place.b;
        steps += static_cast<uint64_t>(request.sets.set(sequence)) * request.sets.stride;
        const float factor = float_of_bits(static_cast<uint32_t>(steps[request.pairs]));
        cos_factor = mul_rn(cos_factor, factor);
        sin_factor = mul_rn(sin_factor, factor);
    }
    Angles<PAIRS> angles;
    angles.load_steps(steps, pair);
    take(place);
    // Sine and cosine hide behind the loads; or, where positions were ready long ago, behind the
    // kernel before, whose q and k are still to come.
    const bool early = request.overlap == POSITIONS_READY;
    if (!early) {
        if (request.overlap == LAUNCH) {
            let_downstream_launch();
            wait_for_upstream();
        }
        load();
    }
    if (!MANY || request.positions.axes == ONE) {
        angles.move_to(request.positions.position(place.t, place.b, place.s));
    } else {
        angles.move_along(request.positions, pair, place.b, place.s);
    }
    angles.turn(cos_factor, sin_factor);
    if (early) {
        let_downstream_launch();
        wait_for_upstream();
        load();
    }
    rotate(place, angles);
}

// HEADS heads of q, or of k.
template <class Element, bool JOINED, int BYTES, int HEADS, bool MANY>
ROPE_FN void rotate_apart_thread(const Request& request, const Thread& at) {
    constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    const bool is_k = at.block_y >= request.q_slices;
    const Tensor& tensor = request.tensors[is_k];
    const uint32_t slice = at.block_y - (is_k ? request.q_slices : 0);
    Share<Element, JOINED, BYTES, HEADS> share;
    rotate_place<PAIRS, MANY>(
        request, at, [&](const Place& place) { share.take(tensor, place, slice, at); },
        [&] { share.load(request, tensor, at); },
        [&](const Place& place, const Angles<PAIRS>& angles) {
            share.rotate(request, tensor, place, angles, at);
        });
}

// Q heads of q and K heads of k.
template <class Element, bool JOINED, int BYTES, int Q, int K, bool MANY>
ROPE_FN void rotate_together_thread(const Request& request, const Thread& at) {
    constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    const Tensor& q_tensor = request.tensors[0];
    const Tensor& k_tensor = request.tensors[1];
    Share<Element, JOINED, BYTES, Q> q;
    Share<Element, JOINED, BYTES, K> k;
    rotate_place<PAIRS, MANY>(
        request, at,
        [&](const Place& place) {
            q.take(q_tensor, place, at.block_y, at);
            k.take(k_tensor, place, at.block_y, at);
        },
        [&] {
            q.load(request, q_tensor, at);
            k.load(request, k_tensor, at);
        },
        [&](const Place& place, const Angles<PAIRS>& angles) {
            q.rotate(request, q_tensor, place, angles, at);
            k.rotate(request, k_tensor, place, angles, at);
        });
}

// Q heads of q together with K heads of k; or, where K is 0, Q heads of either.
template <class Element, bool JOINED, int BYTES, int Q, int K, bool MANY>
ROPE_FN void rotate_thread(const Request& request, const Thread& at) {
    if constexpr (K == 0) {
        rotate_apart_thread<Element, JOINED, BYTES, Q, MANY>(request, at);
    } else {
        rotate_together_thread<Element, JOINED, BYTES, Q, K, MANY>(request, at);
    }
}

}  // namespace rope
