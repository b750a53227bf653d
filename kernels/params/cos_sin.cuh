// The parameters of the kernel that writes the cos/sin table.
#pragma once

#include "rows.cuh"

namespace rope {

// src/plan/params.rs mirrors it; the tests compare every field's offset.
struct CosSinParams {
    const uint64_t* steps;      // 2^-64 turns per position, one a pair; 16-byte aligned
    int64_t start;              // the first row's position
    uint32_t rows;              // below 2^31
    uint16_t pair_stride;       // bytes from one pair's first channel to the next one's
    uint16_t partner;           // bytes from a pair's first channel to its second
    float cos_factor;           // the scaling's factor
    float sin_factor;           // the same, negative for a rope that rotates backwards
    uint64_t row_stride;        // bytes
    char* cos;
    char* sin;
    uint32_t rows_per_block;    // the block's extent in z
    uint32_t reserved;
};

}  // namespace rope
