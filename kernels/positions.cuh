// Where a token's position comes from. Every i64 is a valid position.
#pragma once

#include "platform.cuh"

namespace rope {

// Token t of the launch is token s of sequence b: t = b * seq + s.
//
// All kinds of positions but ragged ones are a value, a start and a count:
//   ids            values[b * seq + s]      (or values[s], where all sequences share a row)
//   consecutive    start + s
//   starts         values[b] + s
// Ragged ones find the sequence i that holds token t: values[i] + t - cu_seqlens[i].
//
// M-RoPE has three values a token, `axis_stride` apart, and each pair turns by one of them.
enum Axes : uint32_t {
    ONE = 0,
    BLOCKS = 1,       // the first axis up to pair sections[0], the second up to sections[1], the third
    INTERLEAVED = 2,  // in turn: the second below pair sections[0], the third below sections[1]
};

struct Positions {
    const void* values;         // null: zeros
    const int32_t* cu_seqlens;  // [sequences + 1], ascending; null where not ragged
    int64_t start;
    uint32_t batch_stride, token_stride;  // of values, in elements
    uint32_t counts;                      // 1: add s
    uint32_t sequences;                   // of cu_seqlens, at least 1
    uint32_t wide;                        // values are i64, else i32
    uint32_t axes;                        // an Axes
    uint32_t axis_stride;                 // of values, in elements
    uint32_t sections[2];
    uint32_t reserved;

    ROPE_FN uint64_t value(uint64_t index) const {
        if (values == nullptr) return 0;
        return static_cast<uint64_t>(
            wide ? static_cast<const int64_t*>(values)[index]
                 : static_cast<int64_t>(static_cast<const int32_t*>(values)[index]));
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

    // The axis of a pair.
    ROPE_FN uint32_t axis(uint32_t pair) const {
        if (axes == BLOCKS) return (pair >= sections[0]) + (pair >= sections[1]);
        const uint32_t turn = pair % 3;
        return turn != 0 && pair < sections[turn - 1] ? turn : 0;
    }

    // The position of a token along an axis, where it has several.
    ROPE_FN uint64_t along(uint32_t axis, uint32_t b, uint32_t s) const {
        return value(static_cast<uint64_t>(axis) * axis_stride +
                     static_cast<uint64_t>(b) * batch_stride + s * token_stride);
    }

    // Two's complement: sums wrap.
    ROPE_FN uint64_t position(uint32_t t, uint32_t b, uint32_t s) const {
        if (cu_seqlens != nullptr) {
            const uint32_t i = sequence_of(t);
            return value(i) + t - static_cast<uint64_t>(static_cast<int64_t>(cu_seqlens[i]));
        }
        const uint64_t index = static_cast<uint64_t>(b) * batch_stride + s * token_stride;
        return value(index) + static_cast<uint64_t>(start) + s * counts;
    }
};

}  // namespace rope
