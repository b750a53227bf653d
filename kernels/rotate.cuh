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

// The rows of one tensor, a row a head: what they count from is the first rotated channel of the first
// one. Strides are bytes.
struct Rows {
    char* first;
    int64_t batch, token, head;

    ROPE_FN int64_t offset(uint32_t b, uint32_t s, uint32_t h) const {
        return b * batch + s * token + h * head;
    }
};

// Channels around the rotated ones that a copy out of place carries along; none in place.
struct Rest {
    uint32_t before, after;
};

// Which of several sets of frequencies each sequence turns by.
struct Sets {
    Ids ids;          // one a sequence; null: the first set for all
    uint32_t stride;  // u64 from one set to the next
    uint32_t last;    // the last set: what an id beyond it, or below zero, means

    ROPE_FN uint32_t set(uint32_t sequence) const {
        const uint64_t id = ids.at(sequence);
        return id < last ? static_cast<uint32_t>(id) : last;
    }
};

// Everything that a launch is told. It arrives through the constant cache, which is cold in every
// launch: the first use of a line of 64 bytes costs a tenth of a microsecond (H100), one line after the
// other. So what every thread needs comes first, in three lines, by the order of need: on sm_90 the
// parameters begin 48 bytes before the end of a line.
struct Request {
    // 2^-64 turns per position, one a pair; 16-byte aligned. Set by set, each with its factor's bits
    // as its last word.
    const uint64_t* steps;
    Divisor seq;            // tokens per sequence
    uint32_t tokens;        // below 2^31
    uint16_t pair_stride;   // bytes from one pair's first channel to the next one's
    uint16_t partner;       // bytes from a pair's first channel to its second
    uint32_t overlap;       // with the kernel before: an Overlap
    Retention reading;      // of what is read
    uint32_t rows;          // a block's extent in y
    uint16_t lanes;         // and in z
    uint16_t q_slices;      // q and k apart: blocks in y that work on q; the others work on k
    uint16_t heads[2];      // of q and k

    Rows src[2];            // q and k

    Positions positions;
    float cos_factor;       // the scaling's factor; 1 where each set has its own
    float sin_factor;       // the same, negative to rotate backwards
    Retention writing;      // of what is written
    uint16_t in_place[2];   // 1: dst is src

    Sets sets;
    Axes axes;

    Ids starts;             // of ragged positions
    Rows dst[2];
    Rest rest[2];
    uint32_t pairs;         // half the rotated channels
    uint32_t reserved;
};

// How much of the kernel before may still be running (programmatic dependent launch).
enum Overlap : uint32_t {
    NONE = 0,
    LAUNCH = 1,           // it may, until anything that it could have written is touched
    POSITIONS_READY = 2,  // the same, and it writes neither positions nor the choice of sets
};

static_assert(sizeof(Rows) == 32 && sizeof(Positions) == 48 && sizeof(Axes) == 136 &&
                  sizeof(Request) == 440,
              "src/kernel/request.rs mirrors these");

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

    // The same where each pair goes along an axis of its own, from the ids at `offset` on.
    ROPE_FN void move_along(const Axes& axes, const Ids& ids, uint64_t offset, uint32_t first) {
        Ids::Halves halves[Axes::COUNT];
#pragma unroll
        for (int i = 0; i < Axes::COUNT; ++i) halves[i] = ids.load(offset + i * axes.stride);
        const uint32_t codes = axes.from(first);
        uint64_t along[Axes::COUNT];
#pragma unroll
        for (int i = 0; i < Axes::COUNT; ++i) along[i] = ids.value(halves[i]);
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const uint32_t code = codes >> 2 * i;
            step[i] *= code & 2 ? along[2] : code & 1 ? along[1] : along[0];
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
ROPE_FN void copy_rest(const Rest& rest, uint32_t pairs, const char* src, char* dst,
                       const Thread& at) {
    constexpr int BYTES = Element::BYTES;
    const int64_t before = rest.before;
    const int64_t rotated = static_cast<int64_t>(pairs) * 2;
    for (uint32_t i = at.x; i < rest.before + rest.after; i += at.width) {
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
    int64_t src;       // bytes from the tensor's first row to the thread's first pair
    int64_t src_step;  // bytes from one of the thread's heads to the next

    // Offsets, which need not wait for anything.
    ROPE_FN void take(const Request& request, int tensor, const Place& place, uint32_t slice,
                      const Thread& at) {
        const Rows& rows = request.src[tensor];
        first = slice * HEADS * request.rows + at.y;
        src = rows.offset(place.b, place.s, first) + place.lane;
        src_step = request.rows * rows.head;
    }

    ROPE_FN void load(const Request& request, int tensor) {
        const char* from = request.src[tensor].first + src;
        const Policy policy(request.reading);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (first + i * request.rows < request.heads[tensor]) {
                group[i].load(from + i * src_step, request.partner, policy);
            }
        }
    }

    ROPE_FN void rotate(const Request& request, int tensor, const Place& place,
                        const Angles<Group::PAIRS>& angles, const Thread& at) {
        // In place there is nothing left to work out between sine and cosine and the stores.
        char* from = request.src[tensor].first + src;
        char* to = from;
        int64_t dst_step = src_step;
        const bool in_place = request.in_place[tensor];
        if (!in_place) {
            const Rows& rows = request.dst[tensor];
            to = rows.first + (rows.offset(place.b, place.s, first) + place.lane);
            dst_step = request.rows * rows.head;
        }
        const Policy policy(request.writing);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (first + i * request.rows >= request.heads[tensor]) break;
            group[i].map([&](int j, float& x, float& y) {
                const float x0 = x;
                x = fma_rn(x0, angles.cos[j], -mul_rn(y, angles.sin[j]));
                y = fma_rn(y, angles.cos[j], mul_rn(x0, angles.sin[j]));
            });
            group[i].store(to + i * dst_step, request.partner, policy);
        }
        if (in_place) return;
        for (int i = 0; i < HEADS && first + i * request.rows < request.heads[tensor]; ++i) {
            copy_rest<Element>(request.rest[tensor], request.pairs,
                               from + (i * src_step - place.lane),
                               to + (i * dst_step - place.lane), at);
        }
    }
};

// MANY: pairs that turn by positions of their own, or sequences by sets of frequencies of their own, may
// be asked for. Kernels of their own, since the others are at their best when they are short.
//
// A thread's work from end to end: `take` works out where its shares lie, `load` issues their loads,
// `rotate` finishes them.
template <int PAIRS, bool MANY, class Take, class Load, class Rotate>
ROPE_FN void rotate_place(const Request& request, const Thread& at, Take take, Load load,
                          Rotate rotate) {
    Place place;
    place.t = at.block_x * request.lanes + at.z;
    place.b = request.seq.divide(place.t);
    place.s = place.t - place.b * request.seq.value;
    const uint32_t pair = at.x * PAIRS;
    place.lane = pair * request.pair_stride;
    take(place);
    // Only now: what comes after a branch waits for it, and `take` has much to wait for already.
    if (place.t >= request.tokens) return;

    Angles<PAIRS> angles;
    float cos_factor = request.cos_factor, sin_factor = request.sin_factor;
    if constexpr (!MANY) angles.load_steps(request.steps, pair);
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
    if constexpr (MANY) {
        const uint64_t* steps = request.steps;
        if (request.sets.ids.first != nullptr) {
            const bool ragged = request.positions.cu_seqlens != nullptr;
            const uint32_t sequence = ragged ? request.positions.sequence_of(place.t) : place.b;
            steps += static_cast<uint64_t>(request.sets.set(sequence)) * request.sets.stride;
            const uint64_t last = steps[request.sets.stride - 1];
            const float factor = float_of_bits(static_cast<uint32_t>(last));
            cos_factor = mul_rn(cos_factor, factor);
            sin_factor = mul_rn(sin_factor, factor);
        }
        angles.load_steps(steps, pair);
    }
    if (MANY && request.axes.stride != 0) {
        angles.move_along(request.axes, request.positions.ids,
                          request.positions.offset(place.b, place.s), pair);
    } else {
        angles.move_to(request.positions.position(request.starts, place.t, place.b, place.s));
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
    const int tensor = at.block_y >= request.q_slices;
    const uint32_t slice = at.block_y - (tensor ? request.q_slices : 0);
    Share<Element, JOINED, BYTES, HEADS> share;
    rotate_place<PAIRS, MANY>(
        request, at, [&](const Place& place) { share.take(request, tensor, place, slice, at); },
        [&] { share.load(request, tensor); },
        [&](const Place& place, const Angles<PAIRS>& angles) {
            share.rotate(request, tensor, place, angles, at);
        });
}

// Q heads of q and K heads of k.
template <class Element, bool JOINED, int BYTES, int Q, int K, bool MANY>
ROPE_FN void rotate_together_thread(const Request& request, const Thread& at) {
    constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    Share<Element, JOINED, BYTES, Q> q;
    Share<Element, JOINED, BYTES, K> k;
    rotate_place<PAIRS, MANY>(
        request, at,
        [&](const Place& place) {
            q.take(request, 0, place, at.block_y, at);
            k.take(request, 1, place, at.block_y, at);
        },
        [&] {
            q.load(request, 0);
            k.load(request, 1);
        },
        [&](const Place& place, const Angles<PAIRS>& angles) {
            q.rotate(request, 0, place, angles, at);
            k.rotate(request, 1, place, angles, at);
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
