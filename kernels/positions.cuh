// Where a token's position comes from. Every i64 is a valid position.
#pragma once

#include "platform.cuh"

namespace rope {

enum PositionKind : uint32_t {
    CONSECUTIVE = 0,  // start + s, the same in every sequence of the batch
    IDS = 1,          // values[b * batch_stride + s]
    STARTS = 2,       // values[b] + s
    RAGGED = 3,       // values[i] + t - cu_seqlens[i], for the i that holds token t
};

// Token t of the launch is token s of sequence b: t = b * seq + s.
struct Positions {
    const void* values;         // ids or starts; null starts are zeros
    const int32_t* cu_seqlens;  // [sequences + 1], ascending
    int64_t start;
    uint32_t batch_stride;  // elements: seq, or 0 where all sequences share one row of ids
    uint32_t sequences;     // of cu_seqlens, at least 1
    uint32_t kind;
    uint32_t wide;  // values are i64, else i32

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

    // Two's complement: sums wrap.
    ROPE_FN uint64_t position(uint32_t t, uint32_t b, uint32_t s) const {
        switch (kind) {
            case IDS: return value(static_cast<uint64_t>(b) * batch_stride + s);
            case STARTS: return value(b) + s;
            case RAGGED: {
                const uint32_t i = sequence_of(t);
                return value(i) + t - static_cast<uint64_t>(static_cast<int64_t>(cu_seqlens[i]));
            }
            default: return static_cast<uint64_t>(start) + s;
        }
    }
};

}  // namespace rope
