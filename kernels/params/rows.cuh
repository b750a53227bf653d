// Where the rows of a tensor lie.
#pragma once

#include "../arith.cuh"

namespace rope {

// A row a head. They count from the first rotated channel of the first one; strides are bytes.
struct Rows {
    char* first;
    int64_t batch, token, head;

    ROPE_FN int64_t offset(uint32_t b, uint32_t s, uint32_t h) const {
        return b * batch + s * token + h * head;
    }
};

// Channels on either side of the rotated ones that a rotation out of place copies (HF: q_pass).
struct PassThrough {
    uint32_t before, after;
};

}  // namespace rope
