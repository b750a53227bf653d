// Before attention: query and key heads are normalised and rotated, and keys and values go to a cache; one thread's work.
//
//   q, k  ->  RMSNorm  ->  rotation  ->  rounded once to the element type  ->  rows, cache
//   v     ->                                                                  cache
//
// A thread owns a few channel pairs of its heads, those that do not rotate too, and loads all of them before it stores
// any, so it may work in place. The lanes of a head meet once, where its squares are summed, so none leaves before that.
// Whatever the sum is made of comes before it, in `begin`, and whatever is made of it behind, in `end`: so the host can run
// a block's threads one after another, twice.
//
//   block   x: lanes of a head, a power of two    y: heads    z: tokens; whole warps
//   grid    x: tiles of tokens                    y: slices of heads
//
// Tensors apart: a slice is of q, of k or of v. Together: of q, and of k's heads and v's in one list.
#pragma once

#include "norm.cuh"
#include "params/append.cuh"
#include "stage/fragment.cuh"
#include "stage/slot.cuh"
#include "stage/store_as.cuh"
#include "stage/turn.cuh"

namespace rope {

// The channels of a thread's first pair; those of its other pairs are the next ones.
struct PairChannels {
    uint32_t first, partner;  // the second is `partner` further
    bool is_there;            // the head has as many pairs
    bool is_rotated;

    ROPE_FN void locate(const HeadShape& shape, uint32_t step, uint32_t pair) {
        is_rotated = pair < shape.pairs;
        is_there = pair < static_cast<uint32_t>(shape.pairs) + shape.rest;
        // Among the rotated channels, or among the others as if nothing lay between them.
        const uint32_t run = is_rotated ? shape.pairs : shape.rest;
        uint32_t a = (is_rotated ? pair : pair - shape.pairs) * step;
        uint32_t b = step == 1 ? a + run : a + 1;
        const uint32_t gap = 2u * shape.pairs;
        a += is_rotated ? shape.before : a < shape.before ? 0 : gap;
        b += is_rotated ? shape.before : b < shape.before ? 0 : gap;
        first = a;
        partner = b - a;
    }
};

// HEADS heads of one tensor: every `heads_per_block`-th from `first` on, as far as there are.
template <class Element, bool JOINED, int BYTES, int HEADS>
struct AppendFragment {
    using Group = Pairs<Element, JOINED, BYTES>;
    static constexpr int COUNT = HEADS;

    Group group[HEADS];
    Group weight;
    float scale[HEADS];  // where elements become 8-bit floats
    uint32_t tensor, first;
    PairChannels channels;

    ROPE_FN void locate(const AppendParams& params, uint32_t of, uint32_t first_head, uint32_t pair) {
        tensor = of;
        first = first_head;
        channels.locate(params.shape[tensor], params.pair_step, pair);
    }

    // A head, and where its part begins: v's heads may be wider than the others, and are cut.
    struct Place {
        bool is_there;
        uint32_t head, channel;
    };
    ROPE_FN Place place(const AppendParams& params, int i) const {
        const uint32_t n = first + i * params.heads_per_block;
        const bool is_there = channels.is_there && n < params.heads[tensor];
        if (tensor != VALUE) return {is_there, n, channels.first};
        const uint32_t head = params.parts.divide(n);
        const uint32_t part = n - head * params.parts.value;
        return {is_there, head, part * params.part + channels.first};
    }

    ROPE_FN bool is_normalised(const AppendParams& params) const {
        return tensor != VALUE && params.normalised[tensor];
    }

    // What no kernel before this one writes, by the caller's promise where positions are ready.
    ROPE_FN void load_constants(const AppendParams& params) {
        if (is_normalised(params) && channels.is_there) {
            weight.load(params.weight[tensor] + channels.first * Element::BYTES,
                        channels.partner * Element::BYTES);
        }
        if (params.storage[tensor] != AS_ELEMENT) {
#pragma unroll
            for (int i = 0; i < HEADS; ++i) {
                const Place at = place(params, i);
                scale[i] = at.is_there ? params.scale[tensor].load(at.head) : 1.0f;
            }
        }
    }

    ROPE_FN void load(const AppendParams& params, const TokenCoord& coord, bool is_inside) {
        const Policy policy(params.load_hint[tensor != QUERY]);
        const Rows& rows = params.src[tensor];
        const char* token = rows.first + rows.offset(coord.b, coord.s, 0);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            const Place at = place(params, i);
            group[i] = {};
            if (is_inside && at.is_there) {
                group[i].load(token + at.head * rows.head + at.channel * Element::BYTES,
                              channels.partner * Element::BYTES, policy);
            }
        }
    }

    // What the thread adds to the sum of head i's squares.
    ROPE_FN float squares(int i) const {
        float square[Group::PAIRS];
        group[i].each([&](int j, float x, float y) { square[j] = pair_square(x, y); });
#pragma unroll
        for (int step = 1; step < Group::PAIRS; step *= 2) {
#pragma unroll
            for (int j = 0; j < Group::PAIRS; j += 2 * step) {
                square[j] = add_rn(square[j], square[j + step]);
            }
        }
        return square[0];
    }

    // Norm and rotation, and one rounding.
    ROPE_FN void transform(const AppendParams& params, int i, float sum,
                           const Angles<Group::PAIRS>& angles) {
        const bool normalised = is_normalised(params);
        if (!normalised && !channels.is_rotated) return;
        float inverse = 1.0f, by_x[Group::PAIRS], by_y[Group::PAIRS];
        if (normalised) {
            inverse = inverse_rms(sum, params.inverse_dim[tensor], params.eps);
            weight.each([&](int j, float x, float y) {
                by_x[j] = params.unit_offset ? add_rn(1.0f, x) : x;
                by_y[j] = params.unit_offset ? add_rn(1.0f, y) : y;
            });
        }
        group[i].map([&](int j, float& x, float& y) {
            if (normalised) {
                x = mul_rn(mul_rn(x, inverse), by_x[j]);
                y = mul_rn(mul_rn(y, inverse), by_y[j]);
            }
            if (channels.is_rotated) {
                const float x0 = x;
                x = fma_rn(x0, angles.cos[j], -mul_rn(y, angles.sin[j]));
                y = fma_rn(y, angles.cos[j], mul_rn(x0, angles.sin[j]));
            }
        });
    }

    ROPE_FN void store(const AppendParams& params, const TokenCoord& coord, const Slot& slot,
                       int i) const {
        const Place at = place(params, i);
        if (!at.is_there) return;
        const Target target = params.target[tensor];
        if (target == ELSEWHERE ||
            (target == IN_PLACE && (channels.is_rotated || is_normalised(params)))) {
            const Rows& rows = target == IN_PLACE ? params.src[tensor] : params.dst[tensor];
            group[i].store(rows.first + rows.offset(coord.b, coord.s, at.head) +
                               at.channel * Element::BYTES,
                           channels.partner * Element::BYTES, Policy(params.store_hint));
        }
        if (tensor == QUERY ? target != CONVERTED : !slot.is_stored) return;
        char* row;
        if (tensor == QUERY) {
            const Rows& rows = params.dst[QUERY];
            row = rows.first + rows.offset(coord.b, coord.s, at.head);
        } else {
            const KvPages& pages = params.pages[tensor - KEY];
            row = pages.first + (slot.page * pages.page + slot.entry * pages.slot +
                                 at.head * pages.head);
        }
        // Without a policy: attention reads it next.
        store_as(params.storage[tensor], group[i], row, at.channel, channels.partner,
                 [&] { return params.scale[tensor].inverse(scale[i]); });
    }
};

// Q heads of q and KV of the list of k's and v's; or, where KV is 0, Q heads of any.
//
// GENERAL: as the rotation's; slots by a page table, too.
template <class Element, bool JOINED, int BYTES, int Q, int KV, bool GENERAL>
struct Append {
    static constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    static constexpr int HEADS = Q + KV;

    AppendFragment<Element, JOINED, BYTES, Q> one;
    AppendFragment<Element, JOINED, BYTES, KV == 0 ? 1 : KV> other;
    Angles<PAIRS> angles;
    TokenCoord coord;
    Slot slot;
    bool is_inside;

    // Every use of a fragment.
    template <class F>
    ROPE_FN void each(F f) {
        f(one);
        if constexpr (KV > 0) f(other);
    }

    ROPE_FN void locate(const AppendParams& params, const Thread& at, uint32_t pair) {
        const uint32_t t = at.block_x * params.tokens_per_block + at.z;
        is_inside = t < params.tokens;
        // What lies beyond the last token reads what that one's position is, and no rows.
        coord.t = is_inside ? t : params.tokens - 1;
        coord.b = params.seq.divide(coord.t);
        coord.s = coord.t - coord.b * params.seq.value;
        coord.pair_offset = 0;
        const uint32_t rows = params.heads_per_block;
        if constexpr (KV == 0) {
            uint32_t tensor = QUERY, slice = at.block_y;
            if (slice >= params.q_slices) {
                tensor = KEY;
                slice -= params.q_slices;
                if (slice >= params.k_slices) {
                    tensor = VALUE;
                    slice -= params.k_slices;
                }
            }
            one.locate(params, tensor, slice * Q * rows + at.y, pair);
        } else {
            one.locate(params, QUERY, at.block_y * Q * rows + at.y, pair);
            uint32_t tensor = KEY, head = at.block_y * KV * rows + at.y;
            if (head >= params.heads[KEY]) {
                tensor = VALUE;
                head -= params.heads[KEY];
            }
            other.locate(params, tensor, head, pair);
        }
    }

    // Weights, scales, slots, and sine and cosine by positions.
    ROPE_FN void prepare(const AppendParams& params, uint32_t pair) {
        bool rotates = false, stores = false;
        each([&](auto& fragment) {
            fragment.load_constants(params);
            rotates = rotates || fragment.channels.is_rotated;
            stores = stores || fragment.tensor != QUERY;
        });
        slot.is_stored = false;
        stores = stores && params.cached;
        if (stores) slot.load(params.slots, coord.t);
        if constexpr (GENERAL) {
            if (stores && params.slots.width != 0) {
                const TokenPositions& positions = params.positions;
                const bool ragged = positions.cu_seqlens != nullptr;
                slot.load_page(params.slots, ragged ? positions.sequence_of(coord.t) : coord.b,
                               positions.template position<true>(params.starts, coord.t, coord.b,
                                                                 coord.s));
            }
        }
        if (rotates) {
            if constexpr (!GENERAL) angles.load_steps(params.steps, pair);
            turn<GENERAL>(params, coord, pair, params.cos_factor, params.sin_factor, angles);
        }
        if (stores) slot.template resolve<GENERAL>(params.slots);
    }

    ROPE_FN void load(const AppendParams& params) {
        each([&](auto& fragment) { fragment.load(params, coord, is_inside); });
    }

    ROPE_FN void begin(const AppendParams& params, const Thread& at, float (&sums)[HEADS]) {
        const uint32_t pair = at.x * PAIRS;
        locate(params, at, pair);
        // As in the rotation: behind the loads, or behind the kernel before.
        const bool early = params.pdl == POSITIONS_READY;
        if (!early) {
            if (params.pdl == ON) {
                launch_dependent_grids();
                wait_on_dependent_grids();
            }
            load(params);
        }
        prepare(params, pair);
        if (early) {
            launch_dependent_grids();
            wait_on_dependent_grids();
            load(params);
        }
        int n = 0;
        each([&](auto& fragment) {
#pragma unroll
            for (int i = 0; i < fragment.COUNT; ++i) sums[n++] = fragment.squares(i);
        });
    }

    ROPE_FN void end(const AppendParams& params, const float (&sums)[HEADS]) {
        int n = 0;
        each([&](auto& fragment) {
#pragma unroll
            for (int i = 0; i < fragment.COUNT; ++i) {
                fragment.transform(params, i, sums[n++], angles);
                if (is_inside) fragment.store(params, coord, slot, i);
            }
        });
    }
};

#ifdef __CUDACC__

template <class Element, bool JOINED, int BYTES, int Q, int KV, bool GENERAL>
ROPE_FN void append_thread(const AppendParams& params, const Thread& at, float* shared) {
    Append<Element, JOINED, BYTES, Q, KV, GENERAL> work;
    float sums[Q + KV];
    work.begin(params, at, sums);
    if (params.has_norm()) {
        const uint32_t thread = (at.z * params.heads_per_block + at.y) * at.width + at.x;
        row_sums(sums, at.width, thread, shared);
    }
    work.end(params, sums);
}

#endif

}  // namespace rope
