// The parameters of a rotation in place of tokens that lie in one run.
#pragma once

#include "../memory.cuh"
#include "positions.cuh"

namespace rope {

// By value: see params/rotate.cuh on the order of fields. Two lines of the constant bank hold all of them, and the first
// of them what the loads of q and k need, but for the number of tokens. src/plan/params.rs mirrors it; the tests compare
// every field's offset.
struct FlatParams {
    // q and k: the first rotated channel of the first token's head 0. A list numbers k's heads on from q's.
    uint64_t first[2];
    uint32_t token[2];          // bytes from one token to the next
    uint32_t head[2];           // bytes from one head to the next
    uint16_t end[2];            // the number behind the last head's; 0: no such tensor
    uint16_t q_slices;          // q and k apart: blocks in y that work on q; the others work on k
    uint16_t partner;           // bytes from a pair's first channel to its second
    uint16_t heads_per_block;   // rows of heads that a block takes: its extent in y
    uint16_t tokens_per_block;  // and in z
    L2Hint load_hint;

    uint32_t tokens;            // below 2^31
    uint32_t counts;            // 1: a token's number is added to its id
    const uint64_t* steps;      // as the rotation's
    Ids ids;                    // one a token
    int64_t start;              // is added to each
    float cos_factor;           // the scaling's factor
    float sin_factor;           // the same, negative to rotate backwards
    L2Hint store_hint;
    uint32_t heads_per_round;   // that a token's blocks take before they go on
};

}  // namespace rope
