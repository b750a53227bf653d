// The rotation's parameters.
#pragma once

#include "../memory.cuh"
#include "../pdl.cuh"
#include "positions.cuh"
#include "rows.cuh"

namespace rope {

// By value, through the constant bank, which is cold in every launch: the first use of a line of 64 bytes
// costs a tenth of a microsecond (H100), one line after the other. So fields that every thread needs
// fill the first three lines, in the order of need: on sm_90 the parameters begin 48 bytes before the
// end of a line. src/plan/params.rs mirrors it; the tests compare every field's offset.
struct RotateParams {
    // 2^-64 turns per position, one a pair; 16-byte aligned. Set by set, each with its factor's bits
    // as its last word.
    const uint64_t* steps;
    Divisor seq;                // tokens per sequence
    uint32_t tokens;            // below 2^31
    uint16_t pair_stride;       // bytes from one pair's first channel to the next one's
    uint16_t partner;           // bytes from a pair's first channel to its second
    Pdl pdl;
    L2Hint load_hint;
    uint32_t heads_per_block;   // rows of heads that a block takes: its extent in y
    uint16_t tokens_per_block;  // and in z
    uint16_t q_slices;          // q and k apart: blocks in y that work on q; the others work on k
    uint16_t heads[2];          // of q and k

    Rows src[2];                // q and k

    TokenPositions positions;
    float cos_factor;           // the scaling's factor; 1 where each set has its own
    float sin_factor;           // the same, negative to rotate backwards
    L2Hint store_hint;
    uint16_t in_place[2];       // 1: dst is src

    FrequencySets sets;
    Axes axes;

    Ids starts;                 // of ragged positions
    Rows dst[2];
    PassThrough pass_through[2];
    uint32_t pairs;             // half the rotated channels
    uint32_t reserved;
};

}  // namespace rope
