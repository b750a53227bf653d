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
// Tensors apart: a slice is of q, of k or of v. Together: of all three.
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

    // Of a head of so many pairs, none of which rotates.
    ROPE_FN void locate_unrotated(uint32_t pairs, uint32_t step, uint32_t pair) {
        first = pair * step;
        partner = step == 1 ? pairs : 1;
        is_there = pair < pairs;
        is_rotated = false;
    }

    ROPE_FN void locate(const HeadShape& shape, uint32_t step, uint32_t pair) {
        is_rotated = pair < shape.pairs;
        is_there = is_rotated;
        first = pair * step;
        partner = step == 1 ? shape.pairs : 1;
        // Most heads rotate as a whole.
        if (shape.rest == 0) return;
        is_there = pair < static_cast<uint32_t>(shape.pairs) + shape.rest;
        if (is_rotated) {
            first += shape.before;
            return;
        }
        // The others are paired as if nothing lay between them.
        const uint32_t gap = 2u * shape.pairs;
        uint32_t second = first -= shape.pairs * step;
        second += step == 1 ? shape.rest : 1;
        first += first < shape.before ? 0 : gap;
        second += second < shape.before ? 0 : gap;
        partner = second - first;
    }
};

// HEADS heads of TENSOR: every `heads_per_block`-th from the first on, as far as there are.
template <Tensor TENSOR, class Element, bool JOINED, int BYTES, int HEADS>
struct AppendFragment {
    using Group = Pairs<Element, JOINED, BYTES>;

    Group group[HEADS];
    Group weight;
    float scale[HEADS];  // where elements become 8-bit floats
    PairChannels channels;
    uint32_t first;      // head
    char* from;          // the thread's first channel of it
    int64_t head_bytes;  // from one of the thread's heads to the next
    char* entry;         // the first head in the cache
    bool is_inside;      // the token is one

    ROPE_FN void locate(const AppendParams& params, uint32_t slice, const Thread& at,
                        const PairChannels& of, const TokenCoord& coord, bool inside) {
        channels = of;
        is_inside = inside;
        first = slice * HEADS * params.heads_per_block + at.y;
        const Rows& rows = params.src[TENSOR];
        from = rows.first + rows.offset(coord.b, coord.s, first) + channels.first * Element::BYTES;
        head_bytes = params.heads_per_block * rows.head;
    }

    ROPE_FN uint32_t head(const AppendParams& params, int i) const {
        return first + i * params.heads_per_block;
    }

    ROPE_FN bool has(const AppendParams& params, int i) const {
        return channels.is_there && is_inside && head(params, i) < params.heads[TENSOR];
    }

    ROPE_FN static bool is_normalised(const AppendParams& params) {
        return TENSOR != VALUE && params.normalised[TENSOR % 2];
    }

    // Bytes from a pair's first channel to its second.
    ROPE_FN uint32_t partner() const { return channels.partner * Element::BYTES; }

    // What no kernel before this one writes, by the caller's promise where positions are ready.
    ROPE_FN void load_constants(const AppendParams& params) {
        if (is_normalised(params) && channels.is_there) {
            weight.load(params.weight[TENSOR % 2] + channels.first * Element::BYTES, partner());
        }
        if (params.storage[TENSOR] != AS_ELEMENT) {
#pragma unroll
            for (int i = 0; i < HEADS; ++i) {
                const uint32_t h = head(params, i);
                scale[i] = h < params.heads[TENSOR] ? params.scale[TENSOR].load(h) : 1.0f;
            }
        }
    }

    ROPE_FN void load(const AppendParams& params) {
        const Policy policy(params.load_hint[TENSOR != QUERY]);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            group[i] = {};
            if (has(params, i)) group[i].load(from + i * head_bytes, partner(), policy);
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

    // Norms of all heads, by the sums of their squares, and rotations; rounded once.
    ROPE_FN void transform(const AppendParams& params, const float* sums,
                           const Angles<Group::PAIRS>& angles) {
        if (!is_normalised(params)) {
            if (!channels.is_rotated) return;
#pragma unroll
            for (int i = 0; i < HEADS; ++i) {
                group[i].map([&](int j, float& x, float& y) { angles.rotate(j, x, y); });
            }
            return;
        }
        float by_x[Group::PAIRS], by_y[Group::PAIRS];
        weight.each([&](int j, float x, float y) {
            by_x[j] = add_rn(x, params.weight_offset);
            by_y[j] = add_rn(y, params.weight_offset);
        });
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            const float inverse = inverse_rms(sums[i], params.inverse_dim[TENSOR % 2], params.eps);
            group[i].map([&](int j, float& x, float& y) {
                x = mul_rn(mul_rn(x, inverse), by_x[j]);
                y = mul_rn(mul_rn(y, inverse), by_y[j]);
                if (channels.is_rotated) angles.rotate(j, x, y);
            });
        }
    }

    // All heads, as elements or 8-bit floats; `row` is at the first one's first channel. Without a policy: what comes next
    // reads them.
    ROPE_FN void convert(const AppendParams& params, Storage storage, char* row,
                         int64_t row_bytes) const {
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (!has(params, i)) continue;
            store_as(storage, group[i], row + i * row_bytes, channels.first, channels.partner,
                     [&] { return params.scale[TENSOR].inverse(scale[i]); });
        }
    }

    ROPE_FN void store_rows(const AppendParams& params, const TokenCoord& coord) const {
        const Target target = params.target[TENSOR];
        if (target == IN_PLACE) {
            const Policy policy(params.store_hint);
            const bool changed = channels.is_rotated || is_normalised(params);
#pragma unroll
            for (int i = 0; i < HEADS; ++i) {
                if (changed && has(params, i)) {
                    group[i].store(from + i * head_bytes, partner(), policy);
                }
            }
        } else if (target != NOWHERE) {
            // Not by `?:`, for which nvcc 12.4 takes the enumerator for an int.
            Storage storage = AS_ELEMENT;
            if (target == CONVERTED) storage = params.storage[TENSOR];
            const Rows& rows = params.dst[TENSOR % 2];
            convert(params, storage, rows.first + rows.offset(coord.b, coord.s, first),
                    params.heads_per_block * rows.head);
        }
    }

    ROPE_FN void locate_entry(const AppendParams& params, const Slot& slot) {
        const KvPages& pages = params.pages[TENSOR == VALUE];
        entry = pages.first + (slot.page * pages.page + slot.entry * pages.slot + first * pages.head);
    }

    ROPE_FN void store_cache(const AppendParams& params, const Slot& slot) const {
        if (!slot.is_stored) return;
        convert(params, params.storage[TENSOR], entry,
                params.heads_per_block * params.pages[TENSOR == VALUE].head);
    }
};

// Q heads of q, K of k and V of v; of a tensor that is not the block's, none.
//
// GENERAL: as the rotation's; slots by a page table, too.
template <class Element, bool JOINED, int BYTES, int Q, int K, int V, bool GENERAL>
struct Append {
    static constexpr int PAIRS = Pairs<Element, JOINED, BYTES>::PAIRS;
    static constexpr int SUMS = Q + K;
    static constexpr bool TURNS = SUMS > 0, STORES = K + V > 0;
    template <Tensor TENSOR, int HEADS>
    using Fragment = AppendFragment<TENSOR, Element, JOINED, BYTES, HEADS == 0 ? 1 : HEADS>;

    Fragment<QUERY, Q> q;
    Fragment<KEY, K> k;
    Fragment<VALUE, V> v;
    Angles<PAIRS> angles;
    TokenCoord coord;
    Ids::Halves id;
    Slot slot;
    bool is_inside, is_rotated;

    template <class F>
    ROPE_FN void each(F f) {
        if constexpr (Q > 0) f(q);
        if constexpr (K > 0) f(k);
        if constexpr (V > 0) f(v);
    }

    ROPE_FN void locate(const AppendParams& params, const Thread& at) {
        const uint32_t t = at.block_x * params.tokens_per_block + at.z;
        is_inside = t < params.tokens;
        // What lies beyond the last token reads what that one's position is, and no rows.
        coord.t = is_inside ? t : params.tokens - 1;
        coord.b = params.seq.divide(coord.t);
        coord.s = coord.t - coord.b * params.seq.value;
        coord.pair_offset = 0;
    }

    // Positions and steps come first: sine and cosine take long from there.
    ROPE_FN void load_token(const AppendParams& params, uint32_t pair) {
        is_rotated = pair < params.pairs;
        if constexpr (TURNS && !GENERAL) {
            id = params.positions.template load<false>(coord.b, coord.s);
            if (is_rotated) angles.load_steps(params.steps, pair);
        }
        if constexpr (STORES) slot.load(params.slots, coord.t);
    }

    ROPE_FN void locate_heads(const AppendParams& params, uint32_t slice, const Thread& at,
                              uint32_t pair) {
        PairChannels channels;
        // q and k have one shape where a block works on both.
        channels.locate(params.shape[Q > 0 ? QUERY : KEY], params.pair_step, pair);
        if constexpr (Q > 0) q.locate(params, slice, at, channels, coord, is_inside);
        if constexpr (K > 0) k.locate(params, slice, at, channels, coord, is_inside);
        if constexpr (V > 0) {
            channels.locate_unrotated(params.value_pairs, params.pair_step, pair);
            v.locate(params, slice, at, channels, coord, is_inside);
        }
    }

    // Sine and cosine, and the slot.
    ROPE_FN void prepare(const AppendParams& params, uint32_t pair) {
        const TokenPositions& positions = params.positions;
        each([&](auto& fragment) { fragment.load_constants(params); });
        if constexpr (STORES && GENERAL) {
            if (params.slots.width != 0) {
                slot.load_page(params.slots, positions.sequence(coord.t, coord.b),
                               positions.template position<true>(params.starts, coord.t, coord.b,
                                                                 coord.s));
            }
        }
        if (TURNS && is_rotated) {
            const float cos_factor = params.cos_factor, sin_factor = params.sin_factor;
            if constexpr (GENERAL) {
                turn<true>(params, coord, pair, cos_factor, sin_factor, angles);
            } else {
                angles.multiply(
                    positions.template position<false>(id, params.starts, coord.t, coord.s));
                angles.sin_cos(cos_factor, sin_factor);
            }
        }
        if constexpr (STORES) {
            slot.template resolve<GENERAL>(params.slots);
            // With several heads a thread there is time for it now; with one, at a token or two, there is none.
            if constexpr (Q > 0) locate_entries(params);
        }
    }

    ROPE_FN void locate_entries(const AppendParams& params) {
        if constexpr (K > 0) k.locate_entry(params, slot);
        if constexpr (V > 0) v.locate_entry(params, slot);
    }

    ROPE_FN void load(const AppendParams& params) {
        each([&](auto& fragment) { fragment.load(params); });
    }

    // As far as the sums of q's heads and then of k's.
    ROPE_FN void begin(const AppendParams& params, const Thread& at, uint32_t slice, float* sums) {
        const uint32_t pair = at.x * PAIRS;
        locate(params, at);
        // As in the rotation: sine and cosine hide behind the loads, or behind the kernel before.
        const bool early = params.pdl == POSITIONS_READY;
        if (params.pdl == ON) {
            launch_dependent_grids();
            wait_on_dependent_grids();
        }
        locate_heads(params, slice, at, pair);
        if (!early) load(params);
        load_token(params, pair);
        prepare(params, pair);
        if (early) {
            launch_dependent_grids();
            wait_on_dependent_grids();
            load(params);
        }
#pragma unroll
        for (int i = 0; i < Q; ++i) sums[i] = q.squares(i);
#pragma unroll
        for (int i = 0; i < K; ++i) sums[Q + i] = k.squares(i);
    }

    ROPE_FN void end(const AppendParams& params, const float* sums) {
        if constexpr (STORES && Q == 0) locate_entries(params);
        if constexpr (Q > 0) {
            q.transform(params, sums, angles);
            q.store_rows(params, coord);
        }
        if constexpr (K > 0) {
            k.transform(params, sums + Q, angles);
            k.store_rows(params, coord);
            k.store_cache(params, slot);
        }
        if constexpr (V > 0) v.store_cache(params, slot);
    }
};

// Which tensor a block works on where they are apart, and which slice of it.
ROPE_FN Tensor tensor_of(const AppendParams& params, uint32_t& slice) {
    if (slice < params.q_slices) return QUERY;
    slice -= params.q_slices;
    if (slice < params.k_slices) return KEY;
    slice -= params.k_slices;
    return VALUE;
}

#ifdef __CUDACC__

template <class Work>
ROPE_FN void append_work(const AppendParams& params, const Thread& at, uint32_t slice,
                         float* shared) {
    Work work;
    float sums[Work::SUMS + 1];
    work.begin(params, at, slice, sums);
    if constexpr (Work::SUMS > 0) {
        if (params.has_norm()) {
            const uint32_t thread = (at.z * params.heads_per_block + at.y) * at.width + at.x;
            row_sums<Work::SUMS>(sums, at.width, thread, shared);
        }
    }
    work.end(params, sums);
}

// Q, K and V heads together; or, where K and V are 0, Q heads of any tensor.
template <class Element, bool JOINED, int BYTES, int Q, int K, int V, bool GENERAL>
ROPE_FN void append_thread(const AppendParams& params, const Thread& at, float* shared) {
    uint32_t slice = at.block_y;
    if constexpr (K + V > 0) {
        append_work<Append<Element, JOINED, BYTES, Q, K, V, GENERAL>>(params, at, slice, shared);
    } else {
        switch (tensor_of(params, slice)) {
            case QUERY:
                return append_work<Append<Element, JOINED, BYTES, Q, 0, 0, GENERAL>>(
                    params, at, slice, shared);
            case KEY:
                return append_work<Append<Element, JOINED, BYTES, 0, Q, 0, GENERAL>>(
                    params, at, slice, shared);
            case VALUE:
                return append_work<Append<Element, JOINED, BYTES, 0, 0, Q, GENERAL>>(
                    params, at, slice, shared);
        }
    }
}

#endif

}  // namespace rope
