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

// The same where strides fit 32 bits.
struct FlatKvPages {
    char* first;
    uint32_t page, slot, head;
    uint32_t reserved;
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
    Ids ids;         // one a token: its slot. Or rows of a page table: pages
    uint32_t first;  // the first slot that is not reserved
    uint32_t count;  // of slots from there on: below 2^31
    uint32_t tokens; // that have an id: the others are not stored. 0 with a table
    Divisor page_size;
};

struct PageTable {
    uint64_t row_stride;  // bytes from one sequence's row to the next one's
    uint32_t width;       // pages of a row; 0: no table
    uint32_t reserved;
};

// Of tokens in one run, each with an id or the next position; heads of q and k rotate as a whole, and q in place.
//
// By value: see params/rotate.cuh on the order of fields, which is that of need by lines of 64 bytes. Blocks of q need three
// lines, those of k and v four; weights and scales lie in a fifth. src/plan/params.rs mirrors it; the tests compare every field's offset.
struct FlatAppendParams {
    uint32_t tokens;            // below 2^31
    uint16_t pairs;             // of a head of q or k
    uint16_t value_pairs;       // of a head of v
    uint16_t heads[3];          // of q, k and v
    uint16_t q_slices;          // blocks in y that work on q
    uint16_t k_slices;          // and on k; the others work on v
    uint16_t heads_per_block;   // rows of heads that a block takes: its extent in y
    uint16_t tokens_per_block;  // and in z
    uint8_t normalised[2];      // q, k
    Target key_target;          // NOWHERE or IN_PLACE
    Storage storage[3];         // of k's and v's caches; q's rows are of the element type
    L2Hint load_hint[2];        // of q; of k and v
    uint16_t counts;            // 1: a token's number is added to its id
    uint16_t waits;             // 1: a kernel of early launches waits before it reads those
    FlatRows src[3];
    Ids ids;                    // one a token
    int64_t start;              // is added to each

    const uint64_t* steps;      // as the rotation's
    float cos_factor;
    float sin_factor;
    SlotMapping slots;
    L2Hint store_hint;          // of rows
    float eps;

    FlatKvPages pages[2];       // k, v
    const char* weight[2];      // of q and k

    float inverse_dim[2];       // 1 / head_dim of q and k
    float weight_offset;        // what is added to weights: 1, or -0, which changes none
    uint32_t reserved;
    Scale scale[3];             // as `storage`

    ROPE_FN HeadShape shape_of(Tensor) const { return {0, pairs, 0, 0}; }
    ROPE_FN Storage storage_of(Tensor tensor) const {
        return tensor == QUERY ? AS_ELEMENT : storage[tensor];
    }
    ROPE_FN Target target_of(Tensor tensor) const {
        // Not by `?:`, for which nvcc 12.4 takes an enumerator for an int.
        if (tensor == QUERY || (tensor == KEY && key_target == IN_PLACE)) return IN_PLACE;
        return NOWHERE;
    }
    ROPE_FN bool has_norm() const { return normalised[QUERY] || normalised[KEY]; }
};

// Of any other.
struct AppendParams {
    const uint64_t* steps;         // as the rotation's
    Divisor seq;                   // tokens per sequence
    uint32_t tokens;               // below 2^31
    Pdl pdl;
    uint16_t pairs;                // that rotate
    uint16_t heads_per_block;      // as above
    uint16_t tokens_per_block;
    uint16_t q_slices;
    uint16_t k_slices;
    uint16_t pair_step;            // channels from a pair's first to the next one's: 2 where interleaved, else 1
    L2Hint load_hint[2];

    uint16_t heads[3];
    Target target[3];
    Storage storage[3];            // of q's rows, of k's and v's caches
    uint8_t normalised[2];
    uint16_t value_pairs;
    HeadShape shape[2];            // of q and k
    Rows src[3];                   // from channel 0

    float eps;
    float inverse_dim[2];
    float weight_offset;
    float cos_factor, sin_factor;
    L2Hint store_hint;
    uint32_t reserved;
    const char* weight[2];
    TokenPositions positions;
    SlotMapping slots;
    PageTable table;
    Ids starts;                    // of ragged positions
    FrequencySets sets;
    KvPages pages[2];
    Scale scale[3];                // of q's rows, of k's and v's caches
    Rows dst[2];                   // of q and k
    Axes axes;

    ROPE_FN HeadShape shape_of(Tensor tensor) const { return shape[tensor]; }
    ROPE_FN Storage storage_of(Tensor tensor) const { return storage[tensor]; }
    ROPE_FN Target target_of(Tensor tensor) const { return target[tensor]; }
    ROPE_FN bool has_norm() const { return normalised[QUERY] || normalised[KEY]; }
};

}  // namespace rope
