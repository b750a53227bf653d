// Where a token's position comes from. Every i64 is a valid position.
#pragma once

#include "../memory.cuh"

namespace rope {

// A list of i32, i64 or u32 in memory.
//
// GENERAL: for the general kernels, which know all three. The others know signed ids alone, which takes one
// comparison; with the selector they would take up to 27 instructions more (sm_90).
struct Ids {
    const char* first;
    uint32_t stride;  // bytes from one to the next
    // Bytes from an id's lower word to its upper one: 4, or 0 where it has none. For the general kernels
    // also, from bit 8 on, a selector of `permute_bytes` that makes the upper word of what lies there:
    // itself, an i32's sign, or zero for a u32.
    uint32_t upper;

    // An id as it is loaded. Its value waits for memory; until it is asked for, other loads go out.
    struct Halves {
        uint32_t low, high;
    };
    template <bool GENERAL>
    ROPE_FN Halves load(uint64_t offset) const {
        const char* id = first + offset;
        return {*reinterpret_cast<const uint32_t*>(id),
                *reinterpret_cast<const uint32_t*>(id + (GENERAL ? upper & 4 : upper))};
    }
    template <class Offset>
    ROPE_FN Halves load_if(bool asked, Offset offset) const {
        const char* id = first + offset;
        Raw<4> low = {}, high = {};
        rope::load_if<4>(asked, low, id);
        rope::load_if<4>(asked, high, id + upper);
        return {low.word[0], high.word[0]};
    }
    template <bool GENERAL>
    ROPE_FN uint64_t value(const Halves& id) const {
        uint32_t high;
        if constexpr (GENERAL) {
            high = permute_bytes(id.high, upper >> 8);
        } else {
            high = static_cast<uint32_t>(static_cast<int32_t>(id.high) >> (upper == 0 ? 31 : 0));
        }
        return static_cast<uint64_t>(high) << 32 | id.low;
    }
    template <bool GENERAL>
    ROPE_FN uint64_t at(uint32_t i) const {
        return value<GENERAL>(load<GENERAL>(static_cast<uint64_t>(i) * stride));
    }
};

// Token t of the launch is token s of sequence b: t = b * seq + s.
//
// Its position is an id, a start and a count, whatever they are, so that kernels need not ask:
//   ids            ids[b * row_stride + s]
//   consecutive    start + s             (and an id that is zero)
//   starts         ids[b] + s
// Ragged ones add what is known of the sequence i that holds token t, which must be found:
//   ragged         s + starts[i] - cu_seqlens[i]
struct TokenPositions {
    Ids ids;
    uint64_t row_stride;  // bytes from one sequence's ids to the next one's
    int64_t start;
    const int32_t* cu_seqlens;  // [sequences + 1], ascending; null where not ragged
    uint32_t sequences;         // of cu_seqlens, at least 1
    uint32_t counts;            // 1: add s

    ROPE_FN uint64_t offset(uint32_t b, uint32_t s) const {
        return b * row_stride + static_cast<uint64_t>(s) * ids.stride;
    }

    // The last sequence that begins at or before token t: whatever cu_seqlens holds, a valid index.
    ROPE_FN uint32_t sequence_of(uint32_t t) const {
        uint32_t low = 0, high = sequences;
        while (high - low > 1) {
            const uint32_t middle = low + (high - low) / 2;
            if (cu_seqlens[middle] <= static_cast<int32_t>(t)) {
                low = middle;
            } else {
                high = middle;
            }
        }
        return low;
    }

    // The sequence of token t: b, or, where they are ragged, the one to be found.
    ROPE_FN uint32_t sequence(uint32_t t, uint32_t b) const {
        return cu_seqlens != nullptr ? sequence_of(t) : b;
    }

    // A token's id, whose value waits for memory.
    template <bool GENERAL>
    ROPE_FN Ids::Halves load(uint32_t b, uint32_t s) const {
        return ids.load<GENERAL>(offset(b, s));
    }
    // Its position. Two's complement: sums wrap.
    template <bool GENERAL>
    ROPE_FN uint64_t position(const Ids::Halves& id, const Ids& starts, uint32_t t,
                              uint32_t s) const {
        uint64_t from = static_cast<uint64_t>(start) + s * counts;
        if (cu_seqlens != nullptr) {
            const uint32_t i = sequence_of(t);
            from += starts.at<GENERAL>(i) - static_cast<uint64_t>(static_cast<int64_t>(cu_seqlens[i]));
        }
        return ids.value<GENERAL>(id) + from;
    }
    template <bool GENERAL>
    ROPE_FN uint64_t position(const Ids& starts, uint32_t t, uint32_t b, uint32_t s) const {
        return position<GENERAL>(load<GENERAL>(b, s), starts, t, s);
    }
};

// Token t's position in a run, by its id and what a flat kernel's Params say: see TokenPositions.
template <class Params>
ROPE_FN uint64_t position_in_run(const Params& params, const Ids::Halves& id, uint32_t t) {
    return params.ids.template value<false>(id) + (static_cast<uint64_t>(params.start) + t * params.counts);
}

// M-RoPE and its kin: several ids a token, and each pair turns by one of them.
struct Axes {
    static constexpr int MAX = 4;
    static constexpr uint32_t PAIRS_A_WORD = 16;

    uint32_t count;      // 0: one position a token
    uint32_t reserved;
    // Bytes from the first axis' ids to the others'; 0 of axes that there are not. Three axes of 64 pairs
    // need no more than the line of the constant bank that begins with the sets.
    uint64_t second, third;
    uint32_t codes[32];  // each pair's axis, two bits a pair
    uint64_t fourth;

    ROPE_FN uint64_t offset(int axis) const {
        return axis == 0 ? 0 : axis == 1 ? second : axis == 2 ? third : fourth;
    }

    // The axes of the pairs of its word from this one on, the first one's in the lowest bits.
    ROPE_FN uint32_t from(uint32_t pair) const {
        return codes[pair / PAIRS_A_WORD] >> pair % PAIRS_A_WORD * 2;
    }
};

// Which of several sets of frequencies each sequence turns by.
struct FrequencySets {
    Ids ids;          // one a sequence; null: the first set for all
    uint32_t stride;  // u64 from one set to the next
    uint32_t last;    // the last set: what an id beyond it, or below zero, means

    ROPE_FN uint32_t set(uint32_t sequence) const {
        const uint64_t id = ids.at<true>(sequence);
        return id < last ? static_cast<uint32_t>(id) : last;
    }
};

}  // namespace rope
