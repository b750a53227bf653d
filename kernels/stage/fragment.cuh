// The pairs of a few heads that one thread owns: located, loaded, rotated, stored.
#pragma once

#include "../memory.cuh"
#include "../params/rows.cuh"
#include "../vec.cuh"
#include "angles.cuh"

namespace rope {

// A thread's token, and its pairs.
struct TokenCoord {
    uint32_t t, b, s;      // token of the launch, sequence, token of the sequence
    uint32_t pair_offset;  // bytes from a row's first rotated channel to the thread's first pair
};

// How many heads a tensor has, and how far apart a thread's own are: references into the kernel's
// parameters, which are read from the constant bank at each use, where copies would take registers.
struct HeadRange {
    const uint16_t& heads;
    const uint32_t& step;
};

// HEADS heads of one tensor: every `step`-th from `first` on, as far as there are.
template <class Element, bool JOINED, int BYTES, int HEADS>
struct HeadFragment {
    using Group = Pairs<Element, JOINED, BYTES>;

    Group group[HEADS];
    uint32_t first;      // head
    int64_t offset;      // bytes from the tensor's first row to the thread's first pair
    int64_t head_bytes;  // bytes from one of the thread's heads to the next

    ROPE_FN bool has(int i, const HeadRange& range) const {
        return first + i * range.step < range.heads;
    }

    // Offsets, which need not wait for anything.
    ROPE_FN void locate(const Rows& rows, const HeadRange& range, const TokenCoord& coord,
                        uint32_t first_head) {
        first = first_head;
        offset = rows.offset(coord.b, coord.s, first) + coord.pair_offset;
        head_bytes = range.step * rows.head;
    }

    ROPE_FN void load(const Rows& rows, const HeadRange& range, const uint16_t& partner,
                      const L2Hint& hint) {
        const char* from = rows.first + offset;
        const Policy policy(hint);
#pragma unroll
        for (int i = 0; i < HEADS; ++i) {
            if (has(i, range)) group[i].load(from + i * head_bytes, partner, policy);
        }
    }

    // Rounded once to Element.
    ROPE_FN void rotate(int i, const Angles<Group::PAIRS>& angles) {
        group[i].map([&](int j, float& x, float& y) { angles.rotate(j, x, y); });
    }
};

}  // namespace rope
