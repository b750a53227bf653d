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
//   grid    x: tiles of tokens                    y: slices of heads, each of q, of k or of v
//   or, of several heads a thread,
//           y and z: tiles of tokens              x: slices of heads
//
// By slices, a token's blocks run at about one time: q, k and v of a token are often one run of memory, and DRAM likes those
// (8192 tokens of 32 + 8 + 8 heads of 128: 70.5 us for 73.9, H100). Few tokens are up to 10 % faster by tiles.
#pragma once

#include <type_traits>

#include "norm.cuh"
#include "params/append.cuh"
#include "stage/fragment.cuh"
#include "stage/slot.cuh"
#include "stage/store_as.cuh"
#include "stage/turn.cuh"

namespace rope {

// What a launch has to choose from, and the Params that say it. FLAT has half the branches and half the parameters: 9 to 15 %
// less time from 1 token to 2048 (H100).
enum class AppendForm {
    FLAT,     // see FlatAppendParams
    STRIDED,  // any strides, and other targets
    GENERAL,  // as the rotation's; and slots by a page table
};
template <AppendForm FORM>
struct ParamsOf {
    using Type = AppendParams;
};
template <>
struct ParamsOf<AppendForm::FLAT> {
    using Type = FlatAppendParams;
};

// How the grid counts blocks. src/plan/variant.rs knows it too.
template <int HEADS>
constexpr bool BY_SLICES = HEADS > 1;

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
template <AppendForm FORM, Tensor TENSOR, class Element, bool JOINED, int BYTES, int HEADS>
class Append {
public:
    using Params = typename ParamsOf<FORM>::Type;
    using Group = Pairs<Element, JOINED, BYTES>;
    static constexpr int PAIRS = Group::PAIRS;
    static constexpr bool TURNS = TENSOR != VALUE, STORES = TENSOR != QUERY;
    // Sums that lanes meet for.
    static constexpr int SUMS = TURNS ? HEADS : 0;
    // Scales are asked for with the weights, but of four heads, which fit 80 registers without, for the stores.
    static constexpr bool KEEPS_SCALES = HEADS <= 2;

    // As far as the sums of heads' squares. As in the rotation: sine and cosine hide behind the loads, or behind the kernel
    // before.
    ROPE_FN void begin(const Params& params, Pdl pdl, const Thread& at, uint32_t slice, float* sums) {
        const uint32_t pair = at.x * PAIRS;
        if (pdl == ON) {
            launch_dependent_grids();
            wait_on_dependent_grids();
        }
        locate(params, at, slice);
        if (pdl != POSITIONS_READY) load(params);
        load_token(params, pair);
        prepare(params, pair);
        if (pdl == POSITIONS_READY) {
            launch_dependent_grids();
            wait_on_dependent_grids();
            load(params);
        }
#pragma unroll
        for (int i = 0; i < SUMS; ++i) sums[i] = squares(i);
    }

    ROPE_FN void end(const Params& params, const float* sums) {
        if constexpr (STORES) locate_entry(params);
        if constexpr (TURNS) {
            transform(params, sums);
            store_rows(params);
        }
        if constexpr (STORES) store_cache(params);
    }

private:
    ROPE_FN static bool is_normalised(const Params& params) {
        return TURNS && params.normalised[TENSOR % 2];
    }
    // Bytes from a pair's first channel to its second.
    ROPE_FN uint32_t partner() const { return channels.partner * Element::BYTES; }
    ROPE_FN uint32_t head(const Params& params, int i) const {
        return first + i * params.heads_per_block;
    }
    ROPE_FN bool has(const Params& params, int i) const {
        return channels.is_there && is_inside && head(params, i) < params.heads[TENSOR];
    }
    // The thread's first channel of head i. The step is worked out each time, which takes no registers meanwhile.
    ROPE_FN char* row(const Params& params, int i) const {
        const uint64_t heads = params.heads_per_block;
        return from + i * static_cast<int64_t>(heads * params.src[TENSOR].head);
    }
    // What head i's elements are multiplied by where they become 8-bit floats.
    ROPE_FN float inverse_scale(const Params& params, int i) const {
        const Scale& of = params.scale[TENSOR];
        return of.inverse(KEEPS_SCALES ? scale[i] : of.load(head(params, i)));
    }

    ROPE_FN void locate(const Params& params, const Thread& at, uint32_t slice) {
        const uint32_t t = at.tile * params.tokens_per_block + at.z;
        is_inside = t < params.tokens;
        // What lies beyond the last token reads what that one's position is, and no rows.
        coord.t = is_inside ? t : params.tokens - 1;
        first = slice * HEADS * params.heads_per_block + at.y;
        const auto& rows = params.src[TENSOR];
        const uint32_t pair = at.x * PAIRS;
        uint32_t step;
        uint64_t offset;
        if constexpr (FORM == AppendForm::FLAT) {
            step = JOINED ? 2 : 1;
            coord.b = 0;
            coord.s = coord.t;
            offset = rows.offset(coord.t, first);
        } else {
            step = params.pair_step;
            coord.b = params.seq.divide(coord.t);
            coord.s = coord.t - coord.b * params.seq.value;
            offset = rows.offset(coord.b, coord.s, first);
        }
        if constexpr (TURNS) {
            channels.locate(params.shape_of(TENSOR), step, pair);
        } else {
            channels.locate_unrotated(params.value_pairs, step, pair);
        }
        from = rows.first + offset + channels.first * Element::BYTES;
    }

    ROPE_FN void load(const Params& params) {
        const Policy policy(params.load_hint[TENSOR != QUERY]);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            group[i] = {};
            if (has(params, i)) group[i].load(row(params, i), partner(), policy);
        }
    }

    // Positions and steps come first: sine and cosine take long from there.
    ROPE_FN void load_token(const Params& params, uint32_t pair) {
        if constexpr (TURNS && FORM != AppendForm::GENERAL) {
            if constexpr (FORM == AppendForm::FLAT) {
                id = params.ids.template load<false>(static_cast<uint64_t>(coord.t) * params.ids.stride);
            } else {
                id = params.positions.template load<false>(coord.b, coord.s);
            }
            if (channels.is_rotated) angles.load_steps(params.steps, pair);
        }
        if constexpr (STORES) slot.load(params.slots, coord.t);
    }

    // What no kernel before this one writes, by the caller's promise where positions are ready.
    ROPE_FN void load_constants(const Params& params) {
        if (is_normalised(params) && channels.is_there) {
            weight.load(params.weight[TENSOR % 2] + channels.first * Element::BYTES, partner());
        }
        if (KEEPS_SCALES && params.storage_of(TENSOR) != AS_ELEMENT) {
#pragma unroll
            for (int i = 0; i < HEADS; ++i) {
                const uint32_t h = head(params, i);
                scale[i] = h < params.heads[TENSOR] ? params.scale[TENSOR].load(h) : 1.0f;
            }
        }
    }

    // Sine and cosine, and the slot.
    ROPE_FN void prepare(const Params& params, uint32_t pair) {
        load_constants(params);
        bool by_table = false;
        if constexpr (STORES && FORM == AppendForm::GENERAL) {
            const TokenPositions& positions = params.positions;
            by_table = params.table.width != 0;
            if (by_table) {
                slot.load_page(params.slots, params.table, positions.sequence(coord.t, coord.b),
                               positions.template position<true>(params.starts, coord.t, coord.b,
                                                                 coord.s));
            }
        }
        if (TURNS && channels.is_rotated) {
            const float cos_factor = params.cos_factor, sin_factor = params.sin_factor;
            if constexpr (FORM == AppendForm::GENERAL) {
                turn<true>(params, coord, pair, cos_factor, sin_factor, angles);
            } else {
                if constexpr (FORM == AppendForm::FLAT) {
                    angles.multiply(position_in_run(params, id, coord.t));
                } else {
                    angles.multiply(params.positions.template position<false>(id, params.starts,
                                                                              coord.t, coord.s));
                }
                angles.sin_cos(cos_factor, sin_factor);
            }
        }
        if constexpr (STORES) slot.resolve(params.slots, by_table);
    }

    // What the thread adds to the sum of head i's squares.
    ROPE_FN float squares(int i) const {
        float square[PAIRS];
        group[i].each([&](int j, float x, float y) { square[j] = pair_square(x, y); });
#pragma unroll
        for (int step = 1; step < PAIRS; step *= 2) {
#pragma unroll
            for (int j = 0; j < PAIRS; j += 2 * step) {
                square[j] = add_rn(square[j], square[j + step]);
            }
        }
        return square[0];
    }

    // Norms of all heads, by the sums of their squares, and rotations; rounded once.
    ROPE_FN void transform(const Params& params, const float* sums) {
        if (!is_normalised(params)) {
            if (!channels.is_rotated) return;
#pragma unroll
            for (int i = 0; i < HEADS; ++i) {
                group[i].map([&](int j, float& x, float& y) { angles.rotate(j, x, y); });
            }
            return;
        }
        float by_x[PAIRS], by_y[PAIRS];
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

    // All heads, as elements or 8-bit floats; `to` is at the first one's first channel. Without a policy: what comes next
    // reads them.
    ROPE_FN void convert(const Params& params, Storage storage, char* to, int64_t head_bytes) const {
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (!has(params, i)) continue;
            store_as(storage, group[i], to + i * head_bytes, channels.first, channels.partner,
                     [&] { return inverse_scale(params, i); });
        }
    }

    ROPE_FN void store_rows(const Params& params) const {
        const Target target = params.target_of(TENSOR);
        if (target == IN_PLACE) {
            const Policy policy(params.store_hint);
            const bool changed = channels.is_rotated || is_normalised(params);
#pragma unroll
            for (int i = 0; i < HEADS; ++i) {
                if (changed && has(params, i)) {
                    group[i].store(row(params, i), partner(), policy);
                }
            }
            return;
        }
        if constexpr (FORM != AppendForm::FLAT) {
            if (target == NOWHERE) return;
            // Not by `?:`, for which nvcc 12.4 takes the enumerator for an int.
            Storage storage = AS_ELEMENT;
            if (target == CONVERTED) storage = params.storage[TENSOR];
            const Rows& rows = params.dst[TENSOR % 2];
            convert(params, storage, rows.first + rows.offset(coord.b, coord.s, first),
                    params.heads_per_block * rows.head);
        }
    }

    ROPE_FN void locate_entry(const Params& params) {
        const auto& pages = params.pages[TENSOR == VALUE];
        entry = pages.first + (static_cast<uint64_t>(slot.page) * pages.page +
                               static_cast<uint64_t>(slot.entry) * pages.slot +
                               static_cast<uint64_t>(first) * pages.head);
    }

    ROPE_FN void store_cache(const Params& params) const {
        if (!slot.is_stored) return;
        convert(params, params.storage_of(TENSOR), entry,
                static_cast<uint64_t>(params.heads_per_block) * params.pages[TENSOR == VALUE].head);
    }

    Group group[HEADS];
    Group weight;
    float scale[HEADS];
    PairChannels channels;
    Angles<PAIRS> angles;
    TokenCoord coord;
    Ids::Halves id;
    Slot slot;
    uint32_t first;  // head
    char* from;      // the thread's first channel of it
    char* entry;     // the first head in the cache
    bool is_inside;  // the token is one
};

// Which tensor a block works on, and which slice of it.
template <class Params>
ROPE_FN Tensor tensor_of(const Params& params, uint32_t& slice) {
    if (slice < params.q_slices) return QUERY;
    slice -= params.q_slices;
    if (slice < params.k_slices) return KEY;
    slice -= params.k_slices;
    return VALUE;
}

// The same as f(tensor, slice) with the tensor as a type, so that each has code of its own.
template <class Params, class F>
ROPE_FN void with_tensor(const Params& params, uint32_t slice, F f) {
    switch (tensor_of(params, slice)) {
        case QUERY: return f(std::integral_constant<Tensor, QUERY>{}, slice);
        case KEY: return f(std::integral_constant<Tensor, KEY>{}, slice);
        case VALUE: return f(std::integral_constant<Tensor, VALUE>{}, slice);
    }
}

// PDL of strided and general ones is the parameters'. Of flat ones there are kernels for launches that start early.
template <AppendForm FORM, bool EARLY>
ROPE_FN Pdl pdl_of(const typename ParamsOf<FORM>::Type& params) {
    if constexpr (FORM == AppendForm::FLAT) {
        if (!EARLY) return OFF;
        return params.waits ? ON : POSITIONS_READY;
    } else {
        return params.pdl;
    }
}

#ifdef __CUDACC__

template <AppendForm FORM, class Element, bool JOINED, int BYTES, int HEADS, bool EARLY>
ROPE_FN void append_thread(const typename ParamsOf<FORM>::Type& params, const Thread& at,
                           float* shared) {
    with_tensor(params, at.slice, [&](auto tensor, uint32_t slice) {
        using Work = Append<FORM, decltype(tensor)::value, Element, JOINED, BYTES, HEADS>;
        Work work;
        float sums[Work::SUMS + 1];
        work.begin(params, pdl_of<FORM, EARLY>(params), at, slice, sums);
        if constexpr (Work::SUMS > 0) {
            if (params.has_norm()) {
                const uint32_t thread =
                    (at.z * params.heads_per_block + at.y) * at.width + at.x;
                row_sums<Work::SUMS>(sums, at.width, thread, shared);
            }
        }
        work.end(params, sums);
    });
}

#endif

}  // namespace rope
