// The parameters of norm, rotation and append.
#pragma once

#include "../memory.cuh"
#include "../pdl.cuh"
#include "positions.cuh"
#include "rows.cuh"

namespace rope {

// The tensors of a call, as its arrays have them.
enum Tensor : uint32_t { QUERY = 0, KEY = 1, VALUE = 2 };

// What elements become where they are stored.
enum Storage : uint8_t {
    AS_ELEMENT = 0,  // the rows' own type
    AS_E4M3 = 1,
    AS_E5M2 = 2,
};

// Whether a tensor's rows are stored, apart from the cache.
enum Target : uint8_t {
    NOWHERE = 0,
    IN_PLACE = 1,   // where they were read; of a head that is not normalised, its rotated channels alone
    ELSEWHERE = 2,  // dst
    CONVERTED = 3,  // q alone: dst, of another type
};

// Which pairs a head has: the rotated ones, then the others in order, those before the rotated channels and those
// behind them.
struct HeadShape {
    uint16_t before;  // channels before the rotated ones
    uint16_t pairs;   // rotated pairs
    uint16_t rest;    // other pairs
    uint16_t reserved;
};

// A cache of one of k and v. Strides are bytes.
struct KvPages {
    char* first;  // page 0, slot 0, head 0, channel 0
    int64_t page, slot, head;
};

// What a stored element is multiplied by: the reciprocal of a scale.
struct Scale {
    const float* first;  // scales in memory; null: none
    uint32_t stride;     // floats from one head's to the next one's, 0 for one of all heads
    float reciprocal;    // where there are none in memory

    ROPE_FN float load(uint32_t head) const {
        return first == nullptr ? reciprocal : first[static_cast<uint64_t>(head) * stride];
    }
    ROPE_FN float inverse(float loaded) const { return first == nullptr ? loaded : rcp_rn(loaded); }
};

// Where a token of k and v is stored: slot s is entry s % page_size of page s / page_size.
struct SlotMapping {
    Ids ids;              // one a token: its slot. Or, with a width, rows of a page table: pages
    uint32_t first;       // the first slot that is not reserved
    uint32_t count;       // of slots from there on: below 2^31
    uint32_t tokens;      // that have an id: the others are not stored. 0 with a table
    uint32_t width;       // pages of a row of the table; 0: no table
    uint64_t row_stride;  // bytes from one sequence's row of the table to the next one's
    Divisor page_size;
    uint32_t reserved;
};

// By value: see params/rotate.cuh on the order of fields, which is that of need by lines of 64 bytes.
// src/plan/params.rs mirrors it; the tests compare every field's offset.
struct AppendParams {
    const uint64_t* steps;         // as the rotation's
    Divisor seq;                   // tokens per sequence
    uint32_t tokens;               // below 2^31
    uint32_t pdl;                  // a Pdl
    uint16_t pairs;                // that rotate
    uint16_t heads_per_block;      // rows of heads that a block takes: its extent in y
    uint16_t tokens_per_block;     // and in z
    uint16_t q_slices;             // tensors apart: blocks in y that work on q
    uint16_t k_slices;             // and on k; the others work on v
    uint16_t pair_step;            // channels from a pair's first to the next one's: 2 where interleaved, else 1
    L2Hint load_hint[2];           // of q; of k and v

    uint16_t heads[3];             // of q, k and v
    Target target[3];
    Storage storage[3];            // of q's rows, of k's and v's caches
    uint8_t normalised[2];         // q, k
    uint16_t value_pairs;          // of a head of v
    HeadShape shape[2];            // of q and k
    Rows src[3];                   // from channel 0

    float eps;
    float inverse_dim[2];          // 1 / head_dim of q and k
    float weight_offset;           // what is added to weights: 1, or -0, which changes none
    float cos_factor, sin_factor;  // as the rotation's
    L2Hint store_hint;             // of rows
    uint32_t reserved;
    const char* weight[2];         // of q and k
    TokenPositions positions;
    SlotMapping slots;
    Ids starts;                    // of ragged positions
    FrequencySets sets;
    KvPages pages[2];              // k, v
    Scale scale[3];                // of q's rows, of k's and v's caches
    Rows dst[2];                   // of q and k
    Axes axes;

    ROPE_FN bool has_norm() const { return normalised[QUERY] || normalised[KEY]; }
};

}  // namespace rope
