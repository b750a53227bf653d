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

// The same of tokens in one run, where strides fit 32 bits.
struct FlatRows {
    char* first;
    uint32_t token, head;

    ROPE_FN uint64_t offset(uint32_t t, uint32_t h) const {
        return static_cast<uint64_t>(t) * token + static_cast<uint64_t>(h) * head;
    }
};

// Channels on either side of the rotated ones that a rotation out of place copies (HF: q_pass).
struct PassThrough {
    uint32_t before, after;
};

}  // namespace rope
